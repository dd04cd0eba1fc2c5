// The list of jobs: it keeps itself up to date while it is visible, and counts the selected jobs.

import { keepPolling } from "./connection.js";
import { mergePage } from "./merge.js";

/** Time between two polls while a job runs, and while none does, in milliseconds. */
const POLL_INTERVAL_MS = 2_000;
const REST_INTERVAL_MS = 5_000;

const list = document.getElementById("jobs");

const selected = () => [...list.querySelectorAll("[name=job]:checked")];

async function show(response) {
    await mergePage(response, ["jobs", "workersPill"]); // the header must not contradict the jobs
    showSelection();
}

function interval() {
    const isRunning = [...list.querySelectorAll("[data-state]")].some(({ dataset }) => dataset.state === "running");
    return isRunning ? POLL_INTERVAL_MS : REST_INTERVAL_MS;
}

/** Offer what can be done with the selected jobs: only running ones can be cancelled. */
function showSelection() {
    const form = document.getElementById("selected");
    if (!form) return;
    const jobs = selected();
    const running = jobs.filter((box) => box.closest("tr").dataset.state === "running");
    for (const button of form.querySelectorAll("[data-verb]")) {
        const count = button.dataset.verb === "Cancel" ? running.length : jobs.length;
        button.hidden = count === 0;
        button.textContent = `${button.dataset.verb} ${count} ${count === 1 ? "job" : "jobs"}`;
    }
    form.hidden = jobs.length === 0;
    const all = document.getElementById("all");
    const boxes = list.querySelectorAll("[name=job]");
    all.hidden = false;
    all.checked = jobs.length === boxes.length;
    all.indeterminate = jobs.length > 0 && !all.checked;
}

list.addEventListener("change", ({ target }) => {
    if (target.id === "all") for (const box of list.querySelectorAll("[name=job]")) box.checked = target.checked;
    showSelection();
});

showSelection();
keepPolling(location.href, show, interval);
