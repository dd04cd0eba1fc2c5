// One image in a dialog: the same that its own page shows, fetched from there.

import { goToSignIn, needsSignIn } from "../sign_in.js";
import { showOwnPictures } from "./own_pictures.js";

export class Viewer {
  /**
   * @param {string} base the job's address
   * @param {(id, step) => string | undefined} neighbour the id of the image before or after one in the list
   * @param {(id) => HTMLElement | undefined} reveal scrolls the list to an image and returns its link
   */
  constructor(base, neighbour, reveal) {
    this.base = base;
    this.neighbour = neighbour;
    this.reveal = reveal;
    this.dialog = document.getElementById("viewer");
    this.place = document.getElementById("viewed");
    this.dialog.addEventListener("click", (event) => this.#onClick(event));
    this.dialog.addEventListener("keydown", (event) => this.#onKey(event));
    this.dialog.addEventListener("close", () => this.link?.focus());
  }

  async open(id, link) {
    this.id = id;
    this.link = link ?? this.link;
    if (!this.dialog.open) {
      this.place.replaceChildren();
      this.dialog.showModal();
    }
    for (const button of this.dialog.querySelectorAll("[data-step]")) {
      button.disabled = !this.neighbour(id, Number(button.dataset.step));
    }
    const found = await this.#fetched(id);
    if (this.id !== id) return;
    this.place.replaceChildren(found);
    showOwnPictures(found);
  }

  /** The id of the image that is shown, if one is. */
  get shown() {
    return this.dialog.open ? this.id : undefined;
  }

  async #fetched(id) {
    try {
      const answer = await fetch(`${this.base}/images/${id}`);
      if (needsSignIn(answer)) goToSignIn();
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      return document.adoptNode(page.getElementById("image"));
    } catch {
      const failed = document.createElement("p");
      failed.className = "warning";
      failed.textContent = "This image cannot be shown just now; try again in a moment.";
      return failed;
    }
  }

  #step(step) {
    const next = this.neighbour(this.id, step);
    if (next) this.open(next, this.reveal(next));
  }

  #onClick(event) {
    const button = event.target.closest("[data-step]");
    if (button) this.#step(Number(button.dataset.step));
    else if (event.target === this.dialog) this.dialog.close(); // the backdrop
  }

  #onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && !event.target.closest("[role=region]")) this.#step(step);
  }
}
