// Retries a failed image without leaving the page.

import { leaveIfOver } from "./gone.js";

/** Messages by the `outcome` of the API's response. */
const MESSAGES = {
    sent: "Requested again. A worker will try it once more.",
    gone: "The image is no longer stored, so it cannot be tried again. Upload it again.",
    refused: "The queue did not accept the image. Try again in a moment.",
    final: "This file cannot be classified, so it would fail again. Upload another one.",
    running: "The image is being tried again already.",
    not_failed: "The image has not failed, so there is nothing to try again.",
};

/**
 * Send the forms that retry one image by `fetch`.
 *
 * @param {string} base - the job's path.
 * @param {(id: string) => void} onRequested - called when an image has been requested again.
 */
export function interceptRetryForms(base, onRequested) {
    document.addEventListener("submit", async (event) => {
        const form = event.target.closest("form.retry-one");
        if (!form) return;
        event.preventDefault();
        const link = form.parentElement.closest(".tile, .image-row")?.querySelector("a.open");
        const id = form.dataset.id ?? link.dataset.id;
        const button = form.querySelector("button");
        button.disabled = true; // against a second click
        const outcome = await retry(base, id);
        button.disabled = false;
        const note = document.getElementById("retried");
        note.textContent = MESSAGES[outcome];
        note.hidden = false;
        if (outcome === "sent") onRequested(id);
        link?.focus();
    });
}

async function retry(base, id) {
    try {
        const response = await fetch(`/api/v1${base}/images/${id}/retry`, { method: "POST" });
        leaveIfOver(response);
        return response.ok ? (await response.json()).outcome : "refused";
    } catch {
        return "refused";
    }
}
