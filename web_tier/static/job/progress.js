// The progress section at the top of the job's page.

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

/** @param {object} progress - the body of `/jobs/ID/progress`. */
export function showProgress(progress) {
    for (const name of ["accepted", "done", "failed", "waiting", "workers"]) {
        setText(name, numberFormat.format(progress[name]));
    }
    for (const name of ["rate", "left", "cost", "repeats", "system_retries", "price"]) {
        setTextOrHide(name, progress[name]);
    }
    document.getElementById("file").hidden = !progress.file;
    findSlot("problem").hidden = !progress.problem;
    setText("problem", progress.problem ?? "");
    setText("sentence", progress.sentence);
    findSlot("workers").previousElementSibling.textContent = progress.workers === 1 ? "worker" : "workers";
    const state = document.getElementById("state");
    state.textContent = progress.words;
    state.classList.toggle("on", progress.state === "running");
    document.getElementById("retry").hidden = progress.failed === 0;
    document.getElementById("cancel").hidden = progress.state !== "running";
    showBar(progress);
    const counts = { "": progress.accepted, done: progress.done, failed: progress.failed, waiting: progress.waiting };
    for (const [name, count] of Object.entries(counts)) showCount(name, count);
    document.dispatchEvent(new CustomEvent("job-progress", { detail: progress }));
}

function showBar({ accepted, done, failed, waiting }) {
    const bar = document.getElementById("bar");
    const percentage = (images) => `${(100 * images) / Math.max(1, accepted)}%`;
    bar.querySelector(".done").setAttribute("width", percentage(done));
    bar.querySelector(".failed").setAttribute("x", percentage(done));
    bar.querySelector(".failed").setAttribute("width", percentage(failed));
    bar.setAttribute("aria-label", `${done} done, ${failed} failed, ${waiting} waiting`);
}

/** Show the number of images of a state in its filter. */
function showCount(state, count) {
    const element = document.querySelector(`.chip[data-state="${state}"] .count`);
    const text = numberFormat.format(count);
    if (element.textContent !== text) element.textContent = text;
}
