// Checks and draws files in web workers, so that the page stays responsive with thousands of files.

/** More than the cores of a small machine: a worker waits for the file's bytes half of its time. */
const MAX_WORKERS = 4;
const CHECK_TIMEOUT_MS = 60_000;

export class CheckPool {
    /**
     * @param {object} limits - the server's: `maxBytes`, `maxPixels`, `formats`.
     */
    constructor(limits) {
        this.limits = limits;
        this.queue = [];
        this.idleWorkers = [];
        this.workerCount = 0;
    }

    /**
     * Let the next free worker check a file, or draw a small picture of it. That goes first: the user waits for it.
     *
     * @param {"check" | "draw"} task
     * @returns {Promise<CheckOutcome | string | null>} see batch.js, and `draw` of check_worker.js. Never rejects.
     */
    run(task, file) {
        return new Promise((resolve) => {
            this.queue[task === "draw" ? "unshift" : "push"]({ task, file, resolve });
            this.#runNext();
        });
    }

    #runNext() {
        if (!this.queue.length || (!this.idleWorkers.length && this.workerCount === MAX_WORKERS)) return;
        if (!this.idleWorkers.length) {
            this.idleWorkers.push(new Worker(new URL("./check_worker.js", import.meta.url), { type: "module" }));
            this.workerCount += 1;
        }
        const worker = this.idleWorkers.pop();
        const { task, file, resolve } = this.queue.shift();
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
        worker.postMessage({ task, file, limits: this.limits });
    }
}
