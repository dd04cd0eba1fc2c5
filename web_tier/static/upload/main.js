// The upload page: takes files from wherever they come, has them checked, shows them, and sends them.
// Without this script the form sends the chosen files by itself.

import { CallError, fleetNow } from "./api.js";
import { Batch } from "./batch.js";
import { Checks } from "./checks.js";
import { sources, transferred } from "./gather.js";
import { Grid } from "./grid.js";
import { Report } from "./report.js";
import { Uploader } from "./uploader.js";

/** A photo of more than this many times what the server takes is not unpacked from a zip. */
const UNPACK_FACTOR = 10;
const CHECKS_AHEAD = 32;
/** How long files are added before the page may do something else. */
const TURN_MS = 15;
/** Longest side of the small pictures: as a tile, but no more, so that 10,000 of them take about 50 MB. */
const PICTURE_SIDE = Math.min(160, Math.ceil(112 * devicePixelRatio));

const form = document.getElementById("upload");
const limits = JSON.parse(form.dataset.limits);
const batch = new Batch();
const checks = new Checks(limits, PICTURE_SIDE);
const uploader = new Uploader(batch, limits);
const parts = Object.fromEntries([...form.querySelectorAll("[id]")].map((part) => [part.id, part]));
new Grid(parts.thumbs, batch, uploader); // before the report, which writes: the grid measures what is drawn
const report = new Report(form, batch, uploader);
let checking = 0;
let finished = false;

enhance();

function enhance() {
    parts.images.required = false;
    const folder = Object.assign(document.createElement("input"), { type: "file", webkitdirectory: true });
    folder.id = "folder-input";
    folder.hidden = true;
    folder.ariaLabel = "A folder of images";
    parts.choices.append(folder);
    parts.images.removeAttribute("accept"); // what the browser can read, it converts; and zips
    parts.choose.addEventListener("click", () => parts.images.click());
    parts.folder.addEventListener("click", () => folder.click());
    for (const input of [parts.images, folder]) input.addEventListener("change", () => chosen(input));
    parts.clear.addEventListener("click", clear);
    form.addEventListener("submit", submit);
    addEventListener("paste", (event) => taken(event, event.clipboardData));
    listenForDrops();
    if ("ask" in parts.fleetNow.dataset) askFleet();
    addEventListener("beforeunload", (event) => {
        if (uploader.running) event.preventDefault();
    });
}

async function askFleet() {
    const fleet = await fleetNow();
    if (fleet) report.knowFleet(fleet);
}

// A drop anywhere on the page is meant for the batch; beside the target it would leave the page.
function listenForDrops() {
    let depth = 0;
    const over = (change) => {
        depth = Math.max(0, depth + change);
        parts.drop.classList.toggle("over", depth > 0);
    };
    addEventListener("dragenter", () => over(1));
    addEventListener("dragleave", () => over(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
        event.preventDefault();
        over(-depth);
        taken(event, event.dataTransfer);
    });
}

function taken(event, transfer) {
    if (![...(transfer?.items ?? [])].some((item) => item.kind === "file")) return;
    event.preventDefault();
    add(transferred(transfer, limits.maxBytes * UNPACK_FACTOR));
}

function chosen(input) {
    const files = [...input.files];
    input.value = ""; // so that the same choice can be made again
    add(sources(files, limits.maxBytes * UNPACK_FACTOR));
}

async function add(found) {
    try {
        let until = performance.now() + TURN_MS;
        for await (const source of found) {
            batch.add(source);
            check();
            if (performance.now() < until) continue;
            await nextTask();
            until = performance.now() + TURN_MS;
        }
    } catch (error) {
        report.say(`Something could not be read: ${error.message}`);
    }
    if (uploader.job && !uploader.running) send();
}

/** Let the page do what else waits, such as being drawn. */
function nextTask() {
    return new Promise((resolve) => setTimeout(resolve));
}

/** Keep some files in the hands of the checks; not all, since each of a zip is unpacked for it. */
async function check() {
    if (checking >= CHECKS_AHEAD) return;
    checking += 1;
    for (let item = batch.nextUnchecked(); item; item = batch.nextUnchecked()) {
        batch.settle(item, await checked(item.source));
    }
    checking -= 1;
}

async function checked(source) {
    try {
        const file = await source.open();
        const outcome = await checks.check(file);
        return outcome.reason ? outcome : { ...outcome, blob: outcome.blob ?? file };
    } catch (error) {
        return { reason: error.message };
    }
}

function clear() {
    batch.clear();
    parts.choose.focus();
}

function submit(event) {
    event.preventDefault();
    if (!batch.total) {
        report.say("Choose one or more images first.");
        parts.choose.focus();
    } else if (!uploader.running) {
        send();
    }
}

async function send() {
    try {
        await uploader.run(parts.name.value, parts.keep.checked);
    } catch (error) {
        if (!(error instanceof CallError)) throw error;
        report.refused(error);
        return;
    }
    if (batch.counts.accepted && batch.counts.accepted === batch.total && !finished) {
        finished = true;
        location.assign(uploader.job.links.page);
    } else {
        report.end();
    }
}
