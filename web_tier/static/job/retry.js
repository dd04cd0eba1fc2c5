// Retries a failed image without leaving the page.

import { fetchOrLeave } from "./gone.js";

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
        const link = form.parentElement.closest(".tile")?.querySelector("a.open");
        const id = form.dataset.id ?? link.dataset.id;
        const button = form.querySelector("button");
        button.disabled = true; // against a second click
        const outcome = await retry(base, id);
        button.disabled = false;
        const note = document.getElementById("retried");
        note.textContent = JSON.parse(note.dataset.notes)[outcome];
        note.hidden = false;
        if (outcome === "sent") onRequested(id);
        link?.focus();
    });
}

async function retry(base, id) {
    try {
        const response = await fetchOrLeave(`/api/v1${base}/images/${id}/retry`, { method: "POST" });
        return response.ok ? (await response.json()).outcome : "refused";
    } catch {
        return "refused";
    }
}
