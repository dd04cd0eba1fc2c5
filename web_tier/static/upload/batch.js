// The batch: every file that the user added, its state, and the totals.
//
//   checking ─▶ ready ─▶ sending ─▶ accepted
//       │                  │  ▲└──▶ rejected (by the server, with its reason)
//       └──▶ rejected       ▼  │
//           (here)        unsent (the upload failed; the user can retry it)
//
// The user can remove an item that is checking or ready: its state is `removed`.

import { formatCount } from "./format.js";

/**
 * The outcome of a file's check: the reason why it is rejected, or its media type.
 *
 * @typedef {{reason?: string, type?: string}} CheckOutcome
 */

/**
 * @typedef {object} BatchItem
 * @property {number} id - as `position`; items and rows of a job are entries of the same lists (see ../virtual_list.js).
 * @property {number} version - counts the changes of the state.
 * @property {Source} source - see sources.js.
 * @property {string} name - with the path within its folder or zip.
 * @property {number} position - of its image among those of the job.
 * @property {number} size - bytes.
 * @property {"checking" | "ready" | "sending" | "unsent" | "accepted" | "rejected" | "removed"} state
 * @property {Blob | null} blob - the content to send; null until the check has accepted the file.
 * @property {string} [type] - its media type, once it is checked.
 * @property {string | null} [picture] - URL of a small picture; null if the browser cannot decode the file.
 * @property {string} reason - why the item is rejected or unsent, else empty.
 * @property {UploadRequest} [request] - the request that sends the item; see uploader.js.
 * @property {number} [storeFailures] - how many times the server could not store the item.
 */

const REMOVABLE_STATES = ["checking", "ready"];
const MAX_NAME_CHARACTERS = 60;

/** A time such as `5 Nov 17:09 UTC`: see `short_date` of core/format.py. */
function shortDate(date) {
    const [, day, month, , time] = date.toUTCString().split(" ");
    return `${Number(day)} ${month} ${time.slice(0, 5)} UTC`;
}

/** The first characters of a name; a pair of surrogates is one. */
function cut(name) {
    return [...name].slice(0, MAX_NAME_CHARACTERS).join("");
}

export class Batch extends EventTarget {
    constructor() {
        super();
        this.nextPosition = 0;
        this.clear();
    }

    /** Remove all items. Callers must not clear a batch while its items are being sent. */
    clear() {
        for (const item of this.items ?? []) item.state = "removed";
        this.items = []; // without the rejected ones
        this.rejected = [];
        this.unchecked = [];
        this.taken = 0; // items of `unchecked` that are being checked or were
        this.counts = { checking: 0, ready: 0, sending: 0, unsent: 0, accepted: 0, rejected: 0 };
        this.sizes = { ...this.counts }; // bytes of the items in each state
        this.bytes = 0;
        this.hidden = 0; // hidden files and system files: counted, not listed
        this.folders = new Map(); // outermost folder, or "" → number of items
        this.#changed(null);
    }

    /**
     * Add a source (see sources.js). Its state is `checking` until `recordCheck`.
     *
     * @param {number} [position] - of its image in the job, if an earlier upload has chosen it.
     */
    add(source, position = this.nextPosition) {
        const { name, size } = source;
        const item = { id: position, version: 0, source, name, size, position, state: "checking", blob: null, reason: "" };
        this.nextPosition = Math.max(this.nextPosition, position + 1);
        this.items.push(item);
        this.unchecked.push(item);
        this.#countState(item, 1);
        this.#countIn(item, 1);
        this.#changed(item);
        return item;
    }

    /** Count a file that is left out without being listed. */
    addHidden() {
        this.hidden += 1;
        this.#changed(null);
    }

    /** Remove an item that has not been sent. */
    remove(item) {
        if (REMOVABLE_STATES.includes(item.state)) this.#discard(item);
    }

    /** Take out every item that is not sent; none is being sent. */
    discardUnsent() {
        for (const item of this.items.filter(({ state }) => state !== "accepted")) this.#discard(item);
    }

    #discard(item) {
        this.#countState(item, -1);
        item.state = "removed";
        this.#takeOut(item);
        this.#changed(item);
    }

    /** Return the next item to check, or undefined. */
    nextUnchecked() {
        while (this.unchecked[this.taken]?.state === "removed") this.taken += 1;
        return this.taken < this.unchecked.length ? this.unchecked[this.taken++] : undefined;
    }

    /**
     * Record the outcome of an item's check.
     *
     * @param {BatchItem} item
     * @param {CheckOutcome} outcome
     * @param {File} [file] - that was checked.
     */
    recordCheck(item, { reason, type }, file) {
        if (item.state !== "checking") return; // the user removed it meanwhile
        if (reason) {
            this.setState(item, "rejected", reason);
            return;
        }
        Object.assign(item, { blob: file, type });
        this.setState(item, "ready");
    }

    /** @param {string | null} picture - see `BatchItem`. */
    setPicture(item, picture) {
        Object.assign(item, { picture, version: item.version + 1 });
        this.#changed(item);
    }

    setState(item, state, reason = "") {
        this.#countState(item, -1);
        Object.assign(item, { state, reason, version: item.version + 1 });
        this.#countState(item, 1);
        if (state === "accepted") item.blob = null; // a file that was unpacked is in memory
        if (state === "rejected") {
            this.#takeOut(item);
            this.rejected.push(item);
        }
        this.#changed(item);
    }

    /** The number of items that are not rejected. */
    get total() {
        return this.items.length;
    }

    get isFinished() {
        return this.counts.accepted === this.total;
    }

    /** The name of a job without a name: see `job_name_of_files` of web_tier/http/parameters.py. */
    get defaultName() {
        const [first] = this.items;
        if (!first) return "";
        const [folder] = this.folders.keys();
        if (this.folders.size === 1 && folder) return cut(folder);
        if (this.total > 1) return `${formatCount(this.total)} images, ${shortDate(new Date())}`;
        return cut(first.name.split("/").at(-1).replace(/(?<=.)\.[^.]*$/, ""));
    }

    /** Set the state of up to `maxFiles` ready items of up to `maxBytes` in all, at least one, to `sending`. */
    startSending(maxFiles, maxBytes) {
        const items = [];
        let size = 0;
        for (const item of this.items) {
            if (items.length === maxFiles) break;
            if (item.state !== "ready") continue;
            if (items.length && size + item.size > maxBytes) break;
            size += item.size;
            items.push(item);
        }
        for (const item of items) this.setState(item, "sending");
        return items;
    }

    /** Add an item to the count of its state, or take it out again (`step` is 1 or -1). */
    #countState({ state, size }, step) {
        this.counts[state] += step;
        this.sizes[state] += step * size;
    }

    #takeOut(item) {
        this.items.splice(this.items.indexOf(item), 1);
        this.#countIn(item, -1);
    }

    /** Add an item to the totals, or take it out again (`step` is 1 or -1). */
    #countIn(item, step) {
        this.bytes += step * item.size;
        const folder = item.name.includes("/") ? item.name.slice(0, item.name.indexOf("/")) : "";
        const items = (this.folders.get(folder) ?? 0) + step;
        if (items) this.folders.set(folder, items);
        else this.folders.delete(folder);
    }

    /** Wait for the next change. */
    nextChange() {
        return new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
    }

    /** Make those who wait for a change check their condition. */
    wake() {
        this.#changed(null);
    }

    #changed(item) {
        this.dispatchEvent(new CustomEvent("change", { detail: item }));
    }
}
