// The batch: every file that the user added, its state, and the totals.
//
//   checking ─▶ ready ─▶ sending ─▶ accepted
//       │                  │  ▲└──▶ rejected (by the server, with its reason)
//       └──▶ rejected      ▼  │
//           (here)        unsent (the upload failed; the user can retry it)
//
// The user can remove an item that is checking, ready or rejected: its state is `removed`.

import { formatCount } from "./format.js";

/** @typedef {{type: string, bytes: ArrayBuffer}} Thumbnail - a small picture, with its media type. */

/**
 * The outcome of a file's check: a file to send, or the reason why it is rejected. `blob` is the photo that the page has
 * redrawn smaller, or null where the file itself is sent; `picture` is null if the browser cannot decode the file.
 *
 * @typedef {{blob: Blob | null, picture: Thumbnail | null}} AcceptedFile
 * @typedef {{reason: string}} RejectedFile
 * @typedef {AcceptedFile | RejectedFile} CheckOutcome
 */

/**
 * @typedef {object} BatchItem
 * @property {Source} source - see sources.js.
 * @property {string} name - with the path within its folder or zip.
 * @property {number} position - the place among all files that the user added.
 * @property {number} size - bytes.
 * @property {"checking" | "ready" | "sending" | "unsent" | "accepted" | "rejected" | "removed"} state
 * @property {Blob | null} blob - the content to send; null until the check has accepted the file.
 * @property {boolean} [shrunk] - set by the check.
 * @property {Thumbnail | null} [picture] - set by the check.
 * @property {string} reason - why the item is rejected or unsent, else empty.
 * @property {UploadRequest} [request] - the request that sends the item; see uploader.js.
 * @property {number} [storeFailures] - how many times the server could not store the item.
 */

const REMOVABLE_STATES = ["checking", "ready", "rejected"];
const MAX_NAME_CHARACTERS = 60;
/** Skipped files that are listed with their reasons. */
const MAX_SKIPPED_LISTED = 200;

/** The last part of a path. */
export function baseName(path) {
    return path.slice(path.lastIndexOf("/") + 1);
}

/** The first characters of a name; a pair of surrogates is one. */
function cut(name) {
    return [...name].slice(0, MAX_NAME_CHARACTERS).join("");
}

export function isRemovable(item) {
    return REMOVABLE_STATES.includes(item.state);
}

export class Batch extends EventTarget {
    constructor() {
        super();
        this.clear();
    }

    /** Remove all items. Callers must not clear a batch while its items are being sent. */
    clear() {
        for (const item of this.items ?? []) item.state = "removed";
        this.items = [];
        this.unchecked = [];
        this.counts = { checking: 0, ready: 0, sending: 0, unsent: 0, accepted: 0, rejected: 0 };
        this.bytes = this.shrunk = 0;
        this.hidden = 0; // hidden files and system files: counted, not listed
        this.rejections = 0; // counts the changes of the rejected items
        this.folders = new Map(); // outermost folder, or "" → number of items that are not rejected
        this.added = 0;
        this.#changed(null);
    }

    /** Add a source (see sources.js). Its state is `checking` until `recordCheck`. */
    add(source) {
        const { name, size } = source;
        const item = { source, name, size, position: this.added, state: "checking", blob: null, reason: "" };
        this.added += 1;
        this.items.push(item);
        this.unchecked.push(item);
        this.counts.checking += 1;
        this.#countIn(item, 1);
        this.#changed(item);
        return item;
    }

    /** Count a file that is left out without being listed. */
    addHidden() {
        this.hidden += 1;
        this.rejections += 1;
        this.#changed(null);
    }

    /** Remove an item that has not been sent. */
    remove(item) {
        if (!isRemovable(item)) return;
        this.counts[item.state] -= 1;
        if (item.state === "rejected") this.rejections += 1;
        else this.#countIn(item, -1);
        this.shrunk -= item.shrunk ?? false;
        item.state = "removed";
        this.items.splice(this.items.indexOf(item), 1);
        this.#changed(null);
    }

    /** Return the next item to check, or undefined. */
    nextUnchecked() {
        let item = this.unchecked.shift();
        while (item?.state === "removed") item = this.unchecked.shift();
        return item;
    }

    /**
     * Record the outcome of an item's check.
     *
     * @param {BatchItem} item
     * @param {CheckOutcome} outcome
     * @param {File} [file] - that was checked.
     */
    recordCheck(item, { reason, blob, picture }, file) {
        if (item.state !== "checking") return; // the user removed it meanwhile
        if (reason) {
            this.setState(item, "rejected", reason);
            return;
        }
        const content = blob ?? file;
        this.bytes += content.size - item.size;
        Object.assign(item, { blob: content, picture, shrunk: blob !== null, size: content.size });
        this.shrunk += item.shrunk;
        this.setState(item, "ready");
    }

    setState(item, state, reason = "") {
        this.counts[item.state] -= 1;
        this.counts[state] += 1;
        if (state === "rejected") {
            this.#countIn(item, -1);
            this.rejections += 1;
        }
        Object.assign(item, { state, reason });
        this.#changed(item);
    }

    get total() {
        return this.items.length;
    }

    /** The number of items that are not rejected. */
    get sendable() {
        return this.total - this.counts.rejected;
    }

    /** The number of files that are left out. */
    get skipped() {
        return this.counts.rejected + this.hidden;
    }

    get isFinished() {
        return this.counts.accepted + this.counts.rejected === this.total;
    }

    /** @returns {SkippedFiles} see ../job/skipped.js. */
    skippedFiles() {
        const rejected = this.items.filter((item) => item.state === "rejected");
        const files = rejected.slice(0, MAX_SKIPPED_LISTED).map(({ name, reason }) => ({ name, reason }));
        return { files, others: rejected.length - files.length, hidden: this.hidden };
    }

    /** The name of a job without a name: see `job_name_of_files` of web_tier/http/parameters.py. */
    get defaultName() {
        const first = this.items.find((item) => item.state !== "rejected");
        if (!first) return "";
        const [folder] = this.folders.keys();
        if (this.folders.size === 1 && folder) return cut(folder);
        const stem = cut(baseName(first.name).replace(/(?<=.)\.[^.]*$/, ""));
        return this.sendable > 1 ? `${stem} and ${formatCount(this.sendable - 1)} more` : stem;
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

    /** Add an item to the totals of those that are not rejected, or take it out again (`step` is 1 or -1). */
    #countIn(item, step) {
        this.bytes += step * item.size;
        const folder = item.name.includes("/") ? item.name.slice(0, item.name.indexOf("/")) : "";
        const items = (this.folders.get(folder) ?? 0) + step;
        if (items) this.folders.set(folder, items);
        else this.folders.delete(folder);
    }

    /** Make those who wait for a change check their condition. */
    wake() {
        this.#changed(null);
    }

    #changed(item) {
        this.dispatchEvent(new CustomEvent("change", { detail: item }));
    }
}
