// Checks files in web workers, so that the page stays responsive with thousands of files.

/** More than the cores of a small machine: a worker waits for the file's bytes half of its time. */
const MAX_WORKERS = 4;
const CHECK_TIMEOUT_MS = 60_000;

export class CheckPool {
    /**
     * @param {object} limits - the server's: `maxBytes`, `maxPixels`, `shrinkAbove` (pixels, 0 is off), `formats`.
     * @param {number} thumbnailSide - longest side of the thumbnails, in pixels.
     * @param {() => Promise<number | null>} modelSide - returns how many pixels of the shorter side the models see, or
     *     null if that is not known.
     */
    constructor(limits, thumbnailSide, modelSide) {
        Object.assign(this, { limits: { ...limits, thumbnailSide }, modelSide });
        this.queue = [];
        this.idleWorkers = [];
        this.workerCount = 0;
    }

    /**
     * Check a file in the next free worker.
     *
     * @param {Blob} file
     * @returns {Promise<CheckOutcome>} see batch.js. Never rejects.
     */
    async check(file) {
        this.limits.modelSide = await this.modelSide();
        return new Promise((resolve) => {
            this.queue.push({ file, resolve });
            this.#runNext();
        });
    }

    #runNext() {
        if (!this.queue.length || (!this.idleWorkers.length && this.workerCount === MAX_WORKERS)) return;
        const worker = this.idleWorkers.pop() ?? this.#startWorker();
        this.#run(worker, this.queue.shift());
    }

    #startWorker() {
        this.workerCount += 1;
        return new Worker(new URL("./check_worker.js", import.meta.url), { type: "module" });
    }

    #run(worker, { file, resolve }) {
        const fail = () => finish({ reason: "your browser could not read it" }, false);
        const timer = setTimeout(fail, CHECK_TIMEOUT_MS);
        const finish = (outcome, isHealthy) => {
            clearTimeout(timer);
            worker.onmessage = worker.onerror = null;
            if (isHealthy) {
                this.idleWorkers.push(worker);
            } else {
                worker.terminate();
                this.workerCount -= 1;
            }
            resolve(outcome);
            this.#runNext();
        };
        worker.onmessage = ({ data }) => finish(data, true);
        worker.onerror = fail;
        worker.postMessage({ file, limits: this.limits });
    }
}
