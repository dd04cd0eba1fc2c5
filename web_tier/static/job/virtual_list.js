// A list of any length of which only the visible items, and a few more, are in the page.

import { oncePerFrame } from "../frames.js";

/** Rows above and below the window, so that scrolling and the tab key find items. */
const OVERSCAN_ROWS = 3;
/** Pictures load once the visible items have not changed for this long, in milliseconds. */
const SETTLE_MS = 120;

/**
 * How a virtual list draws its items; see items.js.
 *
 * @typedef {object} ItemRenderer
 * @property {() => {root: HTMLElement, list: HTMLElement}} createContainer - `list` is inside `root`, or is `root`.
 * @property {(row: Row) => HTMLElement} createItem
 * @property {(element: HTMLElement, row: Row) => void} update - show the current state of the row.
 * @property {(element: HTMLElement) => void} loadPicture - called once the element has stayed in the page for a while.
 * @property {(element: HTMLElement) => void} cancelPicture - called when the element leaves the page.
 * @property {() => HTMLElement} createSpacer - an element that takes the place of the items that are not drawn.
 * @property {(spacer: HTMLElement, pixels: number) => void} setSpacerHeight
 */

export class VirtualList {
    /**
     * @param {HTMLElement} container - holds the items. Only the page scrolls.
     * @param {ItemRenderer} renderer
     */
    constructor(container, renderer) {
        this.container = container;
        this.renderer = renderer;
        this.rows = [];
        this.elements = new Map(); // id → element in the page
        this.topSpacer = renderer.createSpacer();
        this.bottomSpacer = renderer.createSpacer();
        container.replaceChildren(this.topSpacer, this.bottomSpacer);
        this.abort = new AbortController();
        addEventListener("scroll", () => this.scheduleDraw(), { passive: true, signal: this.abort.signal });
        this.observer = new ResizeObserver(() => this.#onResize());
        this.observer.observe(container);
        this.observer.observe(document.body); // what is above the list moves it when it grows or shrinks
    }

    close() {
        this.abort.abort();
        this.observer.disconnect();
        clearTimeout(this.pictureTimer);
        for (const element of this.elements.values()) this.renderer.cancelPicture(element);
    }

    /** @param {Row[]} rows - all rows of the list, in order. */
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
        this.draw();
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
        const first = this.elements.values().next().value;
        if (first) this.pitch = first.getBoundingClientRect().height + this.gap;
    }

    draw() {
        if (this.pitch === undefined) {
            if (this.elements.size === 0) this.#place(this.rows.slice(0, 1)); // `#measure` needs an item
            this.#measure();
        }
        if (this.pitch === undefined || this.pitch === 0) return;
        const lines = Math.ceil(this.rows.length / this.columns);
        const scrolled = -this.container.getBoundingClientRect().top;
        const firstVisible = Math.floor(scrolled / this.pitch);
        const lastVisible = Math.ceil((scrolled + innerHeight) / this.pitch);
        const first = Math.min(Math.max(0, firstVisible - OVERSCAN_ROWS), Math.max(0, lines - 1));
        const last = Math.min(lines, Math.max(first + 1, lastVisible + OVERSCAN_ROWS));
        this.#place(this.rows.slice(first * this.columns, last * this.columns));
        this.renderer.setSpacerHeight(this.topSpacer, Math.max(0, first * this.pitch - this.gap));
        this.renderer.setSpacerHeight(this.bottomSpacer, Math.max(0, (lines - last) * this.pitch - this.gap));
    }

    /** Show the items of `rows` and no others. Elements that stay are not touched, so they keep focus and picture. */
    #place(rows) {
        const ids = new Set(rows.map((row) => row.id));
        for (const [id, element] of this.elements) {
            if (!ids.has(id)) {
                element.remove();
                this.renderer.cancelPicture(element);
                this.elements.delete(id);
            }
        }
        clearTimeout(this.pictureTimer);
        this.pictureTimer = setTimeout(() => this.#loadPictures(), SETTLE_MS);
        let next = this.topSpacer.nextSibling;
        for (const row of rows) {
            const element = this.#updatedElement(row);
            if (element === next) next = next.nextSibling;
            else this.container.insertBefore(element, next);
        }
    }

    // Delayed, so that fast scrolling through thousands of images does not request all their pictures.
    #loadPictures() {
        for (const element of this.elements.values()) this.renderer.loadPicture(element);
    }

    #updatedElement(row) {
        let element = this.elements.get(row.id);
        if (!element) {
            element = this.renderer.createItem(row);
            this.elements.set(row.id, element);
            element.version = undefined;
        }
        if (element.version !== row.version) {
            this.renderer.update(element, row);
            element.version = row.version;
        }
        return element;
    }
}
