// The pill in the header with the number of workers. Live pages call this, so that it agrees with their own figures.

import { plural } from "./upload/format.js";

/** Show how many workers run or start, and what keeps further ones from starting, or null. */
export function showWorkersPill(workers, halted) {
    const pill = document.getElementById("workersPill");
    const text = plural(workers, "worker") + (halted ? ` · ${halted}` : "");
    const label = pill.querySelector("span");
    if (label.textContent !== text) label.textContent = text;
    pill.classList.toggle("on", workers > 0);
    pill.hidden = false;
}
