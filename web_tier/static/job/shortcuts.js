// Keyboard shortcuts of one key, and the dialog that lists them. Each module adds its own.

import { store, stored } from "../storage.js";

/** Users who dictate, or use the keys for other commands, can turn the shortcuts off (WCAG 2.1.4). */
const STORAGE_KEY = "fleetsight-shortcuts";
const FIELDS = "input:not([type=checkbox], [type=radio]), textarea, select, [contenteditable]";

/**
 * @typedef {object} Shortcut
 * @property {string[]} keys - as `KeyboardEvent.key`; letters in lower case.
 * @property {string} shown - the keys as the list of shortcuts shows them.
 * @property {string} words - what they do.
 * @property {(event: KeyboardEvent) => boolean | void} run - returns false if the key does nothing at this moment.
 */

/** @type {Shortcut[]} */
const shortcuts = [];
let isEnabled = stored(STORAGE_KEY) !== "off";

/** @param {Shortcut} shortcut - of keys that no other shortcut has. */
export function addShortcut(shortcut) {
    shortcuts.push(shortcut);
}

document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.closest(FIELDS) || document.querySelector("dialog:modal:not(#viewer), :popover-open")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (!isEnabled && key !== "Escape") return;
    const shortcut = shortcuts.find(({ keys }) => keys.includes(key));
    if (shortcut && shortcut.run(event) !== false) event.preventDefault();
});

const dialog = document.getElementById("shortcuts");
const button = document.getElementById("show-shortcuts");
const setting = dialog.querySelector("input");

function showList() {
    const template = document.getElementById("shortcut-template").content.firstElementChild;
    const items = shortcuts.map(({ shown, words }) => {
        const item = template.cloneNode(true);
        item.lastElementChild.textContent = words;
        const keys = shown.split(" ").map((key) => Object.assign(document.createElement("kbd"), { textContent: key }));
        item.firstElementChild.append(...keys);
        return item;
    });
    dialog.querySelector("tbody").replaceChildren(...items);
    setting.checked = isEnabled;
    dialog.showModal();
}

button.hidden = !matchMedia("(any-pointer: fine)").matches;
button.addEventListener("click", showList);
addShortcut({ keys: ["?"], shown: "?", words: "Show this list", run: showList });

setting.addEventListener("change", () => {
    isEnabled = setting.checked;
    store(STORAGE_KEY, isEnabled ? "on" : "off");
});
