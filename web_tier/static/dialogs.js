// The steps of an action (pause, limits, drain, share) as dialogs over a page. Each is a page of its own, which works
// without JavaScript; its content is shown here, and its form is sent as from there.

import "./copy.js";
import { fetchInTime } from "./fetching.js";

const dialog = document.createElement("dialog");
dialog.id = "dialog";
dialog.className = "small-dialog";
dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close()); // beside it
document.body.append(dialog);

/**
 * Open the page of a link with `data-dialog` as a dialog.
 *
 * @param {string} address
 * @param {RequestInit} [request]
 * @param {() => void} onFailure - opens the page instead, which says what is wrong.
 */
async function open(address, request, onFailure) {
    let content = null;
    try {
        const response = await fetchInTime(address, request);
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        content = response.ok ? page.querySelector("[data-dialog-content]") : null;
    } catch {
        // The browser opens the page.
    }
    if (!content) {
        onFailure();
        return;
    }
    const title = content.querySelector("h1");
    title.id = "dialog-title";
    dialog.setAttribute("aria-labelledby", title.id);
    dialog.replaceChildren(...content.children);
    dialog.querySelector("[data-cancel]").addEventListener("click", (event) => {
        event.preventDefault();
        dialog.close();
    });
    if (!dialog.open) dialog.showModal();
    else dialog.querySelector("[autofocus], button").focus();
}

document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-dialog]");
    const isPlainClick = event.button === 0 && !(event.ctrlKey || event.metaKey || event.shiftKey || event.altKey);
    if (!link || !isPlainClick || event.defaultPrevented) return;
    event.preventDefault();
    open(link.href, undefined, () => location.assign(link.href));
});
document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("#dialog [data-stays]") || event.defaultPrevented) return;
    event.preventDefault();
    open(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) }, () => form.submit());
});
