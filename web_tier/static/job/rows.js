// The images of a job, as far as the page has received them. Updates of an image merge into one row.

import { ORDERS } from "./orders.js";

// The id of an image with a position that the upload chose, in base 32: the time of its job, then the position of its
// pack and its place in that (core/ids.py).
const DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const TIME_DIGITS = 10;
const POSITION_DIGITS = 7; // 35 bits: 26 for the position of the pack, 6 for the place, 3 of what follows
const PLACES = 64;

/** Return the position of an image in the upload of its job, or null if the upload chose none. */
function positionOf(id, jobId) {
    if (!id.startsWith(jobId.slice(0, TIME_DIGITS))) return null;
    const digits = [...id.slice(TIME_DIGITS, TIME_DIGITS + POSITION_DIGITS)];
    const field = Math.floor(digits.reduce((sum, digit) => 32 * sum + DIGITS.indexOf(digit), 0) / 8);
    return Math.floor(field / PLACES) + (field % PLACES);
}

/** Return an id for the row of a file at a position of the upload; it sorts as the image's id will. */
function idAt(position, jobId) {
    let rest = 8 * PLACES * position;
    let digits = "";
    for (let count = 0; count < POSITION_DIGITS; count += 1) {
        digits = DIGITS[rest % 32] + digits;
        rest = Math.floor(rest / 32);
    }
    return jobId.slice(0, TIME_DIGITS) + digits;
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
 * @property {boolean} [unsure] - whether the score is below that which the job asks for.
 * @property {string} [also] - further labels, of a model with independent labels.
 * @property {string} [failure] - why the image failed, in two or three words.
 * @property {string} [reason] - why the image failed, in a sentence.
 * @property {boolean} [final] - whether a retry would fail too.
 * @property {boolean} [retrying] - whether the failed image is being retried.
 * @property {number} [at] - when the result was stored.
 * @property {number} [turn] - orders an image's failures: twice its retries by the user, one less while retrying.
 * @property {number} [tries] - how many times a worker received the image, if more than once.
 * @property {number} [again] - how many times the system has requested the image again.
 * @property {string} [truth] - the true label that the user has set; in an update, empty removes it.
 * @property {BatchItem} [item] - of a file that is not accepted yet, so that it has no page; see ../upload/batch.js.
 * @property {BatchItem} [file] - that this page has sent.
 */

export class Rows {
    #all = [];
    #isSorted = true;
    #hasGone = false; // whether `#all` has rows of files that are not in the upload any more

    /** @param {string} jobId */
    constructor(jobId) {
        this.jobId = jobId;
        this.files = new Map(); // place in the upload → row of a file that is not accepted yet
        this.positions = new Set(); // places of the images
        this.nextPosition = 0; // the place after those of all images
        this.byId = new Map();
        this.pendingUpdates = new Map(); // id → updates that arrived before the image's name
        this.labels = new Map(); // label → number of images
        this.directories = new Map(); // path without the file name → number of images
        this.unsure = 0;
        this.retrying = 0;
        this.hasResult = false; // of any image: a label or a failure
    }

    /** The rows, sorted by id. Changes come by the thousand, so they are applied when the rows are read. */
    get all() {
        if (this.#hasGone) this.#all = this.#all.filter((row) => !row.item || this.files.get(row.item.position) === row);
        if (!this.#isSorted) this.#all.sort((a, b) => (a.id < b.id ? -1 : 1));
        this.#hasGone = false;
        this.#isSorted = true;
        return this.#all;
    }

    get size() {
        return this.all.length;
    }

    /**
     * Merge updates of images in any order.
     *
     * @param {Partial<Row>[]} updates - each has an id; one without a status has only a true label. The first one with
     *     a name adds the row.
     */
    merge(updates) {
        for (const update of updates) {
            const row = this.byId.get(update.id);
            if (row) {
                this.#update(row, update);
            } else if (update.name === undefined) {
                this.pendingUpdates.set(update.id, [...(this.pendingUpdates.get(update.id) ?? []), update]);
            } else {
                this.#add(update);
            }
        }
    }

    /**
     * Show a file of the upload until its image is there; one that is rejected or removed leaves the list.
     *
     * @param {BatchItem} item - see ../upload/batch.js.
     */
    setFile(item) {
        const { position, name, size, state } = item;
        const row = this.files.get(position);
        if (this.positions.has(position)) return;
        if (state === "rejected" || state === "removed") {
            this.byId.delete(row?.id);
            this.#hasGone = this.files.delete(position) || this.#hasGone;
        } else if (row) {
            row.version += 1;
        } else {
            const added = { id: idAt(position, this.jobId), name, bytes: size, status: "waiting", version: 0, item };
            this.files.set(position, added);
            this.#append(added);
        }
    }

    #append(row) {
        row.folded = row.name.toLowerCase();
        this.byId.set(row.id, row);
        if (row.id < this.#all.at(-1)?.id) this.#isSorted = false;
        this.#all.push(row);
    }

    /** Add the row of an image; the row of its file goes. */
    #add(update) {
        const row = { id: update.id, name: update.name, bytes: update.bytes, status: "waiting", version: 0 };
        const position = positionOf(row.id, this.jobId);
        if (position !== null) {
            this.positions.add(position);
            this.nextPosition = Math.max(this.nextPosition, position + 1);
            const { id, item } = this.files.get(position) ?? {};
            row.file = item;
            this.byId.delete(id);
            this.#hasGone = this.files.delete(position) || this.#hasGone;
        }
        this.#append(row);
        const directory = row.name.slice(0, Math.max(0, row.name.lastIndexOf("/")));
        this.directories.set(directory, (this.directories.get(directory) ?? 0) + 1);
        this.#update(row, update);
        for (const pending of this.pendingUpdates.get(row.id) ?? []) this.#update(row, pending);
        this.pendingUpdates.delete(row.id);
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
        if (update.status === undefined) return;
        if ((update.again ?? 0) > (row.again ?? 0)) {
            row.again = update.again;
            row.version += 1;
        }
        if (update.status === "done" && row.status === "done" && Boolean(update.unsure) !== Boolean(row.unsure)) {
            row.unsure = update.unsure;
            this.unsure += row.unsure ? 1 : -1;
            row.version += 1;
        }
        const bothFailed = update.status === "failed" && row.status === "failed";
        const isLaterFailure = bothFailed && (update.turn ?? 0) > (row.turn ?? 0);
        if (STATUS_RANK[update.status] <= STATUS_RANK[row.status] && !isLaterFailure) return;
        const { status, label, score, unsure, also, failure, reason, final, retrying, at, turn, tries } = update;
        this.retrying += Number(retrying ?? false) - Number(row.retrying ?? false);
        const found = { status, label, score, unsure, also, failure, reason, final, retrying, at, turn, tries };
        Object.assign(row, found);
        row.version += 1;
        this.hasResult = true;
        if (row.status === "done") {
            this.labels.set(row.label, (this.labels.get(row.label) ?? 0) + 1);
            if (row.unsure) this.unsure += 1;
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
            (!state || row.status === state || (state === "unsure" && row.unsure)) &&
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

    /** Return the folders of the first level that has several: [path, number of images] each, most images first. */
    folders() {
        const paths = [...this.directories].map(([directory, images]) => [directory.split("/"), images]);
        const depths = Math.max(0, ...paths.map(([parts]) => parts.length));
        for (let depth = 1; depth <= depths; depth += 1) {
            const folders = new Map();
            for (const [parts, images] of paths) {
                const path = parts.slice(0, depth).join("/");
                folders.set(path, (folders.get(path) ?? 0) + images);
            }
            if (folders.size > 1) return sortedCounts(folders).filter(([path]) => path.split("/").length === depth && path);
        }
        return [];
    }

    /** Return the labels: [label, number of images] each, most frequent first. */
    histogram() {
        return sortedCounts(this.labels);
    }
}

/** Sort names by their counts, and equally frequent ones by the alphabet, as `sorted_counts` of pages/job.py does. */
function sortedCounts(counts) {
    const compare = (a, b) => (a < b ? -1 : Number(a > b));
    const compareNames = (a, b) => compare(a.toLowerCase(), b.toLowerCase()) || compare(a, b);
    return [...counts].sort(([a, images], [b, others]) => others - images || compareNames(a, b));
}
