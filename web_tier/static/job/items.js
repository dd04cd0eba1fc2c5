// The items of the grid and of the table: clones of the templates in job.html, filled as _image.html does.

import { LOW_SCORE, retriesText, UNSURE } from "./rows.js";

const findTemplate = (id) => document.getElementById(id).content.firstElementChild;

const formatPercent = (score) => (score >= 1 ? "100%" : `${Math.min(99, Math.round(score * 100))}%`);

function formatSize(bytes) {
    if (bytes < 2 ** 20) return `${Math.max(1, Math.round(bytes / 1024))} KB`;
    return `${Number((bytes / 2 ** 20).toPrecision(3))} MB`;
}

/** Set what never changes: the links, the name and the picture's URL. */
function initializeItem(element, base, row) {
    const link = element.querySelector("a.open");
    const image = element.querySelector("img");
    link.href = `${base}/images/${row.id}`;
    link.dataset.id = row.id;
    image.dataset.src = `${base}/images/${row.id}/thumbnail`;
    for (const name of element.querySelectorAll("form bdi")) name.textContent = row.name;
    element.querySelector("form").action = `${base}/images/${row.id}/retry`;
    return element;
}

function updateMarks(element, row) {
    element.querySelector("form").hidden = row.status !== "failed" || row.retrying === true || row.final === true;
    element.querySelector(".at-once").hidden = !row.cached;
    element.querySelector(".retries").textContent = retriesText(row);
}

/** Mark the image that is open. */
export function markOpened(element, isOpened) {
    const link = element?.querySelector("a.open");
    if (isOpened) link?.setAttribute("aria-current", "true");
    else link?.removeAttribute("aria-current");
}

/** Load the picture of an item. */
function loadPicture(element) {
    const image = element.querySelector("img");
    if (!image.src) image.src = image.dataset.src;
}

/** Unload the pictures in an element, and cancel their loading. */
export function cancelPictures(element) {
    for (const image of element.querySelectorAll("img")) image.removeAttribute("src");
}

function spacers(tag) {
    return {
        createSpacer() {
            const spacer = document.createElement(tag);
            spacer.className = "space";
            spacer.setAttribute("aria-hidden", "true");
            return spacer;
        },
        setSpacerHeight(spacer, pixels) {
            spacer.hidden = pixels === 0;
            spacer.style.height = `${pixels}px`;
        },
    };
}

/**
 * @param {string} base - the job's path.
 * @returns {ItemRenderer} see virtual_list.js.
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
            const isGuess = row.score < UNSURE;
            const texts = {
                done: isGuess ? "Unsure" : labelsOf(row),
                failed: row.retrying ? "Trying again" : row.failure,
                waiting: "Waiting",
            };
            tile.className = `tile ${row.status}${isGuess ? " guess" : ""}${row.retrying ? " retrying" : ""}`;
            updateMarks(tile, row);
            const label = tile.querySelector(".label");
            label.textContent = texts[row.status];
            label.title = labelsOf(row) ?? "";
            label.classList.toggle("quiet", row.status === "waiting");
            tile.querySelector(".stand-in").textContent = row.label ?? "";
            tile.querySelector(".score").textContent = isDone ? formatPercent(row.score) : "";
            const reason = tile.querySelector(".reason");
            reason.textContent = isGuess ? `Best guess: ${row.label}` : (row.reason ?? "");
            reason.title = row.reason ?? "";
            const bar = tile.querySelector(".confidence");
            bar.toggleAttribute("hidden", !isDone);
            bar.classList.toggle("unsure", isDone && row.score <= LOW_SCORE);
            bar.lastElementChild.setAttribute("width", isDone ? `${row.score * 100}%` : "0");
        },
        loadPicture,
        cancelPicture: cancelPictures,
        ...spacers("li"),
    };
}

/** Return the text of an image's labels; several of them are independent. */
function labelsOf({ label, also }) {
    return also ? `${label}, ${also}` : label;
}

/**
 * @param {string} base - the job's path.
 * @returns {ItemRenderer} see virtual_list.js.
 */
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
            const found = labelsOf(row) ?? row.reason ?? "";
            element.querySelector(".found").textContent = row.score < UNSURE ? `Unsure: ${found}` : found;
            element.querySelector(".score").textContent = row.score === undefined ? "" : formatPercent(row.score);
            element.querySelector(".state .words").textContent = row.retrying ? "trying again" : row.status;
            element.querySelector(".size").textContent = formatSize(row.bytes);
        },
        loadPicture,
        cancelPicture: cancelPictures,
        ...spacers("tr"),
    };
}
