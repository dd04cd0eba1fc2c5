// Shows the page of one image: in a panel beside the list, or in a dialog where the window is too narrow for both,
// and while the user goes through images one by one.

import { fetchOrLeave } from "./gone.js";

/** The panel stands beside the list from this width on; job.css has the same. */
const wide = matchMedia("(min-width: 1100px)");
/** A key that is held down passes images faster than they could be loaded: each must stay for this long first. */
const SETTLE_MS = 80;
/** Loaded pages of images that are kept: the shown one, its neighbours, and some that were shown before. */
const MAX_CACHED = 12;

export class Viewer {
    #pages = new Map(); // id and version of a row → promise of its page

    /** @param {JobPage} page - see main.js. */
    constructor(page) {
        this.page = page;
        this.dialog = document.getElementById("viewer");
        this.panel = document.getElementById("panel");
        this.detail = document.getElementById("detail");
        this.content = document.getElementById("viewed");
        this.detail.addEventListener("click", (event) => this.#onClick(event));
        this.dialog.addEventListener("click", ({ target }) => target === this.dialog && page.close()); // backdrop
        this.dialog.addEventListener("cancel", (event) => {
            event.preventDefault();
            page.close();
        });
        // A second Escape closes a dialog even if its cancel event was prevented.
        this.dialog.addEventListener("close", () => this.id && !this.isBeside && page.close());
        wide.addEventListener("change", () => this.id && this.place());
    }

    /** Whether the image is beside the list, not over it. */
    get isBeside() {
        return wide.matches && !this.page.queue;
    }

    /**
     * Show an image, or show it again after a change. Other modules may add to its page: the event `image-shown` has
     * its id, its row and the article.
     *
     * @param {string} id
     * @param {Row} [row] - its row, if the page has received it.
     */
    async show(id, row) {
        const key = pageKey(id, row);
        if (this.key === key) return;
        const isOther = this.id !== id;
        this.id = id;
        this.key = key;
        document.getElementById("own-page").href = `${this.page.base}/images/${id}`;
        this.place();
        this.updateSteps();
        if (isOther && !this.#pages.has(key)) {
            this.#showSkeleton(row);
            await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
            if (this.key !== key) return;
        }
        const page = await this.#page(id, row);
        if (this.key !== key) return; // the user has gone on to another image
        const article = document.importNode(page, true);
        const isExpanded = [...this.content.querySelectorAll("details")].map((details) => details.open);
        this.content.replaceChildren(article);
        this.#showThumbnailUntilLoaded(article.querySelector(".shown img"));
        if (!isOther) for (const [index, details] of [...this.content.querySelectorAll("details")].entries()) {
            details.open ||= isExpanded[index] ?? false;
        }
        this.detail.dispatchEvent(new CustomEvent("image-shown", { bubbles: true, detail: { id, row, article } }));
        for (const step of [1, -1]) {
            const neighbour = this.page.neighbour(id, step);
            if (neighbour) this.#preload(neighbour);
        }
    }

    hide() {
        this.id = this.key = undefined;
        this.panel.hidden = true;
        this.dialog.close();
        this.content.replaceChildren();
    }

    /** Move the focus into the panel. */
    focus() {
        this.detail.querySelector("button:enabled").focus();
    }

    /** Update what depends on the list: the buttons and the place of the image. */
    updateSteps() {
        if (!this.id) return;
        for (const button of this.detail.querySelectorAll("[data-step]")) {
            button.disabled = !this.page.neighbour(this.id, Number(button.dataset.step));
        }
        document.getElementById("position").textContent = this.page.position(this.id);
    }

    /** Put the image beside the list or into the dialog, whichever is right now. */
    place() {
        this.dialog.classList.toggle("one-by-one", this.page.queue !== null);
        const parent = this.isBeside ? this.panel : this.dialog;
        if (this.detail.parentElement !== parent) parent.append(this.detail);
        this.panel.hidden = !this.isBeside;
        if (this.isBeside) this.dialog.close();
        else if (!this.dialog.open) this.dialog.showModal();
    }

    #showSkeleton(row) {
        const skeleton = document.getElementById("skeleton-template").content.firstElementChild.cloneNode(true);
        skeleton.querySelector("bdi").textContent = row?.name ?? "";
        this.content.replaceChildren(skeleton);
        skeleton.querySelector("img").src = this.#thumbnail;
    }

    /** A kept image may be large: its thumbnail stands behind it until then. */
    #showThumbnailUntilLoaded(picture) {
        if (!picture || picture.complete) return;
        picture.style.background = `url("${this.#thumbnail}") center / contain no-repeat`;
        picture.addEventListener("load", () => picture.style.removeProperty("background"), { once: true });
    }

    /** The address of the open image's thumbnail, which the list has loaded. */
    get #thumbnail() {
        return `${this.page.base}/images/${this.id}/thumbnail`;
    }

    /** Load the page and the picture of an image that the user may want to see next. */
    async #preload(row) {
        const image = (await this.#page(row.id, row)).querySelector(".shown img");
        if (image) new Image().src = image.getAttribute("src");
    }

    #page(id, row) {
        const key = pageKey(id, row);
        if (!this.#pages.has(key)) {
            this.#pages.set(key, this.#fetchPage(id, key));
            if (this.#pages.size > MAX_CACHED) this.#pages.delete(this.#pages.keys().next().value);
        }
        return this.#pages.get(key);
    }

    async #fetchPage(id, key) {
        try {
            const response = await fetchOrLeave(`${this.page.base}/images/${id}`);
            const page = new DOMParser().parseFromString(await response.text(), "text/html");
            const article = page.getElementById("image");
            if (!article) throw new Error(`${id} returned ${response.status}`);
            article.querySelector("h1").ariaLevel = "2"; // the job's page has its own title
            return article;
        } catch {
            this.#pages.delete(key);
            const warning = document.createElement("p");
            warning.className = "warning";
            warning.textContent = "This image cannot be shown. Try again in a moment.";
            return warning;
        }
    }

    #onClick(event) {
        const step = event.target.closest("[data-step]")?.dataset.step;
        const next = step && this.page.neighbour(this.id, Number(step));
        if (next) this.page.open(next.id);
        else if (event.target.closest("[data-close]")) this.page.close();
    }
}

const pageKey = (id, row) => `${id} ${row?.version ?? 0}`;
