// The grid of thumbnails. Only the rows that can be seen are in the page, so it is as smooth with 10,000 files as with
// ten.

import { addressOf } from "../job/local_pictures.js";

const ROWS_AROUND = 3;
/** An item that gets one of these states, or is gone, makes the list longer or moves it. */
const MOVING = [undefined, "checking", "refused"];
const SHOWN = {
    checking: ["…", "being checked"],
    ready: [" ", "ready"],
    sending: ["", "being sent"], // its share, in percent
    stuck: ["!", "not sent"],
    accepted: ["✓", "sent"],
    refused: ["✕", "not taken"],
};

export class Grid {
    /** @param {HTMLElement} list - the list that gets the tiles. */
    constructor(list, batch, uploader) {
        this.list = list;
        this.batch = batch;
        this.tiles = new Map(); // item → {tile, image, state, at}
        this.waiting = false;
        this.moved = true; // whether other items may be in sight than before
        this.range = [0, 0];
        batch.addEventListener("change", ({ detail }) => this.#soon(MOVING.includes(detail?.state)));
        uploader.addEventListener("change", () => this.#soon(false));
        addEventListener("scroll", () => this.#soon(true), { passive: true });
        new ResizeObserver(() => this.#soon(true)).observe(list);
    }

    #soon(moved) {
        this.moved ||= moved;
        if (this.waiting) return;
        this.waiting = true;
        requestAnimationFrame(() => {
            this.waiting = false;
            this.#render();
        });
    }

    #render() {
        const { items } = this.batch;
        if (this.moved) this.range = this.#visible(items.length);
        this.moved = false;
        const [first, last] = this.range;
        const wanted = new Set(items.slice(first, last));
        for (const [item, shown] of this.tiles) if (!wanted.has(item)) this.#remove(item, shown);
        let before = null;
        for (let index = last - 1; index >= first; index -= 1) before = this.#place(items[index], index, before);
    }

    /** Return the range of items in sight, and pad the list so that it is as high as if all were there. */
    #visible(count) {
        const style = getComputedStyle(this.list);
        const columns = Math.max(1, style.gridTemplateColumns.split(" ").length);
        const height = parseFloat(style.gridAutoRows) + parseFloat(style.rowGap);
        const rows = Math.ceil(count / columns);
        const above = -this.list.getBoundingClientRect().top;
        const from = clamp(Math.floor(above / height) - ROWS_AROUND, 0, rows);
        const to = clamp(Math.ceil((above + innerHeight) / height) + ROWS_AROUND, from, rows);
        this.list.style.paddingTop = `${from * height}px`;
        this.list.style.paddingBottom = `${(rows - to) * height}px`;
        return [from * columns, Math.min(count, to * columns)];
    }

    #place(item, index, before) {
        const shown = this.tiles.get(item) ?? this.#make(item);
        this.#update(item, shown, index);
        if (shown.tile.nextSibling !== before || !shown.tile.parentNode) this.list.insertBefore(shown.tile, before);
        return shown.tile;
    }

    #make(item) {
        const tile = document.createElement("li");
        const image = new Image();
        const name = document.createElement("bdi");
        const state = document.createElement("span");
        image.alt = "";
        image.decoding = "async";
        name.textContent = tile.title = item.name;
        name.className = "name";
        state.className = "state";
        tile.append(image, name, state);
        const shown = { tile, image, state, at: "" };
        this.tiles.set(item, shown);
        return shown;
    }

    #update(item, shown, index) {
        shown.tile.ariaPosInSet = String(index + 1);
        shown.tile.ariaSetSize = String(this.batch.items.length);
        if (item.state === "sending") shown.state.textContent = `${Math.floor(item.slice.share * 100)}%`;
        if (shown.at === item.state) return;
        shown.at = item.state;
        const [sign, words] = SHOWN[item.state];
        shown.tile.className = `thumb ${item.state}`;
        shown.tile.title = item.reason ? `${item.name}: ${item.reason}` : item.name;
        if (sign) shown.state.textContent = sign;
        shown.state.ariaLabel = words;
        shown.state.role = "img";
        if (item.picture && !shown.image.src) shown.image.src = addressOf(item.picture);
    }

    #remove(item, shown) {
        shown.tile.remove();
        this.tiles.delete(item);
    }
}

function clamp(value, least, most) {
    return Math.max(least, Math.min(most, value));
}
