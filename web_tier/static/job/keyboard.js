// The keys of the list and of the open image.

import { addShortcut } from "./shortcuts.js";

/** @param {JobPage} page - see main.js. */
export function listenForListKeys(page) {
    // Arrow keys scroll the page unless the focus is in the list or at the open image.
    const moves = (event) => {
        const { target } = event;
        if (target.closest("[role=region]")) return false; // it scrolls by the arrow keys
        return page.query.image ? !target.closest("#filters, summary") : target.closest("#list") !== null;
    };
    const columns = () => page.list?.columns ?? 1;
    const arrows = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns };
    addShortcut({
        keys: ["j", "k"],
        shown: "J K",
        words: "Next and previous image",
        run: (event) => page.move(event.key.toLowerCase() === "j" ? 1 : -1),
    });
    addShortcut({
        keys: Object.keys(arrows),
        shown: "← → ↑ ↓",
        words: "Move in the list",
        run(event) {
            const isVertical = event.key === "ArrowUp" || event.key === "ArrowDown";
            if (!moves(event) || (isVertical && page.isCovered)) return false;
            return page.move(arrows[event.key]());
        },
    });
    // A link opens its image by itself.
    addShortcut({ keys: [], shown: "Enter", words: "Open the image, then go to its details", run() {} });
    addShortcut({
        keys: ["Escape"],
        shown: "Esc",
        words: "Close the image",
        run: () => (page.query.image && !page.isCovered ? page.close() : false), // a dialog closes by itself
    });
    addShortcut({
        keys: ["/"],
        shown: "/",
        words: "Search by file name",
        run() {
            if (page.isCovered) return false;
            const search = document.querySelector("#filters [name=q]");
            search.focus();
            search.select();
        },
    });
}
