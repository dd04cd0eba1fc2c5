// Uploads a batch in several concurrent requests. Each request has an idempotency key, so that the page can retry a
// request without a response. Retries back off, and wait until the server is ready again.

import { fetchState } from "../fetching.js";
import { ApiError, SignedOutError, StoppedError, addImages, createJob, randomHex } from "./api.js";
import { UNREADABLE_REASON, addImagesDirectly, isReadable } from "./direct.js";

const MAX_CONCURRENT_REQUESTS = 3;
const MAX_REQUEST_FILES = 50;
/** A large pack of the server, which has images of one request. */
const MAX_REQUEST_BYTES = 48 * 2 ** 20;
/** A request holds what the line sends in this time: so much is sent again after a lost connection. */
const REQUEST_SECONDS = 10;
/** The first requests, before the rate of the line is known. They are small, since their labels are the first to come. */
const FIRST_REQUEST_BYTES = 2 ** 18;
/**
 * So long after the click an upload of many files waits for its first label, in milliseconds, where a worker boots in
 * that time. It is a process of the same machine then, and what is checked and sent meanwhile takes time from its start.
 */
const FIRST_LABEL_MS = 3_000;
/** The rate is that of the last seconds; it is known after the first one. */
const RATE_SECONDS = 10;
const MIN_RATE_SECONDS = 1;
/** So many ready files are enough for the first request. */
const FIRST_REQUEST_FILES = 10;
const MAX_ATTEMPTS = 6;
const FIRST_BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 15_000;
/** How long the page waits for an unavailable server before the next attempt. */
const MAX_OUTAGE_MS = 10 * 60_000;
const READY_POLL_MS = 1_000;
/** A file that the server could not store this many times is rejected. */
const MAX_STORE_FAILURES = 3;

/**
 * @typedef {object} UploadRequest
 * @property {BatchItem[]} items
 * @property {BatchItem[]} unreadable - items that are not sent, since the browser can no longer read their files.
 * @property {string} key - the idempotency key.
 * @property {number} bytes - of the items.
 * @property {number} remaining - how many files further requests have, as far as they are not rejected.
 * @property {number} share - how much of the body is sent, 0 to 1.
 */

export class Uploader extends EventTarget {
    /**
     * @param {Batch} batch
     * @param {{maxFiles: number, maxRequestBytes: number, bootSeconds: number, isDirect: boolean}} limits - the server's.
     * @param {object | null} job - to add to, as the API has it; null until `create`.
     */
    constructor(batch, limits, job) {
        super();
        this.batch = batch;
        this.maxFiles = Math.min(MAX_REQUEST_FILES, limits.maxFiles);
        this.maxBytes = Math.min(MAX_REQUEST_BYTES, limits.maxRequestBytes * 0.9);
        this.isDirect = limits.isDirect;
        this.canAwaitLabel = 1e3 * limits.bootSeconds < FIRST_LABEL_MS;
        this.job = job;
        this.isRunning = false;
        this.isServerDown = false;
        this.isSignedOut = false;
        this.stopping = new AbortController(); // of the current run
        this.requestsInFlight = new Set();
        this.failedRequests = []; // the next run retries them with the same key
        this.awaitsLabel = false; // whether further requests wait for the first label
        this.traceId = randomHex();
        this.progress = []; // [time in milliseconds, bytes sent until then] of the last seconds
    }

    /**
     * Create the job. Throws ApiError if that fails.
     *
     * @param {object} job - its fields, as the API takes them.
     */
    async create(job) {
        this.#start();
        const key = randomHex();
        try {
            this.job = await this.#retry(() => createJob(job, key, this.traceId));
        } finally {
            this.#update({ isRunning: false });
        }
        this.awaitsLabel = this.canAwaitLabel;
        setTimeout(() => this.endWait(), FIRST_LABEL_MS);
    }

    /** Send further requests: the first image has a label, or has failed. */
    endWait() {
        if (!this.awaitsLabel) return;
        this.awaitsLabel = false;
        this.progress = []; // the wait says nothing about the line
        this.batch.wake();
    }

    /** Upload every ready item to the job. Resolves when nothing is left to send, or when the user has stopped it. */
    async run() {
        this.#start();
        try {
            const retries = this.failedRequests.splice(0);
            for (const request of retries) this.#setStates(request, "sending");
            const senders = Array.from({ length: MAX_CONCURRENT_REQUESTS }, () => this.#sendRequests(retries));
            await Promise.all(senders);
        } finally {
            this.#update({ isRunning: false });
            this.batch.wake(); // checks may wait
        }
    }

    #start() {
        this.progress = [];
        this.#update({ isRunning: true, isSignedOut: false, stopping: new AbortController() });
    }

    /**
     * Stop the run: no further request starts, and a request ends unless its whole body is sent. An earlier attempt of it
     * may have reached the server, so the next run would retry it with its key.
     */
    stop() {
        this.stopping.abort();
        this.batch.wake();
        this.#update({});
    }

    /** Whether the user has stopped the last run. */
    get isStopped() {
        return this.stopping.signal.aborted;
    }

    /** Bytes that are sent; those of requests in flight count by their progress. */
    get sentBytes() {
        const { accepted } = this.batch.sizes;
        return [...this.requestsInFlight].reduce((sum, { bytes, share }) => sum + bytes * share, accepted);
    }

    /** The share of the batch that is sent, 0 to 1. */
    get share() {
        return this.batch.bytes ? Math.min(1, this.sentBytes / this.batch.bytes) : 0;
    }

    /** Whether the next requests are full: more files that the page has unpacked would only fill the memory. */
    get hasEnough() {
        const enough = Math.max(FIRST_REQUEST_FILES, this.#isHeld ? 0 : 2 * MAX_CONCURRENT_REQUESTS * this.maxFiles);
        return this.isRunning && this.job !== null && this.batch.counts.ready >= enough;
    }

    /** Bytes per second that were sent in the last seconds; 0 while that is not known. */
    get rate() {
        const [first] = this.progress;
        const last = this.progress.at(-1);
        const seconds = first ? (last[0] - first[0]) / 1_000 : 0;
        return seconds < MIN_RATE_SECONDS ? 0 : Math.max(0, (last[1] - first[1]) / seconds);
    }

    #noteProgress() {
        const now = performance.now();
        this.progress.push([now, this.sentBytes]);
        while (this.progress[0][0] < now - RATE_SECONDS * 1_000) this.progress.shift();
    }

    /** The size of the next request. */
    get #requestBytes() {
        const bytes = (this.rate * REQUEST_SECONDS) / MAX_CONCURRENT_REQUESTS || FIRST_REQUEST_BYTES;
        return Math.min(bytes, this.maxBytes);
    }

    async #sendRequests(retries) {
        for (;;) {
            if (this.isStopped) for (const request of retries.splice(0)) this.#setUnsent(request, "");
            const request = retries.shift() ?? (await this.#nextRequest());
            if (!request) return;
            this.requestsInFlight.add(request);
            await this.#send(request);
            this.requestsInFlight.delete(request);
        }
    }

    async #nextRequest() {
        for (;;) {
            const { counts, sizes } = this.batch;
            if (this.isStopped) return null;
            const isFirst = counts.accepted + counts.sending === 0;
            // While files are still being checked, a request waits until it is full; the first ones do not wait.
            const isFull = counts.ready >= this.maxFiles || sizes.ready >= this.#requestBytes;
            if (counts.ready && (isFull || !counts.checking || !this.rate) && (isFirst || !this.#isHeld)) {
                const items = this.batch.startSending(this.maxFiles, this.#requestBytes);
                return newRequest(items, counts.ready + counts.checking);
            }
            if (!counts.checking && !counts.ready) return null;
            await this.batch.nextChange();
        }
    }

    /** Whether all but the first request wait: those in flight cannot hold the whole batch. */
    get #isHeld() {
        return this.awaitsLabel && this.batch.total > MAX_CONCURRENT_REQUESTS * this.maxFiles;
    }

    /** Keep a request for the next run. */
    #setUnsent(request, reason) {
        this.#setStates(request, "unsent", reason);
        this.failedRequests.push(request);
    }

    #setStates({ items, unreadable }, state, reason) {
        for (const item of [...items, ...unreadable]) this.batch.setState(item, state, reason);
    }

    async #send(request) {
        const onProgress = (share) => {
            request.share = share;
            this.#noteProgress();
            this.#update({});
        };
        try {
            const result = await this.#retry(() => this.#sendOnce(request, onProgress));
            this.#recordResult(request, result);
        } catch (error) {
            if (!(error instanceof ApiError)) throw error;
            // An attempt without an answer was accepted, with files that are unreadable now: the job's page shows them.
            if (error.isReusedKey) this.#setStates(request, "accepted");
            else if (error.canRetry) this.#setUnsent(request, error.message);
            else this.#setStates(request, "rejected", error.message);
        }
    }

    /** Send a request. If that fails since a file was deleted or changed, the next attempt leaves this file out. */
    async #sendOnce(request, onProgress) {
        const { items, remaining, key } = request;
        if (!items.length) return { accepted: [], rejected: [] };
        const send = this.isDirect ? addImagesDirectly : addImages;
        try {
            const { signal } = this.stopping;
            return await send(this.job.job_id, items, remaining, key, this.traceId, onProgress, signal);
        } catch (error) {
            if (this.isDirect) throw error; // its own answer says which files are unreadable
            const readable = await Promise.all(items.map((item) => isReadable(item.blob)));
            request.items = items.filter((_, index) => readable[index]);
            request.unreadable.push(...items.filter((_, index) => !readable[index]));
            throw error;
        }
    }

    /** Update the state of each item. An item that the server could not store goes into a later request. */
    #recordResult({ items, unreadable }, { accepted, rejected }) {
        // Without a file nothing is sent again, so no answer shows if an earlier attempt was accepted.
        const reason = `${UNREADABLE_REASON}${items.length ? "" : "; the job's page shows whether it was sent"}`;
        for (const item of unreadable) this.batch.setState(item, "rejected", reason);
        for (const { index } of accepted) this.batch.setState(items[index], "accepted");
        for (const { index, code, message } of rejected) {
            const item = items[index];
            item.storeFailures = (item.storeFailures ?? 0) + 1;
            const canRetry = code === "unavailable" && item.storeFailures < MAX_STORE_FAILURES;
            this.batch.setState(item, canRetry ? "ready" : "rejected", message);
        }
    }

    /** Make a call until it succeeds, at most `MAX_ATTEMPTS` times. */
    async #retry(call) {
        for (let attempt = 1; ; attempt += 1) {
            try {
                if (this.isStopped) throw new StoppedError();
                if (this.isSignedOut) throw new SignedOutError(); // a concurrent call found it out
                return await call();
            } catch (error) {
                if (error instanceof SignedOutError) {
                    this.#update({ isSignedOut: true });
                    throw error;
                }
                if (error instanceof StoppedError) throw error;
                if (!(error instanceof ApiError && error.canRetry) || attempt === MAX_ATTEMPTS) throw error;
                await this.#unlessStopped(backOff(attempt, error.retryAfterSeconds));
                await this.#waitUntilReady();
            }
        }
    }

    async #waitUntilReady() {
        const deadline = Date.now() + MAX_OUTAGE_MS;
        while (!this.isStopped && Date.now() < deadline && !(await fetchState("/readyz"))) {
            this.#update({ isServerDown: true });
            await this.#unlessStopped(waitForPollOrOnline());
        }
        this.#update({ isServerDown: false });
    }

    /** Wait for `promise`, or until the user stops the run. */
    #unlessStopped(promise) {
        const { signal } = this.stopping;
        return Promise.race([
            promise,
            new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true })),
        ]);
    }

    #update(changes) {
        Object.assign(this, changes);
        this.dispatchEvent(new Event("change"));
    }
}

/** @returns {UploadRequest} */
function newRequest(items, remaining) {
    const bytes = items.reduce((sum, { size }) => sum + size, 0);
    const request = { items, unreadable: [], key: randomHex(), bytes, remaining, share: 0 };
    for (const item of items) item.request = request;
    return request;
}

/** Wait longer after each attempt, with jitter, so that many pages do not retry at the same time. */
function backOff(attempt, minSeconds) {
    const backoff = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (attempt - 1));
    return sleep(Math.max(minSeconds * 1_000, backoff * (0.5 + Math.random() / 2)));
}

/** Wait for the poll interval with jitter, or until the browser is online again. */
async function waitForPollOrOnline() {
    const abort = new AbortController();
    const online = new Promise((resolve) => addEventListener("online", resolve, { once: true, signal: abort.signal }));
    await Promise.race([online, sleep(READY_POLL_MS * (1 + Math.random()))]);
    abort.abort();
}

function sleep(milliseconds) {
    return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
