// A list of any length of which only the visible items, and a few more, are in the page.

import { oncePerFrame } from "./frames.js";

/** Rows above and below the window, so that scrolling and the tab key find items. */
const OVERSCAN_ROWS = 3;
/** About how many new items in sight one frame draws: more would hold up the scrolling. */
const MAX_NEW_ITEMS = 8;
/** A picture loads once its item has been in the page for this long, in milliseconds. */
const SETTLE_MS = 120;

/**
 * An entry of the list: a `Row` of a job, or a `BatchItem` of an upload. `version` counts its changes.
 *
 * @typedef {{id: string | number, version: number}} Entry
 */

/**
 * How a virtual list draws its items. Once an item has stayed in the page for a while, its picture is loaded from the
 * address in `data-src`, or is requested if it has none.
 *
 * @typedef {object} ItemRenderer
 * @property {(entry: Entry) => HTMLElement} createItem
 * @property {(element: HTMLElement, entry: Entry) => void} update - show the current state of the entry.
 * @property {(entry: Entry) => void} requestPicture - for an entry that has none yet; it is called again until it has.
 */

export class VirtualList {
    /**
     * @param {HTMLElement} container - the list that holds the items. Only the page scrolls.
     * @param {ItemRenderer} renderer
     * @param {Map<string, HTMLElement>} [elements] - items that the list has already, by the ids of their entries.
     */
    constructor(container, renderer, elements = new Map()) {
        this.container = container;
        this.renderer = renderer;
        this.rows = [];
        this.overscan = 0;
        this.elements = elements; // id → element in the page
        this.topSpacer = this.#createSpacer();
        this.bottomSpacer = this.#createSpacer();
        container.prepend(this.topSpacer);
        container.append(this.bottomSpacer);
        this.abort = new AbortController();
        addEventListener("scroll", () => this.scheduleDraw(), { passive: true, signal: this.abort.signal });
        this.observer = new ResizeObserver(() => this.#onResize());
        this.observer.observe(container);
        this.observer.observe(document.body); // what is above the list moves it when it grows or shrinks
    }

    /** An element that takes the place of the items that are not drawn. */
    #createSpacer() {
        const spacer = document.createElement("li");
        spacer.className = "space";
        spacer.setAttribute("aria-hidden", "true");
        return spacer;
    }

    /** Draw no more; what is drawn stays in the page. */
    stop() {
        this.abort.abort();
        this.observer.disconnect();
        clearTimeout(this.pictureTimer);
    }

    /** @param {Entry[]} rows - all entries of the list, in order. */
    show(rows) {
        this.rows = rows;
        this.scheduleDraw();
    }

    /** Draw again: the items have another size. */
    resized() {
        this.pitch = undefined;
        this.scheduleDraw();
    }

    /** Draw before the next frame. Several calls share one draw. */
    scheduleDraw = oncePerFrame(() => this.draw());

    /** Scroll so that the row at `index` is drawn, and return its element. */
    reveal(index) {
        this.#measure();
        const listTop = this.container.getBoundingClientRect().top + scrollY;
        const top = listTop + Math.floor(index / this.columns) * this.pitch;
        const covered = parseFloat(getComputedStyle(document.documentElement).scrollPaddingTop) || 0; // by the filters
        if (top < scrollY + covered || top + this.pitch > scrollY + innerHeight) scrollTo({ top: top - innerHeight / 3 });
        this.draw(true);
        return this.elements.get(this.rows[index]?.id);
    }

    #onResize() {
        const width = this.container.clientWidth;
        if (width !== this.width) this.pitch = undefined;
        this.width = width;
        this.scheduleDraw();
    }

    /** Set the number of columns, and the pitch: the height of one line of items with its gap, in pixels. */
    #measure() {
        const style = getComputedStyle(this.container);
        this.columns = style.display === "grid" ? style.gridTemplateColumns.split(" ").length : 1;
        this.gap = parseFloat(style.rowGap) || 0;
        const height = this.elements.values().next().value?.getBoundingClientRect().height;
        if (height) this.pitch = height + this.gap; // none while the list is hidden
    }

    /** Draw the items in sight, of many new ones a part in each frame unless all are needed now, then those around them. */
    draw(areAllNeeded = false) {
        if (this.pitch === undefined) {
            if (this.elements.size === 0) this.#place(0, 1); // `#measure` needs an item
            this.#measure();
        }
        if (this.pitch === undefined) return;
        const lines = Math.ceil(this.rows.length / this.columns);
        const scrolled = -this.container.getBoundingClientRect().top;
        const linesInSight = (overscan) => {
            const first = Math.floor(scrolled / this.pitch) - overscan;
            const last = Math.ceil((scrolled + innerHeight) / this.pitch) + overscan;
            const start = Math.min(Math.max(0, first), Math.max(0, lines - 1));
            return [start, Math.min(lines, Math.max(start + 1, last))];
        };
        let [first, last] = linesInSight(0);
        const inSight = Array.from({ length: last - first }, (_, index) => first + index);
        const missing = inSight.filter((line) => !this.elements.has(this.rows[line * this.columns].id));
        this.overscan = missing.length ? 0 : Math.min(OVERSCAN_ROWS, this.overscan + 1);
        const endOfPart = missing[Math.ceil(MAX_NEW_ITEMS / this.columns)];
        if (endOfPart !== undefined && !areAllNeeded) last = endOfPart;
        else [first, last] = linesInSight(this.overscan);
        if (this.overscan < OVERSCAN_ROWS) this.scheduleDraw();
        this.#place(first * this.columns, last * this.columns);
        setHeight(this.topSpacer, Math.max(0, first * this.pitch - this.gap));
        setHeight(this.bottomSpacer, Math.max(0, (lines - last) * this.pitch - this.gap));
    }

    /** Show the items from `first` to before `last` and no others. Elements that stay keep their focus and picture. */
    #place(first, last) {
        const rows = this.rows.slice(first, last);
        const ids = new Set(rows.map((row) => row.id));
        for (const [id, element] of this.elements) {
            if (!ids.has(id)) {
                element.remove();
                cancelPictures(element);
                this.elements.delete(id);
            }
        }
        this.pictureTimer ??= setTimeout(() => this.#loadPictures(), SETTLE_MS);
        let next = this.topSpacer.nextElementSibling;
        for (const [index, row] of rows.entries()) {
            const element = this.#updatedElement(row);
            setPlace(element, first + index + 1, this.rows.length);
            if (element === next) next = next.nextElementSibling;
            else this.container.insertBefore(element, next);
        }
    }

    // Delayed, so that fast scrolling through thousands of images does not request all their pictures.
    #loadPictures() {
        const now = performance.now();
        this.pictureTimer = undefined;
        for (const element of this.elements.values()) {
            const image = element.querySelector("img:not([src])");
            if (now - element.addedAt < SETTLE_MS) this.pictureTimer ??= setTimeout(() => this.#loadPictures(), SETTLE_MS);
            else if (image?.dataset.src) image.src = image.dataset.src;
            else if (image) this.renderer.requestPicture(element.entry);
        }
    }

    #updatedElement(row) {
        let element = this.elements.get(row.id);
        if (!element) {
            element = this.renderer.createItem(row);
            this.elements.set(row.id, element);
            Object.assign(element, { version: undefined, addedAt: performance.now() });
        }
        element.entry = row;
        if (element.version !== row.version) {
            this.renderer.update(element, row);
            element.version = row.version;
        }
        return element;
    }
}

/** Unload the pictures in an element, and cancel their loading. */
function cancelPictures(element) {
    for (const image of element.querySelectorAll("img")) image.removeAttribute("src");
}

function setHeight(spacer, pixels) {
    spacer.hidden = pixels === 0;
    spacer.style.height = `${pixels}px`;
}

/** Tell screen readers the place of an item among all, of which most are not in the page. */
function setPlace(element, place, size) {
    if (element.ariaPosInSet !== String(place)) element.ariaPosInSet = String(place);
    if (element.ariaSetSize !== String(size)) element.ariaSetSize = String(size);
}
