// The grid of thumbnails before the job is there. Only the visible rows are in the page, so that it scrolls smoothly with 10,000 files.
//
// The buttons that remove a file are one tab stop: the arrow keys move between them.

import { oncePerFrame } from "../frames.js";
import { baseName, dataUrl, isRemovable } from "./batch.js";

/** Rows drawn above and below the window. */
const OVERSCAN_ROWS = 3;
/** An item that gets one of these states changes the number of tiles. `undefined`: some were removed. */
const LAYOUT_STATES = [undefined, "checking", "refused", "removed"];

export class Grid {
    #renderSoon = oncePerFrame(() => this.#render());

    /**
     * @param {HTMLElement} list - the list that gets the tiles.
     * @param {Batch} batch
     */
    constructor(list, batch) {
        this.list = list;
        this.batch = batch;
        this.template = document.getElementById("thumb-template").content.firstElementChild;
        this.tiles = new Map(); // item → {element, image, remove, state}
        this.closing = new AbortController();
        this.active = null; // the item with the button that is the tab stop
        this.columns = 1;
        this.rowHeight = 0; // pixels, with the gap
        this.layoutChanged = true;
        this.visibleRange = [0, 0];
        const { signal } = this.closing;
        batch.addEventListener("change", ({ detail }) => this.#schedule(LAYOUT_STATES.includes(detail?.state)), { signal });
        list.addEventListener("click", (event) => this.#onClick(event));
        list.addEventListener("keydown", (event) => this.#onKeyDown(event));
        addEventListener("scroll", () => this.#schedule(true), { passive: true, signal });
        this.observer = new ResizeObserver(() => this.#schedule(true));
        this.observer.observe(list);
    }

    /** Draw no more: the page of the job shows the files. */
    close() {
        this.closing.abort();
        this.observer.disconnect();
    }

    #schedule(layoutChanged) {
        this.layoutChanged ||= layoutChanged;
        this.#renderSoon();
    }

    #render() {
        const { items } = this.batch;
        if (this.layoutChanged) this.visibleRange = this.#layOut(items.length);
        this.layoutChanged = false;
        const [first, last] = this.visibleRange;
        const visible = new Set(items.slice(first, last));
        for (const [item, tile] of this.tiles) if (!visible.has(item)) this.#removeTile(item, tile);
        if (!visible.has(this.active) || !isRemovable(this.active)) {
            this.active = items.slice(first, last).find(isRemovable) ?? null;
        }
        let next = null;
        for (let index = last - 1; index >= first; index -= 1) next = this.#place(items[index], index, next);
    }

    /** Return the range of visible items, and pad the list to the height that it would have with all tiles. */
    #layOut(count) {
        const style = getComputedStyle(this.list);
        const columns = Math.max(1, style.gridTemplateColumns.split(" ").length);
        const rowHeight = parseFloat(style.gridAutoRows) + parseFloat(style.rowGap);
        Object.assign(this, { columns, rowHeight });
        const rows = Math.ceil(count / columns);
        const scrolled = -this.list.getBoundingClientRect().top;
        const from = clamp(Math.floor(scrolled / rowHeight) - OVERSCAN_ROWS, 0, rows);
        const to = clamp(Math.ceil((scrolled + innerHeight) / rowHeight) + OVERSCAN_ROWS, from, rows);
        this.list.style.paddingTop = `${from * rowHeight}px`;
        this.list.style.paddingBottom = `${(rows - to) * rowHeight}px`;
        return [from * columns, Math.min(count, to * columns)];
    }

    #place(item, index, next) {
        const tile = this.tiles.get(item) ?? this.#createTile(item);
        this.#update(item, tile, index);
        const { element } = tile;
        if (element.nextSibling !== next || !element.parentNode) this.list.insertBefore(element, next);
        return element;
    }

    #createTile(item) {
        const element = this.template.cloneNode(true);
        const find = (selector) => element.querySelector(selector);
        for (const name of element.querySelectorAll("bdi")) name.textContent = baseName(item.name);
        const tile = { element, image: find("img"), remove: find(".remove"), state: "" };
        this.tiles.set(item, tile);
        return tile;
    }

    #update(item, tile, index) {
        tile.element.ariaPosInSet = String(index + 1);
        tile.element.ariaSetSize = String(this.batch.items.length);
        tile.remove.tabIndex = item === this.active ? 0 : -1;
        if (tile.state === item.state) return;
        tile.state = item.state;
        tile.element.className = `thumb ${item.state}`;
        tile.element.classList.toggle("without-picture", item.picture === null); // as for a TIFF in most browsers
        tile.element.title = item.name;
        if (item.picture && !tile.image.src) tile.image.src = dataUrl(item.picture);
    }

    #removeTile(item, tile) {
        tile.element.remove();
        this.tiles.delete(item);
    }

    #itemOf(element) {
        const tileElement = element.closest(".thumb");
        for (const [item, tile] of this.tiles) if (tile.element === tileElement) return item;
        return null;
    }

    /** A click on the button removes the file; a click on its tile selects it for the keyboard. */
    #onClick({ target }) {
        const item = this.#itemOf(target);
        if (!item) return;
        if (target.closest(".remove")) this.#removeItem(item);
        else this.#focus(this.batch.items.indexOf(item));
    }

    #onKeyDown(event) {
        if (!event.target.closest(".remove") || event.ctrlKey || event.metaKey || event.altKey) return;
        const { items } = this.batch;
        const index = items.indexOf(this.#itemOf(event.target));
        const { columns } = this;
        const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
        const ends = { Home: 0, End: items.length - 1 };
        if (["Delete", "Backspace"].includes(event.key)) this.#removeItem(items[index]);
        else if (event.key in steps) this.#focus(index + steps[event.key]);
        else if (event.key in ends) this.#focus(ends[event.key]);
        else return;
        event.preventDefault(); // or the page scrolls
    }

    /** Remove an item. The focus goes to its neighbour, or to the button that adds files. */
    #removeItem(item) {
        const index = this.batch.items.indexOf(item);
        this.batch.remove(item);
        this.layoutChanged = true;
        this.#render();
        if (this.batch.total) this.#focus(Math.min(index, this.batch.total - 1));
        else requestAnimationFrame(() => document.getElementById("choose").focus()); // which a phone shows by then
    }

    /** Focus the button of the item at `index`, if there is such an item that the user can remove. */
    #focus(index) {
        const item = this.batch.items[index];
        if (!item || !isRemovable(item)) return;
        const top = this.list.getBoundingClientRect().top + Math.floor(index / this.columns) * this.rowHeight;
        if (top < 0 || top + this.rowHeight > innerHeight) scrollBy({ top: top - innerHeight / 3 });
        this.active = item;
        this.layoutChanged = true;
        this.#render();
        this.tiles.get(item)?.remove.focus({ preventScroll: true });
    }
}

function clamp(value, min, max) {
    return Math.max(min, Math.min(max, value));
}
