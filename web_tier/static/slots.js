// The figures and texts of a page that keeps itself up to date.

import { formatCount } from "./upload/format.js";

/**
 * Show values by name: each element with `data-slot` shows its value, one with `data-if` hides while it is empty or 0.
 *
 * @param {Record<string, number | string | boolean | null>} values - a name that is missing changes nothing.
 */
export function showSlots(values) {
    for (const element of document.querySelectorAll("[data-slot]")) {
        const value = values[element.dataset.slot];
        const text = typeof value === "number" ? formatCount(value) : (value ?? "");
        if (value !== undefined && element.textContent !== text) element.textContent = text;
    }
    for (const element of document.querySelectorAll("[data-if]")) {
        const value = values[element.dataset.if];
        if (value !== undefined) element.hidden = !value;
    }
}
