// The forecast of the chosen images: when their results come, and what they cost. The server computes it.

import { fetchState } from "../fetching.js";

/** The number of images must stay the same for this long before the page asks for its forecast. */
const SETTLE_MS = 300;
/** An unchanged batch gets a new forecast so often, since the fleet changes. */
const RENEW_MS = 15_000;

export class Forecast {
    #images = 0;
    #finishBy = null;
    #timer;

    /** @param {HTMLElement} text - shows the forecast. */
    constructor(text) {
        this.text = text;
    }

    /** Show the forecast of so many images, with a time also of a job that may be finished then; with 0 show none. */
    update(images, finishBy) {
        if (images === this.#images && finishBy?.getTime() === this.#finishBy?.getTime()) return;
        this.#images = images;
        this.#finishBy = finishBy;
        clearTimeout(this.#timer);
        if (images) this.#timer = setTimeout(() => this.#ask(), SETTLE_MS);
        else this.text.textContent = "";
    }

    async #ask() {
        const [images, finishBy] = [this.#images, this.#finishBy];
        const url = `/api/v1/forecast?images=${images}`;
        const laterUrl = finishBy && `${url}&finish_by=${encodeURIComponent(finishBy.toISOString())}`;
        const [now, later] = document.hidden ? [] : await Promise.all([url, laterUrl].map((each) => each && fetchState(each)));
        if (images !== this.#images || finishBy !== this.#finishBy) return;
        const time = finishBy?.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
        if (now) this.text.textContent = later ? `Now: ${now.text}\nBy ${time}: ${later.text}` : now.text;
        this.#timer = setTimeout(() => this.#ask(), RENEW_MS);
    }
}
