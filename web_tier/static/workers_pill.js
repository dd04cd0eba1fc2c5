// The pill in the header with the number of workers. Live pages call this, so that it agrees with their own figures.

import { plural } from "./upload/format.js";

/** Show how many workers run or start, and whether the fleet is paused. */
export function showWorkersPill(workers, isPaused) {
    const pill = document.getElementById("workersPill");
    const text = plural(workers, "worker") + (isPaused ? " · paused" : "");
    const label = pill.querySelector("span");
    if (label.textContent !== text) label.textContent = text;
    pill.classList.toggle("on", workers > 0);
    pill.hidden = false;
}
