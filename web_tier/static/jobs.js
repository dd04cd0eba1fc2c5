// The list of jobs: it keeps itself up to date while it is visible, and counts the selected jobs.

import { keepPolling } from "./connection.js";

/** Time between two polls while a job runs, and while none does, in milliseconds. */
const POLL_INTERVAL_MS = 2_000;
const REST_INTERVAL_MS = 5_000;

const list = document.getElementById("jobs");

const tableBody = (root) => root.querySelector("tbody");
const selected = () => [...list.querySelectorAll("[name=job]:checked")];

async function showPage(response) {
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    show(document.adoptNode(page.getElementById("jobs")));
    showPill(document.adoptNode(page.getElementById("workersPill")));
}

function interval() {
    const isRunning = [...list.querySelectorAll("[data-state]")].some(({ dataset }) => dataset.state === "running");
    return isRunning ? POLL_INTERVAL_MS : REST_INTERVAL_MS;
}

/** Show the list that the server has rendered. */
function show(fresh) {
    if (tableBody(list) && tableBody(fresh)) mergeRows(tableBody(list), [...tableBody(fresh).rows]);
    else list.replaceChildren(...fresh.childNodes);
    showSelection();
}

/** Show how many workers there are: the header must not contradict the jobs. */
function showPill(fresh) {
    const pill = document.getElementById("workersPill");
    if (pill.outerHTML !== fresh.outerHTML) pill.replaceWith(fresh);
}

/** Replace the cells that have changed: rows keep their place, their selection and the focus. */
function mergeRows(body, freshRows) {
    const rows = new Map([...body.rows].map((row) => [row.dataset.job, row]));
    freshRows.forEach((fresh, index) => {
        const row = rows.get(fresh.dataset.job) ?? fresh;
        rows.delete(fresh.dataset.job);
        if (row !== fresh) mergeCells(row, fresh);
        if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
    });
    for (const row of rows.values()) row.remove();
}

function mergeCells(row, fresh) {
    row.dataset.state = fresh.dataset.state;
    [...fresh.cells].forEach((cell, index) => {
        if (row.cells[index].innerHTML !== cell.innerHTML) row.cells[index].replaceWith(cell);
    });
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
keepPolling(location.href, showPage, interval);
