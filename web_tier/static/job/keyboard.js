// The keys of the list and of the open image.

import { addShortcut } from "./shortcuts.js";

/**
 * @typedef {object} ListKeys
 * @property {() => boolean} hasImage - whether an image is open.
 * @property {() => boolean} isOverList - whether it covers the list.
 * @property {() => number} columns - of the grid; 1 in the table.
 * @property {(step: number) => void} move - go to the image that is `step` places further.
 * @property {() => void} close - close the image.
 */

/** @param {ListKeys} list */
export function listenForListKeys(list) {
    // Arrow keys scroll the page unless the focus is in the list or at the open image.
    const moves = (event) => {
        const { target } = event;
        if (target.closest("[role=region]")) return false; // it scrolls by the arrow keys
        return list.hasImage() ? !target.closest("#filters, summary") : target.closest("#list") !== null;
    };
    const arrows = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -list.columns(), ArrowDown: list.columns };
    addShortcut({
        keys: ["j", "k"],
        shown: "J K",
        words: "Next and previous image",
        run: (event) => list.move(event.key.toLowerCase() === "j" ? 1 : -1),
    });
    addShortcut({
        keys: Object.keys(arrows),
        shown: "← → ↑ ↓",
        words: "Move in the list",
        run(event) {
            const isVertical = event.key === "ArrowUp" || event.key === "ArrowDown";
            if (!moves(event) || (isVertical && list.isOverList())) return false;
            return list.move(arrows[event.key]());
        },
    });
    // A link opens its image by itself.
    addShortcut({ keys: [], shown: "Enter", words: "Open the image, then go to its details", run() {} });
    addShortcut({
        keys: ["Escape"],
        shown: "Esc",
        words: "Close the image",
        run: () => (list.hasImage() && !list.isOverList() ? list.close() : false), // a dialog closes by itself
    });
    addShortcut({
        keys: ["/"],
        shown: "/",
        words: "Search by file name",
        run() {
            if (list.isOverList()) return false;
            const search = document.querySelector("#filters [name=q]");
            search.focus();
            search.select();
        },
    });
}
