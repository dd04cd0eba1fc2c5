// The items of the grid and of the table: clones of the templates in job.html, filled as _image.html does.

import { fileSize } from "../upload/format.js";
import { retriesText } from "./rows.js";

const findTemplate = (id) => document.getElementById(id).content.firstElementChild;

/** As `percent` of core/format.py. */
const formatPercent = (score) => `${Math.floor(score * 100 + 1e-9)}%`;

/** What becomes of a file before its image is there. */
const FILE_WORDS = { checking: "Being checked", ready: "In line", sending: "Sending", unsent: "Not sent", accepted: "Sent" };

/** Return what a waiting image, or a file that is not accepted yet, waits for. */
function waitingWords({ item }) {
    if (!item) return "Waiting";
    return item.state === "sending" ? `Sending ${Math.floor(item.request.share * 100)}%` : FILE_WORDS[item.state];
}

/** Set what never changes: the links, the name and the picture's URL. A file has no page yet. */
function initializeItem(element, base, row) {
    const link = element.querySelector("a.open");
    const image = element.querySelector("img");
    if (!row.item) {
        link.href = `${base}/images/${row.id}`;
        link.dataset.id = row.id;
        image.dataset.src = `${base}/images/${row.id}/thumbnail`;
    }
    for (const name of element.querySelectorAll("form bdi")) name.textContent = row.name;
    element.querySelector("form").action = `${base}/images/${row.id}/retry`;
    return element;
}

function updateMarks(element, row) {
    const { picture } = row.item ?? row.file ?? {}; // of a file that this page sends, or has sent
    if (picture) element.querySelector("img").dataset.src = picture;
    element.querySelector("form").hidden = row.status !== "failed" || row.retrying === true || row.final === true;
    element.querySelector(".at-once").hidden = !row.cached;
    element.querySelector(".retries").textContent = retriesText(row);
}

/** Mark the image that is open. */
export function markOpened(element, isOpened) {
    const link = element?.querySelector("a.open");
    if (link) link.ariaCurrent = isOpened ? "true" : null;
}

/**
 * @param {string} base - the job's path.
 * @returns {ItemRenderer & {createContainer: () => {root: HTMLElement, list: HTMLElement}}} see ../virtual_list.js; `list`
 *     is inside `root`, or is `root`.
 */
export function gridItems(base) {
    const template = findTemplate("tile-template");
    return {
        createContainer() {
            const grid = findTemplate("grid-template").cloneNode(true);
            return { root: grid, list: grid };
        },
        createItem(row) {
            const tile = initializeItem(template.cloneNode(true), base, row);
            const name = tile.querySelector(".filename");
            name.title = row.name;
            name.firstElementChild.textContent = row.name.slice(row.name.lastIndexOf("/") + 1);
            return tile;
        },
        update(tile, row) {
            const isDone = row.status === "done";
            const hasLanded = isDone && tile.classList.contains("waiting");
            const texts = {
                done: labelsOf(row),
                failed: row.retrying ? "Trying again" : row.failure,
                waiting: waitingWords(row),
            };
            const isOther = { unsure: row.unsure, retrying: row.retrying, landed: hasLanded, file: row.item };
            const marks = Object.keys(isOther).filter((mark) => isOther[mark]);
            tile.className = ["tile", row.status, ...marks, row.item?.state ?? ""].join(" ").trim();
            updateMarks(tile, row);
            const label = tile.querySelector(".label");
            label.textContent = texts[row.status];
            label.title = foundOf(row) ?? "";
            label.classList.toggle("quiet", row.status === "waiting");
            tile.querySelector(".score").textContent = isDone ? formatPercent(row.score) : "";
            const reason = tile.querySelector(".reason");
            reason.textContent = reason.title = row.reason ?? "";
            const bar = tile.querySelector(".confidence");
            bar.toggleAttribute("hidden", !isDone);
            bar.lastElementChild.setAttribute("width", isDone ? `${row.score * 100}%` : "0");
        },
    };
}

/** Return the text of an image's labels; several of them are independent. */
function labelsOf({ label, also }) {
    return also ? `${label}, ${also}` : label;
}

/** Return what the list says of an image's labels. */
function foundOf(row) {
    return row.unsure ? `Unsure: ${labelsOf(row)}` : labelsOf(row);
}

/** As `gridItems`. */
export function tableItems(base) {
    const template = findTemplate("row-template");
    return {
        createContainer() {
            const root = findTemplate("table-template").cloneNode(true);
            return { root, list: root.querySelector("tbody") };
        },
        createItem(row) {
            const element = initializeItem(template.cloneNode(true), base, row);
            const name = element.querySelector(".filename");
            name.title = name.querySelector("bdi").textContent = row.name;
            return element;
        },
        update(element, row) {
            element.className = `image-row ${row.status}${row.retrying ? " retrying" : ""}`;
            updateMarks(element, row);
            element.querySelector(".found").textContent = foundOf(row) ?? row.reason ?? "";
            element.querySelector(".score").textContent = row.score === undefined ? "" : formatPercent(row.score);
            element.querySelector(".state .words").textContent = row.retrying
                ? "trying again"
                : row.item
                  ? waitingWords(row).toLowerCase()
                  : row.status;
            element.querySelector(".size").textContent = fileSize(row.bytes);
        },
    };
}
