// The images of a job, as far as the page has received them. Updates of an image merge into one row.

import { compareNames, ORDERS } from "./orders.js";

/** Labels up to this score have a bar of another colour, and a filter. */
export const LOW_SCORE = 0.75;
/** A label with a lower score is a guess: the model believes more in the other classes together. */
export const UNSURE = 0.5;

/** Return how the system retried an image and why, one line each, as `ImageRow.retries` of job_snapshot.py does. */
export function retriesText({ tries, again }) {
    const received = tries ? `Tried ${tries} times: a worker failed` : "";
    const requested = again ? `Requested again${again > 1 ? ` ×${again}` : ""}: presumed lost` : "";
    return [received, requested].filter(Boolean).join("\n");
}

const STATUS_RANK = { waiting: 0, failed: 1, done: 2 };

/**
 * A row of the list. The server sends it with short field names; `version` and `folded` are the page's own.
 *
 * @typedef {object} Row
 * @property {string} id - of the image; ids sort by the order of the upload.
 * @property {string} name - of the file.
 * @property {string} folded - the name in lower case.
 * @property {number} bytes
 * @property {"waiting" | "done" | "failed"} status
 * @property {number} version - counts the changes of the row.
 * @property {string} [label]
 * @property {number} [score] - 0 to 1.
 * @property {string} [also] - further labels, of a model with independent labels.
 * @property {string} [failure] - why the image failed, in two or three words.
 * @property {string} [reason] - why the image failed, in a sentence.
 * @property {boolean} [final] - whether a retry would fail too.
 * @property {boolean} [retrying] - whether the failed image is being retried.
 * @property {boolean} [cached] - whether the result of an equal image was reused.
 * @property {number} [at] - when the result was stored.
 * @property {number} [turn] - orders an image's failures: twice its retries by the user, one less while retrying.
 * @property {number} [tries] - how many times a worker received the image, if more than once.
 * @property {number} [again] - how many times the system has requested the image again.
 * @property {string} [truth] - the true label that the user has set; in an update, empty removes it.
 */

export class Rows {
    constructor() {
        this.byId = new Map();
        this.all = []; // sorted by id
        this.pendingUpdates = new Map(); // id → updates that arrived before the image's name
        this.labels = new Map(); // label → number of images
        this.lowScores = 0;
        this.unsure = 0;
        this.cached = 0;
    }

    get size() {
        return this.all.length;
    }

    /**
     * Merge updates of images in any order.
     *
     * @param {Partial<Row>[]} updates - each has an id and a status; the first one with a name adds the row.
     */
    merge(updates) {
        let isSorted = true;
        for (const update of updates) {
            const row = this.byId.get(update.id);
            if (row) {
                this.#update(row, update);
            } else if (update.name === undefined) {
                this.pendingUpdates.set(update.id, [...(this.pendingUpdates.get(update.id) ?? []), update]);
            } else {
                isSorted = this.#add(update) && isSorted;
            }
        }
        if (!isSorted) this.all.sort((a, b) => (a.id < b.id ? -1 : 1));
    }

    /** Add a row at the end; return true if the rows are still sorted. */
    #add(update) {
        const row = { id: update.id, name: update.name, bytes: update.bytes, status: "waiting", version: 0 };
        row.folded = row.name.toLowerCase();
        const isSorted = this.size === 0 || this.all[this.size - 1].id < row.id;
        this.byId.set(row.id, row);
        this.all.push(row);
        this.#update(row, update);
        for (const pending of this.pendingUpdates.get(row.id) ?? []) this.#update(row, pending);
        this.pendingUpdates.delete(row.id);
        return isSorted;
    }

    /**
     * Apply an update if it is newer. A result replaces no result, done replaces failed, a later failure replaces an
     * earlier one, and a higher count of requests a lower one; so the order in which updates arrive does not matter.
     */
    #update(row, update) {
        if (update.truth !== undefined && update.truth !== (row.truth ?? "")) {
            row.truth = update.truth || undefined;
            row.version += 1;
        }
        if ((update.again ?? 0) > (row.again ?? 0)) {
            row.again = update.again;
            row.version += 1;
        }
        const bothFailed = update.status === "failed" && row.status === "failed";
        const isLaterFailure = bothFailed && (update.turn ?? 0) > (row.turn ?? 0);
        if (STATUS_RANK[update.status] <= STATUS_RANK[row.status] && !isLaterFailure) return;
        const { status, label, score, also, failure, reason, final, retrying, cached, at, turn, tries } = update;
        Object.assign(row, { status, label, score, also, failure, reason, final, retrying, cached, at, turn, tries });
        row.version += 1;
        if (row.status === "done") {
            this.labels.set(row.label, (this.labels.get(row.label) ?? 0) + 1);
            if (row.score <= LOW_SCORE) this.lowScores += 1;
            if (row.score < UNSURE) this.unsure += 1;
            if (row.cached) this.cached += 1;
        }
    }

    /**
     * Return the rows that match a query, in its sort order.
     *
     * @param {Query} query - see main.js.
     */
    select({ state, label, low, high, name, sort, truth, correct, reviewed }) {
        const folded = name.toLowerCase();
        const matches = (row) =>
            (!state || row.status === state) &&
            (!label || row.label === label) &&
            (low === null || row.score >= low / 100) &&
            (high === null || row.score <= high / 100) &&
            (!folded || row.folded.includes(folded)) &&
            (!truth || row.truth === truth) &&
            (!correct || (row.truth && row.label && String(row.truth === row.label) === correct)) &&
            (!reviewed || String(row.truth !== undefined) === reviewed);
        const filtersReview = truth || correct || reviewed;
        const matchesAll = !state && !label && !folded && low === null && high === null && !filtersReview;
        const selected = matchesAll ? this.all : this.all.filter(matches);
        const compare = ORDERS[sort] ?? null;
        return compare ? [...selected].sort(compare) : selected;
    }

    /** Number of images with a label. */
    get done() {
        return [...this.labels.values()].reduce((sum, images) => sum + images, 0);
    }

    /** Number of failed images that may succeed in a retry. */
    get retriable() {
        return this.all.filter((row) => row.status === "failed" && !row.final && !row.retrying).length;
    }

    /** Return the labels: [label, number of images] each, most frequent first. */
    histogram() {
        return [...this.labels].sort((a, b) => b[1] - a[1] || compareNames(a[0], b[0]));
    }
}
