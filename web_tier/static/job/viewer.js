// A dialog that shows the page of one image over the list.

import { goToSignIn, needsSignIn } from "../sign_in.js";

export class Viewer {
    /**
     * @param {string} base - the job's path.
     * @param {(id: string, step: number) => string | undefined} neighbour - returns the id of the image that is `step`
     *     places after the image in the list.
     * @param {(id: string) => HTMLElement | undefined} reveal - scrolls the list to an image and returns its link.
     */
    constructor(base, neighbour, reveal) {
        this.base = base;
        this.neighbour = neighbour;
        this.reveal = reveal;
        this.dialog = document.getElementById("viewer");
        this.content = document.getElementById("viewed");
        this.dialog.addEventListener("click", (event) => this.#onClick(event));
        this.dialog.addEventListener("keydown", (event) => this.#onKeyDown(event));
        this.dialog.addEventListener("close", () => this.link?.focus());
    }

    /** Show an image, or reload it. `link` gets the focus when the dialog closes. */
    async open(id, link) {
        this.id = id;
        this.link = link ?? this.link;
        if (!this.dialog.open) {
            this.content.replaceChildren();
            this.dialog.showModal();
        }
        for (const button of this.dialog.querySelectorAll("[data-step]")) {
            button.disabled = !this.neighbour(id, Number(button.dataset.step));
        }
        const article = await this.#fetchImagePage(id);
        if (this.id !== id) return; // the user has gone on to another image
        this.content.replaceChildren(article);
    }

    /** The id of the image in the open dialog, or undefined. */
    get shownId() {
        return this.dialog.open ? this.id : undefined;
    }

    async #fetchImagePage(id) {
        try {
            const response = await fetch(`${this.base}/images/${id}`);
            if (needsSignIn(response)) goToSignIn();
            const page = new DOMParser().parseFromString(await response.text(), "text/html");
            return document.adoptNode(page.getElementById("image"));
        } catch {
            const warning = document.createElement("p");
            warning.className = "warning";
            warning.textContent = "This image cannot be shown. Try again in a moment.";
            return warning;
        }
    }

    #step(step) {
        const next = this.neighbour(this.id, step);
        if (next) this.open(next, this.reveal(next));
    }

    #onClick(event) {
        const button = event.target.closest("[data-step]");
        if (button) this.#step(Number(button.dataset.step));
        else if (event.target === this.dialog) this.dialog.close(); // a click on the backdrop
    }

    #onKeyDown(event) {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (step && !event.target.closest("[role=region]")) this.#step(step); // a region scrolls by the arrow keys
    }
}
