// The choice to be notified in this browser: one notification when the job is done, while its page is open.

import { store, stored } from "../storage.js";

const STORAGE_KEY = "fleetsight-notify";

const menu = document.getElementById("notify");
const blocked = document.getElementById("notify-blocked");
const checkbox = menu?.querySelector("input"); // viewers of a shared job have none
const { job } = document.getElementById("job").dataset;

let wasDone = isDone(document.getElementById("state").textContent);

function isDone(state) {
    return state === "finished" || state === "cancelled";
}

async function onChange() {
    const permission = checkbox.checked ? await Notification.requestPermission() : Notification.permission;
    if (permission !== "granted") checkbox.checked = false;
    blocked.hidden = permission !== "denied";
    store(STORAGE_KEY, checkbox.checked ? "on" : "off");
}

function onProgress({ detail: progress }) {
    if (!wasDone && isDone(progress.state) && checkbox.checked) show(progress);
    wasDone = isDone(progress.state);
    showChoice();
}

// The choice is of no use once the job is done; a retry may start it again.
function showChoice() {
    menu.hidden = wasDone;
}

function show({ done, failed }) {
    const name = document.querySelector("h1 bdi").textContent;
    const notification = new Notification(`Job done: ${name}`, {
        body: failed ? `${done} classified, ${failed} failed` : `${done} classified`,
        tag: job, // one notification for all tabs with this job
    });
    notification.addEventListener("click", () => {
        window.focus();
        notification.close();
    });
}

if (menu && "Notification" in window) {
    showChoice();
    checkbox.checked = stored(STORAGE_KEY) === "on" && Notification.permission === "granted";
    checkbox.addEventListener("change", onChange);
    document.addEventListener("job-progress", onProgress);
}
