// The batch: every file that was added, its state, and the figures of the whole.
//
//   checking ─▶ ready ─▶ sending ─▶ accepted
//       │                  │  ▲└──▶ refused (by the server, with its reason)
//       └──▶ refused       ▼  │
//           (here)        stuck (not sent for now; can be tried again)

/** States in which nothing more happens to an item by itself. */
const ENDED = ["accepted", "refused"];

export class Batch extends EventTarget {
    constructor() {
        super();
        this.clear();
    }

    /** Forget all items; only for a batch of which nothing is being sent. */
    clear() {
        for (const item of this.items ?? []) item.state = "gone";
        this.items = [];
        this.unchecked = [];
        this.counts = { checking: 0, ready: 0, sending: 0, stuck: 0, accepted: 0, refused: 0 };
        this.bytes = this.shrunk = this.converted = 0;
        this.#changed(null);
    }

    /** Add a source (see gather.js); it is being checked until `settle`. */
    add(source) {
        const item = { source, name: source.name, size: source.size, state: "checking", blob: null, reason: "" };
        this.items.push(item);
        this.unchecked.push(item);
        this.counts.checking += 1;
        this.bytes += item.size;
        this.#changed(item);
        return item;
    }

    /** Return the next unchecked item; its check begins now. */
    nextUnchecked() {
        return this.unchecked.shift();
    }

    /** Note what the check of an item found: `{blob, shrunk, converted, picture}` (no picture: null), or the `{reason}` why it is not taken. */
    settle(item, { reason, blob, shrunk, converted, picture }) {
        if (item.state !== "checking") return; // taken out meanwhile
        if (reason) {
            this.bytes -= item.size;
            this.move(item, "refused", reason);
            return;
        }
        this.bytes += blob.size - item.size;
        Object.assign(item, { blob, picture, size: blob.size });
        this.shrunk += shrunk;
        this.converted += converted;
        this.move(item, "ready");
    }

    /** Put an item into another state. */
    move(item, state, reason = "") {
        this.counts[item.state] -= 1;
        this.counts[state] += 1;
        Object.assign(item, { state, reason });
        this.#changed(item);
    }

    get total() {
        return this.items.length;
    }

    get toSend() {
        return this.total - this.counts.refused;
    }

    get ended() {
        return ENDED.reduce((sum, state) => sum + this.counts[state], 0) === this.total;
    }

    /** Take up to `files` ready items of up to `bytes` in all, at least one; they are being sent from now on. */
    take(files, bytes) {
        const taken = [];
        let size = 0;
        for (const item of this.items) {
            if (taken.length === files) break;
            if (item.state !== "ready") continue;
            if (taken.length && size + item.size > bytes) break;
            size += item.size;
            taken.push(item);
        }
        for (const item of taken) this.move(item, "sending");
        return taken;
    }

    #changed(item) {
        this.dispatchEvent(new CustomEvent("change", { detail: item }));
    }
}
