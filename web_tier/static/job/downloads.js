// The menu of a job's downloads: its links carry the filters of the page, as the API's parameters.

import { formatCount } from "../upload/format.js";

const menu = document.getElementById("downloads");
const note = document.getElementById("downloaded");
const FILTERS = ["state", "label", "min_score", "max_score", "filename", "truth", "correct", "reviewed"];

/** Return the API's parameters for a query of the page; see main.js. `/api` describes them. */
function filtersOf({ state, label, low, high, name, truth, correct, reviewed }) {
    const values = { state, label, min_score: low, max_score: high, filename: name, truth, correct, reviewed };
    const given = Object.entries(values).filter(([, value]) => value || value === 0);
    return given.map(([key, value]) => [key, key.endsWith("_score") ? value / 100 : value]);
}

/**
 * Let the menu download the images that are shown.
 *
 * @param {Query} query - see main.js.
 * @param {number} shown - images that match.
 * @param {number} total - images of the job.
 */
export function showDownloads(query, shown, total) {
    const filters = filtersOf(query);
    const count = formatCount(filters.length ? shown : total);
    const matching = `${count} ${shown === 1 ? "image that matches" : "images that match"} the filters`;
    note.textContent = filters.length ? matching : `All ${count} images`;
    for (const link of menu.querySelectorAll("a")) {
        const address = new URL(link.href);
        for (const key of FILTERS) address.searchParams.delete(key);
        for (const [key, value] of filters) address.searchParams.set(key, value);
        if (link.href !== address.href) link.href = address.href;
    }
}
