// Failed images once more, one at a time, without leaving the page.

import { goToSignIn, needsSignIn } from "../sign_in.js";

const WORDS = {
  sent: "Requested again: a worker will try it once more.",
  gone: "It is no longer stored, so it cannot be tried again: upload it again.",
  refused: "The queue did not take it just now: try again in a moment.",
  final: "This file cannot be classified, so it would fail again: upload another one.",
  running: "It is being tried again already.",
  not_failed: "It has not failed, so there is nothing to try again.",
};

/**
 * Take over the forms that try one image again.
 *
 * @param {string} base the job's address
 * @param {(id: string) => void} onSent called when an image has been requested again
 */
export function takeOverRetries(base, onSent) {
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form.retry-one");
    if (!form) return;
    event.preventDefault();
    const link = form.parentElement.closest(".tile, .row-of")?.querySelector("a.open");
    const id = form.dataset.id ?? link.dataset.id;
    const button = form.querySelector("button");
    button.disabled = true; // once is enough
    const outcome = await retry(base, id);
    button.disabled = false;
    const note = document.getElementById("retried");
    note.textContent = WORDS[outcome];
    note.hidden = false;
    if (outcome === "sent") onSent(id);
    link?.focus();
  });
}

async function retry(base, id) {
  try {
    const answer = await fetch(`/api/v1${base}/images/${id}/retry`, { method: "POST" });
    if (needsSignIn(answer)) goToSignIn();
    return answer.ok ? (await answer.json()).outcome : "refused";
  } catch {
    return "refused";
  }
}
