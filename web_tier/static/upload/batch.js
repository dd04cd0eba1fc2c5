// The batch: every file that the user added, its state, and the totals.
//
//   checking ─▶ ready ─▶ sending ─▶ accepted
//       │                  │  ▲└──▶ rejected (by the server, with its reason)
//       └──▶ rejected      ▼  │
//           (here)        unsent (the upload failed; the user can retry it)
//
// An item that the user removed has the state `removed`.

/** @typedef {{type: string, bytes: ArrayBuffer}} Thumbnail - a small picture, with its media type. */

/**
 * The outcome of a file's check: a file to send, or the reason why it is rejected. `blob` is null where the file itself
 * is sent; `picture` is null if the browser cannot decode the file.
 *
 * @typedef {{blob: Blob | null, shrunk: boolean, converted: boolean, picture: Thumbnail | null}} AcceptedFile
 * @typedef {{reason: string}} RejectedFile
 * @typedef {AcceptedFile | RejectedFile} CheckOutcome
 */

/**
 * @typedef {object} BatchItem
 * @property {Source} source - see sources.js.
 * @property {string} name
 * @property {number} size - bytes.
 * @property {"checking" | "ready" | "sending" | "unsent" | "accepted" | "rejected" | "removed"} state
 * @property {Blob | null} blob - the content to send; null until the check has accepted the file.
 * @property {Thumbnail | null} [picture] - set by the check.
 * @property {string} reason - why the item is rejected or unsent, else empty.
 * @property {UploadRequest} [request] - the request that sends the item; see uploader.js.
 * @property {number} [storeFailures] - how many times the server could not store the item.
 */

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
        this.bytes = this.shrunk = this.converted = 0;
        this.#changed(null);
    }

    /** Add a source (see sources.js). Its state is `checking` until `recordCheck`. */
    add(source) {
        const item = { source, name: source.name, size: source.size, state: "checking", blob: null, reason: "" };
        this.items.push(item);
        this.unchecked.push(item);
        this.counts.checking += 1;
        this.bytes += item.size;
        this.#changed(item);
        return item;
    }

    /** Return the next item to check, or undefined. */
    nextUnchecked() {
        return this.unchecked.shift();
    }

    /**
     * Record the outcome of an item's check. The caller has replaced a null `blob` by the file.
     *
     * @param {BatchItem} item
     * @param {CheckOutcome} outcome
     */
    recordCheck(item, { reason, blob, shrunk, converted, picture }) {
        if (item.state !== "checking") return; // the user removed it meanwhile
        if (reason) {
            this.bytes -= item.size;
            this.setState(item, "rejected", reason);
            return;
        }
        this.bytes += blob.size - item.size;
        Object.assign(item, { blob, picture, size: blob.size });
        this.shrunk += shrunk;
        this.converted += converted;
        this.setState(item, "ready");
    }

    setState(item, state, reason = "") {
        this.counts[item.state] -= 1;
        this.counts[state] += 1;
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

    get isFinished() {
        return this.counts.accepted + this.counts.rejected === this.total;
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

    #changed(item) {
        this.dispatchEvent(new CustomEvent("change", { detail: item }));
    }
}
