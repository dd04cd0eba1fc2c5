// The progress at the top of the job's page, and the numbers in its filters.

import { formatCount, plural } from "../upload/format.js";

/**
 * Show values by name: each element with `data-slot` shows its value, one with `data-if` hides while it is empty or 0.
 *
 * @param {Record<string, number | string | boolean | null>} values - a name that is missing changes nothing.
 */
export function showSlots(values) {
    for (const element of document.querySelectorAll("[data-slot]")) {
        const value = values[element.dataset.slot];
        const text = typeof value === "number" ? formatCount(value) : (value ?? "");
        if (value !== undefined && element.textContent !== text) element.textContent = text;
    }
    for (const element of document.querySelectorAll("[data-if]")) {
        const value = values[element.dataset.if];
        if (value !== undefined) element.hidden = !value;
    }
}

/** Show in the header how many workers run or start, and what keeps further ones from starting, or null. */
function showWorkersPill(workers, halted) {
    const pill = document.getElementById("workersPill");
    const text = plural(workers, "worker") + (halted ? ` · ${halted}` : "");
    const label = pill.querySelector("span");
    if (label.textContent !== text) label.textContent = text;
    pill.classList.toggle("on", workers > 0);
    pill.hidden = false;
}

function showState({ state, words, blocked }) {
    const pill = document.getElementById("state");
    if (pill.textContent !== words) pill.textContent = pill.title = words;
    pill.classList.toggle("blocked", Boolean(blocked));
    pill.classList.toggle("on", state === "running" && !blocked);
}

/** @param {object} progress - the body of `/jobs/ID/progress`. */
export function showProgress(progress) {
    const { accepted, unsent } = progress; // of the accepted ones, this page still sends these
    const sent = unsent ? `${formatCount(accepted - unsent)} sent` : null;
    showSlots({ ...progress, sent, is_running: progress.state === "running" });
    showState(progress);
    showBorder(progress);
    for (const remedy of document.querySelectorAll("[data-ends]")) {
        remedy.hidden = !progress.blocked || (remedy.dataset.ends === "pause") !== (progress.halt === "paused");
    }
    showWorkersPill(progress.workers, progress.halt);
    showFailedWords(progress.failed_words);
    showBar(progress);
    const counts = { "": progress.accepted, done: progress.done, failed: progress.failed, waiting: progress.waiting };
    for (const [state, count] of Object.entries(counts)) showCount(state, count);
    document.dispatchEvent(new CustomEvent("job-progress", { detail: progress }));
}

/** Show below which scores images are unsure; what the user has typed in its field stays. */
function showBorder({ border_words: words, below, usual_border: isUsual }) {
    document.querySelector(".chip[data-state='unsure']").title = `Images with a score ${words}`;
    const doubt = document.getElementById("doubt");
    doubt.textContent = isUsual ? doubt.dataset.usual : `their scores are ${words}`;
    const field = document.getElementById("below"); // a shared job has none
    if (field) field.defaultValue = below;
}

/** Call the failed images what they are: cancelled ones count as failed. */
function showFailedWords(words) {
    for (const element of document.querySelectorAll("[data-words='failed']")) element.textContent = words;
    document.querySelector(".chip[data-state='failed'] .title").textContent = words[0].toUpperCase() + words.slice(1);
}

function showBar({ accepted, unsent = 0, done, failed, cancelled, waiting, in_flight: inFlight, failed_words: words }) {
    const bar = document.getElementById("bar");
    const percentage = (images) => `${(100 * images) / Math.max(1, accepted)}%`;
    bar.querySelector(".accepted").setAttribute("width", percentage(accepted - unsent - cancelled));
    bar.querySelector(".done").setAttribute("width", percentage(done));
    bar.querySelector(".failed").setAttribute("x", percentage(done));
    bar.querySelector(".failed").setAttribute("width", percentage(failed - cancelled));
    const figures = `${done} labelled, ${failed} ${words}, ${inFlight} in flight, ${waiting - inFlight} waiting`;
    bar.querySelector("title").textContent = figures;
}

/** Show the number of images of a state in its filter, which hides while it has none and is not chosen; null is unknown. */
export function showCount(state, count) {
    const chip = document.querySelector(`.chip[data-state="${state}"]`);
    const element = chip.querySelector(".count");
    const text = count === null ? "" : formatCount(count);
    if (element.textContent !== text) element.textContent = text;
    chip.hidden = count === 0 && state !== "" && !chip.hasAttribute("aria-current");
}

/** Show what was found in a finished job, or what happens at the moment. */
export function showFound(text, isOver) {
    const element = document.getElementById("found");
    if (element.textContent !== text) element.textContent = element.title = text;
    element.classList.toggle("one-line", !isOver);
}

/** Offer to retry the failed images, except for those that would fail again, and to resume a job without others. */
export function showRetriable(count, isCancelled) {
    showSlots({ retriable: count, resumable: isCancelled && !count, retry: isCancelled || count });
}
