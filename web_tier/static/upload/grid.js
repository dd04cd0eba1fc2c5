// The grid of thumbnails. Only the visible rows are in the page, so that it scrolls smoothly with 10,000 files.

import { oncePerFrame } from "../frames.js";

/**
 * Return a thumbnail's URL: `data:`, since the browser's main process handles each `blob:` URL, which delays scrolling
 * through thousands of images, and a `blob:` URL has to be revoked.
 *
 * @param {Thumbnail} picture - see batch.js.
 */
function dataUrl({ type, bytes }) {
    return `data:${type};base64,${btoa(String.fromCharCode(...new Uint8Array(bytes)))}`;
}

/** Rows drawn above and below the window. */
const OVERSCAN_ROWS = 3;
/** An item that gets one of these states changes the number of tiles. `undefined`: the batch was cleared. */
const LAYOUT_STATES = [undefined, "checking", "rejected"];
const STATE_TEXTS = {
    checking: ["…", "being checked"],
    ready: [" ", "ready"],
    sending: ["", "being sent"], // shows the percentage instead of a sign
    unsent: ["!", "not sent"],
    accepted: ["✓", "sent"],
    rejected: ["✕", "not taken"],
};

export class Grid {
    #renderSoon = oncePerFrame(() => this.#render());

    /**
     * @param {HTMLElement} list - the list that gets the tiles.
     * @param {Batch} batch
     * @param {Uploader} uploader
     */
    constructor(list, batch, uploader) {
        this.list = list;
        this.batch = batch;
        this.tiles = new Map(); // item → {element, image, badge, state}
        this.layoutChanged = true;
        this.visibleRange = [0, 0];
        batch.addEventListener("change", ({ detail }) => this.#schedule(LAYOUT_STATES.includes(detail?.state)));
        uploader.addEventListener("change", () => this.#schedule(false));
        addEventListener("scroll", () => this.#schedule(true), { passive: true });
        new ResizeObserver(() => this.#schedule(true)).observe(list);
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
        for (const [item, tile] of this.tiles) if (!visible.has(item)) this.#remove(item, tile);
        let next = null;
        for (let index = last - 1; index >= first; index -= 1) next = this.#place(items[index], index, next);
    }

    /** Return the range of visible items, and pad the list to the height that it would have with all tiles. */
    #layOut(count) {
        const style = getComputedStyle(this.list);
        const columns = Math.max(1, style.gridTemplateColumns.split(" ").length);
        const rowHeight = parseFloat(style.gridAutoRows) + parseFloat(style.rowGap);
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
        const element = document.createElement("li");
        const image = new Image();
        const name = document.createElement("bdi");
        const badge = document.createElement("span");
        image.alt = "";
        image.decoding = "async";
        name.textContent = element.title = item.name;
        name.className = "name";
        badge.className = "state";
        element.append(image, name, badge);
        const tile = { element, image, badge, state: "" };
        this.tiles.set(item, tile);
        return tile;
    }

    #update(item, tile, index) {
        tile.element.ariaPosInSet = String(index + 1);
        tile.element.ariaSetSize = String(this.batch.items.length);
        if (item.state === "sending") tile.badge.textContent = `${Math.floor(item.request.share * 100)}%`;
        if (tile.state === item.state) return;
        tile.state = item.state;
        const [sign, description] = STATE_TEXTS[item.state];
        tile.element.className = `thumb ${item.state}`;
        tile.element.title = item.reason ? `${item.name}: ${item.reason}` : item.name;
        if (sign) tile.badge.textContent = sign;
        tile.badge.ariaLabel = description;
        tile.badge.role = "img";
        if (item.picture && !tile.image.src) tile.image.src = dataUrl(item.picture);
    }

    #remove(item, tile) {
        tile.element.remove();
        this.tiles.delete(item);
    }
}

function clamp(value, min, max) {
    return Math.max(min, Math.min(max, value));
}
