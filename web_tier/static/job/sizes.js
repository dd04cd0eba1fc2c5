// The size of the pictures, or one image on each line, which this browser keeps.

import { store, stored } from "../storage.js";

const STORAGE_KEY = "fleetsight-tiles";

/**
 * Listen to the switch of the sizes, and apply the size that was chosen last.
 *
 * @param {() => void} onChange - called when the user has chosen another size.
 */
export function listenForSizes(onChange) {
    const control = document.getElementById("sizes");
    const buttons = [...control.querySelectorAll("button")];
    const apply = (size) => {
        document.getElementById("list").dataset.size = size;
        for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.size === size));
    };
    const last = stored(STORAGE_KEY);
    apply(buttons.some((button) => button.dataset.size === last) ? last : "m");
    control.addEventListener("click", ({ target }) => {
        const size = target.closest("button")?.dataset.size;
        if (!size) return;
        apply(size);
        store(STORAGE_KEY, size);
        onChange();
    });
}
