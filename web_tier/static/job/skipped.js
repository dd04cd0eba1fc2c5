// The files of an upload that were skipped: the upload page lists them, and leaves them in this tab's storage for the
// job's page, which shows them until the user closes the notice.

import { formatCount, plural } from "../upload/format.js";

/**
 * @typedef {object} SkippedFiles
 * @property {{name: string, reason: string}[]} files - the first ones.
 * @property {number} others - number of further files with a reason.
 * @property {number} hidden - number of hidden files and system files.
 */

const storageKey = (jobId) => `skipped:${jobId}`;

/**
 * Leave the skipped files for the page of their job. Without storage, that page does not show them.
 *
 * @param {string} jobId
 * @param {SkippedFiles} skipped
 */
export function keepSkippedFiles(jobId, skipped) {
    if (!skipped.files.length && !skipped.hidden) return;
    try {
        sessionStorage.setItem(storageKey(jobId), JSON.stringify(skipped));
    } catch {
        // The browser's storage is off or full.
    }
}

/** Return a list item for each skipped file, and for those that are only counted. */
export function skippedLines({ files, others, hidden }) {
    const lines = files.map(({ name, reason }) => {
        const bold = Object.assign(document.createElement("bdi"), { className: "filename", textContent: name });
        const line = document.createElement("li");
        line.append(bold, `: ${reason}`);
        return line;
    });
    if (others) lines.push(textLine(`and ${formatCount(others)} more`));
    if (hidden) lines.push(textLine(`${plural(hidden, "hidden or system file")}, such as .DS_Store or Thumbs.db`));
    return lines;
}

function textLine(text) {
    return Object.assign(document.createElement("li"), { textContent: text });
}

/**
 * Show the skipped files of a job in its notice, if this tab has uploaded it.
 *
 * @param {HTMLElement} notice - see _skipped.html.
 */
export function showSkippedFiles(notice) {
    const key = storageKey(notice.dataset.job);
    const skipped = readSkippedFiles(key);
    if (!skipped) return;
    const count = skipped.files.length + skipped.others + skipped.hidden;
    notice.querySelector("summary").textContent = `${plural(count, "file")} skipped`;
    notice.querySelector("ul").replaceChildren(...skippedLines(skipped));
    notice.querySelector("button").addEventListener("click", () => {
        sessionStorage.removeItem(key);
        notice.hidden = true;
    });
    notice.hidden = false;
}

/** @returns {SkippedFiles | null} */
function readSkippedFiles(key) {
    try {
        return JSON.parse(sessionStorage.getItem(key));
    } catch {
        return null;
    }
}

const notice = document.getElementById("skipped");
if (notice) showSkippedFiles(notice);
