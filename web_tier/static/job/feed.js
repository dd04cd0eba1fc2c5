// Live updates of a job: server-sent events while the page is visible, or polling while the stream is unavailable.

import { fetchInTime, POLL_TIMEOUT_MS } from "../fetching.js";
import { goToSignIn, needsSignIn } from "../sign_in.js";
import { isGone } from "./gone.js";

const POLL_INTERVAL_MS = 2_000;
/** Polling lasts this long before the page tries to open a stream again. */
const STREAM_RETRY_MS = 30_000;
/** A stream without an event for this long is broken. The server sends one at least every 10 s. */
const MAX_SILENCE_MS = 25_000;
/** More would hold up the page while they are read. */
const ROWS_PER_PAGE = 500;

/**
 * @typedef {object} FeedListener
 * @property {(rows: Partial<Row>[]) => void} rows - receives new and changed rows; see rows.js.
 * @property {(progress: object, hasEnded: boolean) => void} progress - receives the body of `/jobs/ID/progress`.
 * @property {() => void} gone - called when the job has been deleted.
 */

export class Feed {
    /**
     * @param {string} jobId
     * @param {FeedListener} listener
     * @param {Connection} connection - learns of each success and failure; see connection.js.
     */
    constructor(jobId, listener, connection) {
        this.jobId = jobId;
        this.listener = listener;
        this.connection = connection;
        this.lastEventId = "";
        this.hasEnded = false;
        this.isAwaited = false; // whether this page still has images to send
        this.hasReadAll = false; // at least once
        this.reading = null;
        this.mustReadAgain = false;
        document.addEventListener("visibilitychange", () => this.#onVisibilityChange());
    }

    /** Follow the job until it ends, and at least for `milliseconds`: a retried image counts as failed at first. */
    follow(milliseconds) {
        this.followUntil = performance.now() + milliseconds;
        this.#openStream();
    }

    /** Follow the job for at least `milliseconds` more, even if it has ended: an image has been requested again. */
    resume(milliseconds) {
        this.hasEnded = false;
        this.follow(milliseconds);
    }

    /** Read all rows. A call during a read starts one more read after it. */
    async readAll() {
        if (this.reading) {
            this.mustReadAgain = true;
            return this.reading;
        }
        this.reading = this.#readPages().finally(() => {
            this.reading = null;
        });
        await this.reading;
        if (this.mustReadAgain) {
            this.mustReadAgain = false;
            await this.readAll();
        }
    }

    async #readPages() {
        let after = "";
        do {
            const cursor = after && `&after=${after}`;
            const page = await this.#fetchJson(`/jobs/${this.jobId}/rows?limit=${ROWS_PER_PAGE}${cursor}`);
            this.listener.rows(page.rows);
            after = page.next;
        } while (after);
        this.hasReadAll = true;
    }

    async #fetchJson(url, milliseconds) {
        const response = await fetchInTime(url, { headers: { Accept: "application/json" } }, milliseconds);
        if (isGone(response)) {
            this.#end();
            this.listener.gone();
        }
        if (needsSignIn(response)) {
            if (!this.isAwaited) {
                this.#end();
                goToSignIn();
            }
            throw new Error(`${url} requires a sign-in`);
        }
        if (!response.ok) throw new Error(`${url} returned ${response.status}`);
        return response.json();
    }

    // A browser opens at most six connections to a server for all its tabs, so a hidden tab closes its stream.
    #onVisibilityChange() {
        if (document.hidden) this.#pause();
        else if (!this.hasEnded) this.#openStream();
        else this.checkEnded();
    }

    /** Another tab may have retried images of the job, or deleted it; its owner may have ended the share. */
    checkEnded() {
        this.hasEnded = false;
        this.#startPolling();
    }

    // Also when the job has ended meanwhile: nothing else would read the rows that have not come.
    #readByPolls() {
        this.counts = null;
        this.checkEnded();
    }

    #close() {
        this.source?.close();
        this.source = null;
        clearTimeout(this.pollTimer);
        clearTimeout(this.silenceTimer);
    }

    #pause() {
        this.#close();
        this.connection.paused();
    }

    get #mayEnd() {
        return !this.isAwaited && performance.now() > this.followUntil;
    }

    #end() {
        this.hasEnded = true;
        this.#pause();
    }

    #openStream() {
        if (this.source || document.hidden) return;
        clearTimeout(this.pollTimer);
        const resume = this.lastEventId && `?last_event_id=${encodeURIComponent(this.lastEventId)}`;
        const source = new EventSource(`/api/v1/jobs/${this.jobId}/events${resume}`);
        this.source = source;
        const on = (type, handle) =>
            source.addEventListener(type, (event) => {
                this.#onSign(source);
                this.lastEventId = event.lastEventId;
                handle(JSON.parse(event.data));
            });
        source.addEventListener("open", () => this.#onSign(source));
        source.addEventListener("alive", () => this.#onSign(source));
        on("resync", () => this.readAll().catch(() => this.#readByPolls()));
        on("images", ({ rows }) => this.listener.rows(rows));
        on("results", ({ rows }) => this.listener.rows(rows));
        on("progress", (progress) => this.listener.progress(progress, false));
        on("end", (progress) => {
            this.counts = countsOf(progress);
            this.listener.progress(progress, true);
            if (this.#mayEnd) this.#end();
            else this.#startPolling();
        });
        on("gone", () => {
            this.#end();
            this.listener.gone();
        });
        source.addEventListener("error", () => {
            if (source !== this.source) return;
            this.connection.failed();
            if (source.readyState === EventSource.CLOSED) this.#startPolling();
        });
        this.#expectSign(source);
    }

    /** The stream is open: everything that the page shows is current. */
    #onSign(source) {
        if (source !== this.source) return;
        this.connection.succeeded();
        this.#expectSign(source);
    }

    // A machine or a network that disappears ends no connection: then only the silence shows it.
    #expectSign(source) {
        clearTimeout(this.silenceTimer);
        this.silenceTimer = setTimeout(() => {
            if (source !== this.source) return;
            this.connection.failed();
            this.#startPolling();
        }, MAX_SILENCE_MS);
    }

    // Used when the server has rejected or ended the stream.
    #startPolling() {
        this.#close();
        this.lastEventId = "";
        if (!this.hasEnded && !document.hidden) this.#poll(performance.now() + STREAM_RETRY_MS);
    }

    async #poll(reopenAt) {
        try {
            const progress = await this.#fetchJson(`/jobs/${this.jobId}/progress`, POLL_TIMEOUT_MS);
            const counts = countsOf(progress);
            if (counts !== this.counts || progress.retried) await this.readAll();
            if (counts !== this.counts && this.isAwaited) reopenAt = 0;
            this.counts = counts;
            this.connection.succeeded();
            if (progress.settled && this.#mayEnd) this.#end();
            this.listener.progress(progress, progress.settled);
        } catch {
            if (!this.hasEnded && !document.hidden) this.connection.failed(); // the next poll may succeed
        }
        if (this.hasEnded || document.hidden) return;
        const next = () => (performance.now() > reopenAt ? this.#openStream() : this.#poll(reopenAt));
        this.pollTimer = setTimeout(next, POLL_INTERVAL_MS);
    }
}

/** Return what changes when the rows of a job change. */
const countsOf = ({ accepted, done, failed, resends, border }) =>
    `${accepted}/${done}/${failed}/${resends}/${border}`;
