// Pages that keep themselves up to date: polling, and the banner that says that the server is lost, and how old all is.

import { fetchInTime, POLL_TIMEOUT_MS } from "./fetching.js";
import { goToSignIn, needsSignIn } from "./sign_in.js";

/** A page has lost its connection when nothing has succeeded for this long after the first failure, in milliseconds. */
const GRACE_MS = 5_000;

export class Connection {
    #timer = null;
    #updatedAt = Date.now(); // the server has just rendered the page
    #banner = null;

    constructor() {
        addEventListener("offline", () => this.failed());
    }

    /** Report that the page has just received current figures: after each successful poll and each event of a stream. */
    succeeded() {
        this.#updatedAt = Date.now();
        this.paused();
        this.#banner?.remove();
        this.#banner = null;
    }

    /** Report a failed poll, or an error of a stream. The banner appears unless something succeeds within seconds. */
    failed() {
        if (!this.#banner) this.#timer ??= setTimeout(() => this.#lose(), GRACE_MS);
    }

    /** Report that the page asks no more, for example while it is hidden. An earlier failure does not count then. */
    paused() {
        clearTimeout(this.#timer);
        this.#timer = null;
    }

    #lose() {
        this.#timer = null;
        this.#banner = document.createElement("p");
        this.#banner.className = "connection-lost";
        this.#banner.setAttribute("role", "alert");
        document.querySelector("main").prepend(this.#banner);
        const time = new Date(this.#updatedAt).toLocaleTimeString("en-GB");
        // An alert is announced when its text changes in the page.
        this.#banner.textContent = `Connection lost. Retrying… Figures are from ${time}.`;
    }
}

/**
 * Fetch an address again and again while the page is visible.
 *
 * @param {string} address
 * @param {(response: Response) => void | Promise<void>} show - shows what the server has returned.
 * @param {() => number} interval - returns the time until the next poll, in milliseconds.
 */
export function keepPolling(address, show, interval) {
    const connection = new Connection();
    let timer = null;
    const poll = async () => {
        try {
            const response = await fetchInTime(address, {}, POLL_TIMEOUT_MS);
            if (needsSignIn(response)) goToSignIn();
            if (!response.ok) throw new Error(`${address} returned ${response.status}`);
            await show(response);
            connection.succeeded();
        } catch {
            connection.failed(); // the next poll may succeed
        }
        schedule();
    };
    const schedule = () => {
        clearTimeout(timer);
        if (document.hidden) connection.paused();
        else timer = setTimeout(poll, interval());
    };
    document.addEventListener("visibilitychange", () => (document.hidden ? schedule() : poll()));
    schedule();
}
