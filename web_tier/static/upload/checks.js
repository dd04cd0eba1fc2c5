// Checks files in a few workers side by side, so that the page stays smooth with thousands of them.

/** Also with two cores: a worker waits for the file's bytes half of its time. */
const WORKERS = 4;
const CHECK_MS = 60_000;

export class Checks {
    /**
     * @param {object} limits - what the server takes: `maxBytes`, `maxPixels`, `shrinkAbove` (pixels, 0 is off), `formats`.
     * @param {number} pictureSide - longest side of the small pictures, in pixels.
     */
    constructor(limits, pictureSide) {
        this.limits = { ...limits, pictureSide };
        this.waiting = [];
        this.idle = [];
        this.started = 0;
    }

    /** Check a file: `{blob, shrunk, converted, picture}` (blob and picture may be null), or `{reason}` why it is not taken. */
    check(file) {
        return new Promise((resolve) => {
            this.waiting.push({ file, resolve });
            this.#next();
        });
    }

    #next() {
        if (!this.waiting.length || (!this.idle.length && this.started === WORKERS)) return;
        const worker = this.idle.pop() ?? this.#start();
        this.#run(worker, this.waiting.shift());
    }

    #start() {
        this.started += 1;
        return new Worker(new URL("./prepare.js", import.meta.url), { type: "module" });
    }

    #run(worker, { file, resolve }) {
        const replace = () => finish({ reason: "your browser gave up reading it" }, false);
        const timer = setTimeout(replace, CHECK_MS);
        const finish = (outcome, healthy) => {
            clearTimeout(timer);
            worker.onmessage = worker.onerror = null;
            if (healthy) {
                this.idle.push(worker);
            } else {
                worker.terminate();
                this.started -= 1;
            }
            resolve(outcome);
            this.#next();
        };
        worker.onmessage = ({ data }) => finish(data, true);
        worker.onerror = replace;
        worker.postMessage({ file, limits: this.limits });
    }
}
