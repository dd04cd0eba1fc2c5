// The list of files before their job is there: its tiles are those of the job, with buttons that remove them.
//
// The buttons are one tab stop: the arrow keys move between them.

import { createTile, updateTile } from "../job/items.js";
import { VirtualList } from "../virtual_list.js";

export class Grid extends VirtualList {
    #active; // id of the item with the button that is the tab stop

    /**
     * @param {HTMLElement} list - the list that gets the tiles.
     * @param {Adding} adding
     */
    constructor(list, adding) {
        const button = document.getElementById("remove-template").content.firstElementChild;
        super(list, {
            createItem(item) {
                const tile = createTile("", rowOf(item));
                tile.append(button.cloneNode(true));
                tile.lastElementChild.querySelector("bdi").textContent = item.name;
                return tile;
            },
            update: (tile, item) => updateTile(tile, rowOf(item)),
            requestPicture: (item) => adding.requestPicture(item),
        });
        const { batch } = Object.assign(this, { batch: adding.batch });
        batch.addEventListener("change", () => this.show(batch.items), { signal: this.abort.signal });
        list.addEventListener("click", (event) => this.#onClick(event));
        list.addEventListener("keydown", (event) => this.#onKeyDown(event));
    }

    draw(...options) {
        super.draw(...options);
        if (!this.elements.has(this.#active)) this.#active = this.rows.find(({ id }) => this.elements.has(id))?.id;
        for (const [id, tile] of this.elements) tile.querySelector(".remove").tabIndex = id === this.#active ? 0 : -1;
    }

    /** Return the place of the item with an element; -1 if there is none. */
    #indexOf(element) {
        const tile = element.closest(".tile");
        return this.rows.findIndex(({ id }) => tile && this.elements.get(id) === tile);
    }

    /** A click on the button removes the file; a click on its tile selects it for the keyboard. */
    #onClick({ target }) {
        const index = this.#indexOf(target);
        if (index < 0) return;
        if (target.closest(".remove")) this.#remove(index);
        else this.#focus(index);
    }

    #onKeyDown(event) {
        if (!event.target.closest(".remove") || event.ctrlKey || event.metaKey || event.altKey) return;
        const index = this.#indexOf(event.target);
        const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns };
        const ends = { Home: 0, End: this.rows.length - 1 };
        if (["Delete", "Backspace"].includes(event.key)) this.#remove(index);
        else if (event.key in steps) this.#focus(index + steps[event.key]);
        else if (event.key in ends) this.#focus(ends[event.key]);
        else return;
        event.preventDefault(); // or the page scrolls
    }

    /** Remove an item. The focus goes to its neighbour, or to the button that adds files. */
    #remove(index) {
        this.batch.remove(this.rows[index]);
        if (this.rows.length) this.#focus(Math.min(index, this.rows.length - 1));
        else requestAnimationFrame(() => document.getElementById("choose").focus()); // which a phone shows by then
    }

    /** Focus the button of the item at `index`, if there is such an item. */
    #focus(index) {
        const item = this.rows[index];
        if (!item) return;
        this.reveal(index);
        this.#active = item.id;
        this.draw();
        this.elements.get(item.id).querySelector(".remove").focus({ preventScroll: true });
    }
}

/** Return a file as a row of the list: see ../job/rows.js. */
const rowOf = (item) => ({ name: item.name, status: "waiting", item });
