// The forecast of the chosen images: when their results come, and what they cost. The server computes it.

import { fetchState } from "../fetch_state.js";

/** The number of images must stay the same for this long before the page asks for its forecast. */
const SETTLE_MS = 300;
/** An unchanged batch gets a new forecast so often, since the fleet changes. */
const RENEW_MS = 15_000;

export class Forecast {
    #images = 0;
    #timer;

    /**
     * @param {HTMLElement} text - shows the forecast.
     * @param {HTMLElement} fleet - the state of the fleet, which a forecast replaces.
     */
    constructor(text, fleet) {
        Object.assign(this, { text, fleet });
    }

    /** Show the forecast of so many images; with 0 show none. */
    update(images) {
        if (images === this.#images) return;
        this.#images = images;
        clearTimeout(this.#timer);
        if (images) this.#timer = setTimeout(() => this.#ask(), SETTLE_MS);
        else this.#show("");
    }

    async #ask() {
        const images = this.#images;
        const forecast = document.hidden ? null : await fetchState(`/api/v1/forecast?images=${images}`);
        if (images !== this.#images) return;
        if (forecast) this.#show(forecast.text);
        this.#timer = setTimeout(() => this.#ask(), RENEW_MS);
    }

    #show(text) {
        this.text.textContent = text;
        this.fleet.hidden = text !== "";
    }
}
