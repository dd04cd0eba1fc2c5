// Adds images to a job: takes files, has them checked, and uploads them. The upload page has it before there is a job,
// and the page of a job to add more. At the click on "Classify" the upload page becomes the page of the job (see
// job_page.js), which goes on with the same `Adding`.

import { store, stored } from "../storage.js";
import { Batch } from "./batch.js";
import { CheckPool } from "./check_pool.js";
import { StatusLine } from "./status_line.js";
import { fileSources, transferSources } from "./sources.js";
import { Uploader } from "./uploader.js";

const MAX_CONCURRENT_CHECKS = 32;
/** After adding files for this long, in milliseconds, the page yields to other tasks. */
const YIELD_AFTER_MS = 15;
/** Pictures of files that stay in memory: 5 to 20 KB each. */
const MAX_PICTURES = 1_000;

export class Adding {
    #concurrentChecks = 0;
    #pictured = new Set(); // items with a picture, also one that is being drawn; the oldest ones first
    #sentNames = null; // promise of the names that an unfinished upload has sent; then positions are known
    #isKnown = false;

    /**
     * @param {HTMLElement} section - see _adding.html.
     * @param {object | null} job - to add to, as the API has it; null on the upload page.
     * @param {() => Promise<Rows>} [readRows] - returns the images of the job; see job/rows.js.
     */
    constructor(section, job = null, readRows = null) {
        section.adding = this;
        this.section = section;
        this.readRows = readRows;
        this.limits = JSON.parse(section.dataset.limits);
        this.batch = new Batch();
        this.uploader = new Uploader(this.batch, this.limits, job);
        this.checkPool = new CheckPool(this.limits);
        this.line = new StatusLine(section, this);
        this.unsent = new Map(); // name and size → position of the images that an earlier visit has not sent
        this.mayLeave = false;
        this.#listen();
        this.#recall();
    }

    #listen() {
        const find = (name) => this.section.querySelector(`#${name}`);
        const files = document.querySelector("input#images") ?? fileInput({ id: "files-input", multiple: true });
        const folder = fileInput({ id: "folder-input", webkitdirectory: true, ariaLabel: "A folder of images" });
        files.required = false;
        if (matchMedia("(hover: none)").matches) files.accept = "image/*"; // a phone offers its camera, too
        else files.removeAttribute("accept"); // the page also accepts zips
        this.section.append(folder);
        if (!files.isConnected) this.section.append(files);
        for (const input of [files, folder]) input.addEventListener("change", () => this.#addChosen(input));
        for (const name of ["choose", "more"]) find(name).addEventListener("click", () => files.click());
        for (const name of ["folder", "more-folder"]) find(name).addEventListener("click", () => folder.click());
        find("stop").addEventListener("click", () => this.uploader.stop());
        find("again").addEventListener("click", () => this.send());
        addEventListener("paste", (event) => this.#addTransferred(event, event.clipboardData));
        this.#listenForDrops(find("drop"));
        addEventListener("beforeunload", (event) => {
            if (this.uploader.isRunning && !this.mayLeave) event.preventDefault();
        });
    }

    // The whole page accepts drops: a drop beside the target would make the browser leave the page.
    #listenForDrops(target) {
        let depth = 0; // the browser fires dragenter and dragleave for each nested element
        const changeDepth = (change) => {
            depth = Math.max(0, depth + change);
            target.classList.toggle("over", depth > 0);
        };
        addEventListener("dragenter", () => changeDepth(1));
        addEventListener("dragleave", () => changeDepth(-1));
        addEventListener("dragover", (event) => event.preventDefault());
        addEventListener("drop", (event) => {
            event.preventDefault();
            changeDepth(-depth);
            this.#addTransferred(event, event.dataTransfer);
        });
    }

    #addTransferred(event, transfer) {
        if (![...(transfer?.items ?? [])].some((item) => item.kind === "file")) return;
        event.preventDefault();
        this.#add(transferSources(transfer, this.limits.maxBytes));
    }

    #addChosen(input) {
        const files = [...input.files];
        input.value = ""; // so that the user can choose the same files again
        this.#add(fileSources(files, this.limits.maxBytes));
    }

    async #add(sources) {
        this.#sentNames ??= this.#findPositions();
        const sentNames = await this.#sentNames;
        let yieldAt = 0; // at once: Chromium takes 0.1 ms for each chosen file before the page has them, in one task
        for await (const source of sources) {
            if (source.isHidden) this.batch.addHidden();
            else this.#addSource(source, sentNames);
            this.#startChecks();
            if (performance.now() < yieldAt) continue;
            await yieldToPage();
            yieldAt = performance.now() + YIELD_AFTER_MS;
        }
        if (!this.uploader.job) return;
        if (this.uploader.isRunning) this.#remember();
        else await this.send();
    }

    /** Add a file. One that an earlier visit has not sent goes to its place, one that it has sent is there already. */
    #addSource(source, sentNames) {
        const key = keyOf(source);
        const position = this.unsent.get(key);
        if (position === undefined && sentNames.has(source.name)) return;
        this.unsent.delete(key);
        this.batch.add(source, position);
    }

    /** The number of images that an earlier visit of this tab has not sent; the user has to choose them again. */
    get missing() {
        return this.#isKnown ? this.unsent.size : 0;
    }

    /** Images that are added to a job come after its others. */
    async #findPositions() {
        if (!this.readRows) return new Set();
        const rows = await this.readRows();
        this.batch.nextPosition = Math.max(this.batch.nextPosition, rows.nextPosition);
        for (const [key, position] of this.unsent) if (rows.positions.has(position)) this.unsent.delete(key);
        this.#isKnown = true;
        this.batch.wake();
        return new Set(this.unsent.size ? rows.all.map((row) => row.name) : []);
    }

    /** Check files until none is left. The number of checks is bounded, since each check of a zip's file unpacks it. */
    async #startChecks() {
        if (this.#concurrentChecks >= MAX_CONCURRENT_CHECKS) return;
        this.#concurrentChecks += 1;
        for (let item = this.batch.nextUnchecked(); item; item = this.batch.nextUnchecked()) {
            await this.#check(item);
            while (this.uploader.hasEnough) await this.batch.nextChange();
        }
        this.#concurrentChecks -= 1;
    }

    async #check(item) {
        try {
            const file = await item.source.open();
            this.batch.recordCheck(item, await this.checkPool.run("check", file), file);
        } catch (error) {
            this.batch.recordCheck(item, { reason: error.message });
        }
    }

    /** Draw the picture of a file that the user sees. */
    async requestPicture(item) {
        if (!item.blob || this.#pictured.has(item)) return;
        this.#pictured.add(item);
        const picture = await this.checkPool.run("draw", item.blob);
        this.batch.setPicture(item, picture?.reason ? null : picture);
        if (this.#pictured.size <= MAX_PICTURES) return;
        const [oldest] = this.#pictured;
        this.#pictured.delete(oldest);
        oldest.picture = undefined;
    }

    /** Send what is not sent yet to the job. */
    async send() {
        if (this.uploader.isRunning) return;
        this.#remember();
        this.section.ariaBusy = "true";
        await this.uploader.run();
        this.section.ariaBusy = "false";
        if (this.uploader.isStopped) {
            this.uploader.failedRequests.length = 0;
            this.batch.discardUnsent();
        }
        if (this.batch.isFinished) this.unsent.clear();
        this.#remember();
    }

    // What this tab remembers of the upload, so that it can go on after a reload. The browser has the names of the files
    // only: the user chooses the files again.

    #remember() {
        const { batch, uploader } = this;
        const unsent = batch.items.filter(({ state }) => state !== "accepted");
        const memory = {
            unsent: [...this.unsent, ...unsent.map((item) => [keyOf(item.source), item.position])],
            rejected: batch.rejected.map(({ name, reason, position }) => ({ name, reason, position })),
            hidden: batch.hidden,
        };
        const isEmpty = !(memory.unsent.length + memory.rejected.length + memory.hidden);
        store(memoryKey(uploader.job), isEmpty ? null : JSON.stringify(memory), "sessionStorage");
    }

    #recall() {
        const { job } = this.uploader;
        const memory = job && JSON.parse(stored(memoryKey(job), "sessionStorage"));
        if (!memory) return;
        this.unsent = new Map(memory.unsent);
        this.batch.rejected.push(...memory.rejected);
        this.batch.hidden = memory.hidden;
        if (this.unsent.size) this.#sentNames = this.#findPositions();
        this.batch.wake();
    }

    /** Forget what the earlier visit has not sent, and the rejected files. */
    forget() {
        this.unsent.clear();
        this.batch.rejected.length = this.batch.hidden = 0;
        this.#remember();
        this.batch.wake();
    }
}

const memoryKey = ({ job_id }) => `upload:${job_id}`;
const keyOf = ({ name, size }) => `${size} ${name}`;

function fileInput(properties) {
    return Object.assign(document.createElement("input"), { type: "file", hidden: true, ...properties });
}

/** Let the browser run other tasks, such as drawing the page. */
function yieldToPage() {
    return new Promise((resolve) => setTimeout(resolve));
}
