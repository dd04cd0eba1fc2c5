// The progress section at the top of the job's page.

import { showWorkersPill } from "../workers_pill.js";

const numberFormat = new Intl.NumberFormat("en-US");

const findSlot = (name) => document.querySelector(`[data-slot="${name}"]`);

function setText(name, text) {
    const element = findSlot(name);
    if (element.textContent !== text) element.textContent = text;
}

function setTextOrHide(name, text) {
    setText(name, text ?? "");
    findSlot(name).closest("div, p").hidden = !text;
}

/** Return how long ago a time was, as `ago` of core/format.py does. */
function ago(milliseconds) {
    const seconds = milliseconds / 1_000;
    if (seconds < 1) return "just now";
    for (const [limit, length, unit] of [[120, 1, "s"], [7_200, 60, "min"], [172_800, 3_600, "h"]]) {
        if (seconds < limit) return `${Math.max(1, Math.round(seconds / length))} ${unit} ago`;
    }
    return `${Math.round(seconds / 86_400)} days ago`;
}

/** Keep the age of the job up to date. The server has measured it, since this machine's clock may be wrong. */
export function showAge() {
    const element = document.getElementById("started");
    const startedAt = Date.now() - 1_000 * Number(element.dataset.age);
    element.title = new Date(element.dateTime).toLocaleString(undefined, { dateStyle: "full", timeStyle: "medium" });
    const show = () => {
        const text = ago(Date.now() - startedAt);
        if (element.textContent !== text) element.textContent = text;
    };
    show();
    setInterval(show, 1_000);
}

/** Show whether the page is live, or the state of the job. */
export function showState({ state, words }, isLost) {
    const pill = document.getElementById("state");
    const isLive = state === "running" && !isLost;
    const text = isLost ? "Connection lost, retrying" : isLive ? "live" : words;
    if (pill.textContent !== text) pill.textContent = text;
    pill.classList.toggle("on", isLive);
    pill.classList.toggle("lost", isLost);
}

/** @param {object} progress - the body of `/jobs/ID/progress`. */
export function showProgress(progress) {
    for (const name of ["accepted", "done", "failed", "waiting", "workers"]) {
        setText(name, numberFormat.format(progress[name]));
    }
    for (const name of ["rate", "left", "cost", "repeats", "system_retries", "price"]) {
        setTextOrHide(name, progress[name]);
    }
    findSlot("problem").hidden = !progress.problem;
    setText("problem", progress.problem ?? "");
    setText("sentence", progress.sentence);
    findSlot("workers").previousElementSibling.textContent = progress.workers === 1 ? "worker" : "workers";
    findSlot("workers").parentElement.hidden = progress.waiting === 0; // the fleet's, and of no interest afterwards
    findSlot("cost").previousElementSibling.textContent = progress.waiting ? "so far" : "cost";
    document.getElementById("cancel").hidden = progress.state !== "running";
    showWorkersPill(progress.workers, progress.paused);
    showFailedWords(progress.failed_words);
    showBar(progress);
    const counts = { "": progress.accepted, done: progress.done, failed: progress.failed, waiting: progress.waiting };
    for (const [name, count] of Object.entries(counts)) showCount(name, count);
    document.dispatchEvent(new CustomEvent("job-progress", { detail: progress }));
}

/** Call the failed images what they are: cancelled ones count as failed. */
function showFailedWords(words) {
    for (const element of document.querySelectorAll("[data-words='failed']")) element.textContent = words;
    document.querySelector(".chip[data-state='failed'] .title").textContent = words[0].toUpperCase() + words.slice(1);
}

function showBar({ accepted, done, failed, cancelled, waiting, in_flight: inFlight, failed_words: words }) {
    const bar = document.getElementById("bar");
    const percentage = (images) => `${(100 * images) / Math.max(1, accepted)}%`;
    bar.querySelector(".done").setAttribute("width", percentage(done));
    bar.querySelector(".failed").setAttribute("x", percentage(done));
    bar.querySelector(".failed").setAttribute("width", percentage(failed - cancelled));
    bar.querySelector(".in-flight").setAttribute("x", percentage(done + failed - cancelled));
    bar.querySelector(".in-flight").setAttribute("width", percentage(inFlight));
    const figures = `${done} done, ${failed} ${words}, ${inFlight} in flight, ${waiting - inFlight} queued`;
    bar.setAttribute("aria-label", figures);
    bar.querySelector("title").textContent = figures;
}

/** Show the number of images of a state in its filter, which hides while it has none and is not chosen. */
function showCount(state, count) {
    showChip(document.querySelector(`.chip[data-state="${state}"]`), count);
}

/** Show the number of images with a low score in its filter. */
export function showLowScores(count) {
    showChip(document.querySelector(".chip[data-to]"), count);
}

function showChip(chip, count) {
    const element = chip.querySelector(".count");
    const text = numberFormat.format(count);
    if (element.textContent !== text) element.textContent = text;
    chip.hidden = count === 0 && chip.dataset.state !== "" && !chip.hasAttribute("aria-current");
}

/** Offer to retry the failed images, except for those that would fail again. */
export function showRetriable(count) {
    document.getElementById("retry").hidden = count === 0;
    setText("retriable", numberFormat.format(count));
}
