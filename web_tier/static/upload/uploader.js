// Sends a batch in slices, a few side by side. A slice has a key, with which the server takes it once however often it
// is sent; so all that was not answered is sent again: after a pause that grows, and once the server is there again.

import { keepPictures } from "../job/local_pictures.js";
import { CallError, SignedOutError, addImages, createJob, isReady, newKey } from "./api.js";

const LANES = 3;
const SLICE_FILES = 50;
const SLICE_BYTES = 8 * 2 ** 20;
/** While files are still being checked, a slice waits for this many. */
const WORTH_SENDING = 10;
const ATTEMPTS = 6;
const FIRST_PAUSE_MS = 500;
const MAX_PAUSE_MS = 15_000;
/** How long a server that does not answer at all is waited for. */
const ABSENCE_MS = 10 * 60_000;
const LOOK_MS = 1_000;
/** How often the server may say of one file that it could not store it. */
const ROUNDS = 3;

export class Uploader extends EventTarget {
    /**
     * @param {Batch} batch
     * @param {{maxFiles: number, maxRequestBytes: number}} limits - the server's, of one request.
     */
    constructor(batch, limits) {
        super();
        this.batch = batch;
        this.files = Math.min(SLICE_FILES, limits.maxFiles);
        this.bytes = Math.min(SLICE_BYTES, limits.maxRequestBytes * 0.9);
        this.job = null;
        this.running = false;
        this.absent = false;
        this.signedOut = false;
        this.slices = new Set(); // those that are being sent
        this.stuck = []; // those that were given up, to be tried again with the same key
    }

    /**
     * Send everything; resolves when nothing is left to send. Throws CallError when there is no job to send it to.
     *
     * @param {boolean} keep - whether the images stay on the server; as the name, of a job that is there it counts no more.
     */
    async run(name, keep) {
        this.#say({ running: true, signedOut: false });
        const key = newKey();
        try {
            this.job ??= await this.#persist(() => createJob(name, keep, key));
            this.#say({});
            const again = this.stuck.splice(0);
            for (const slice of again) for (const item of slice.items) this.batch.move(item, "sending");
            await Promise.all(Array.from({ length: LANES }, () => this.#lane(again)));
        } finally {
            this.#say({ running: false });
        }
    }

    /** How much is sent, 0 to 1, counting what is under way. */
    get share() {
        const { counts, toSend } = this.batch;
        let sent = counts.accepted;
        for (const slice of this.slices) sent += slice.share * slice.items.length * 0.95;
        return toSend ? Math.min(1, sent / toSend) : 0;
    }

    async #lane(again) {
        for (;;) {
            const slice = again.shift() ?? (await this.#nextSlice());
            if (!slice) return;
            this.slices.add(slice);
            await this.#send(slice);
            this.slices.delete(slice);
        }
    }

    async #nextSlice() {
        for (;;) {
            const { counts } = this.batch;
            if (counts.ready && (!counts.checking || counts.ready >= WORTH_SENDING)) {
                return newSlice(this.batch.take(this.files, this.bytes));
            }
            if (!counts.checking && !counts.ready) return null;
            await new Promise((resolve) => this.batch.addEventListener("change", resolve, { once: true }));
        }
    }

    async #send(slice) {
        const progress = (share) => {
            slice.share = share;
            this.#say({});
        };
        try {
            const taken = await this.#persist(() => addImages(this.job.job_id, slice.items, slice.key, progress));
            if (!this.job.keep) await this.#keepPictures(slice, taken);
            this.#take(slice, taken);
        } catch (error) {
            if (!(error instanceof CallError)) throw error;
            const state = error.again ? "stuck" : "refused";
            for (const item of slice.items) this.batch.move(item, state, error.message);
            if (error.again) this.stuck.push(slice);
        }
    }

    /** Note what became of each file; what the server could not store goes into another slice. */
    #take(slice, { accepted, rejected }) {
        for (const { index } of accepted) this.batch.move(slice.items[index], "accepted");
        for (const { index, code, message } of rejected) {
            const item = slice.items[index];
            item.rounds = (item.rounds ?? 0) + 1;
            const again = code === "unavailable" && item.rounds < ROUNDS;
            this.batch.move(item, again ? "ready" : "refused", message);
        }
    }

    /** The server will delete the images: their pictures on the job's page come from this browser. */
    async #keepPictures(slice, { accepted }) {
        const pictures = accepted.map((image) => ({ imageId: image.image_id, picture: slice.items[image.index].picture }));
        await keepPictures(this.job.job_id, pictures.filter(({ picture }) => picture));
    }

    /** Make a call until it is answered, at most `ATTEMPTS` times with a server that is there. */
    async #persist(call) {
        for (let attempt = 1; ; attempt += 1) {
            try {
                if (this.signedOut) throw new SignedOutError(); // as was another call meanwhile
                return await call();
            } catch (error) {
                if (error instanceof SignedOutError) {
                    this.#say({ signedOut: true });
                    throw error;
                }
                if (!(error instanceof CallError && error.again) || attempt === ATTEMPTS) throw error;
                await pause(attempt, error.waitSeconds);
                await this.#presence();
            }
        }
    }

    async #presence() {
        const until = Date.now() + ABSENCE_MS;
        while (Date.now() < until && !(await isReady())) {
            this.#say({ absent: true });
            await onlineOrSoon();
        }
        this.#say({ absent: false });
    }

    #say(news) {
        Object.assign(this, news);
        this.dispatchEvent(new Event("change"));
    }
}

/** Return a slice of items, `share` of which (0 to 1) is sent. */
function newSlice(items) {
    const slice = { items, key: newKey(), share: 0 };
    for (const item of items) item.slice = slice;
    return slice;
}

/** Wait longer after each attempt, by a random part of it, so that many pages do not come back at once. */
function pause(attempt, atLeastSeconds) {
    const longest = Math.min(MAX_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempt - 1));
    return sleep(Math.max(atLeastSeconds * 1_000, longest * (0.5 + Math.random() / 2)));
}

/** Wait a moment, less when the browser says that it is online again. */
async function onlineOrSoon() {
    const stop = new AbortController();
    const online = new Promise((resolve) => addEventListener("online", resolve, { once: true, signal: stop.signal }));
    await Promise.race([online, sleep(LOOK_MS * (1 + Math.random()))]);
    stop.abort();
}

function sleep(milliseconds) {
    return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
