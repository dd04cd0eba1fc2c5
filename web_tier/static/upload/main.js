// The upload page: adds files to the batch, has them checked, shows them, and uploads them.
// Without JavaScript the browser submits the form itself.

import { keepSkippedFiles } from "../job/skipped.js";
import { ApiError, fetchFleet, fetchModels } from "./api.js";
import { Batch } from "./batch.js";
import { CheckPool } from "./check_pool.js";
import { Grid } from "./grid.js";
import { fileSources, transferSources } from "./sources.js";
import { StatusView } from "./status_view.js";
import { Uploader } from "./uploader.js";

const MAX_CONCURRENT_CHECKS = 32;
/** After adding files for this long, in milliseconds, the page yields to other tasks. */
const YIELD_AFTER_MS = 15;
/** Longest side of the thumbnails, in pixels: that of a tile, up to a limit at which 10,000 of them take 50 MB. */
const THUMBNAIL_SIDE = Math.min(160, Math.ceil(112 * devicePixelRatio));

const form = document.getElementById("upload");
const limits = JSON.parse(form.dataset.limits);
const batch = new Batch();
const catalog = fetchVisibleModels();
const checkPool = new CheckPool(limits, THUMBNAIL_SIDE, catalog.then(largestSide));
const uploader = new Uploader(batch, limits);
const elements = Object.fromEntries([...form.querySelectorAll("[id]")].map((element) => [element.id, element]));
new Grid(elements.thumbs, batch, uploader); // before the view, which writes: the grid measures first
const view = new StatusView(form, batch, uploader);
let concurrentChecks = 0;
let isLeaving = false;

initialize();

function initialize() {
    elements.images.required = false;
    const folderInput = Object.assign(document.createElement("input"), { type: "file", webkitdirectory: true });
    folderInput.id = "folder-input";
    folderInput.hidden = true;
    folderInput.ariaLabel = "A folder of images";
    elements.choices.append(folderInput);
    elements.images.removeAttribute("accept"); // the page also accepts zips
    elements.choose.addEventListener("click", () => elements.images.click());
    elements.more.addEventListener("click", () => elements.images.click());
    elements.folder.addEventListener("click", () => folderInput.click());
    for (const input of [elements.images, folderInput]) input.addEventListener("change", () => addChosen(input));
    elements.clear.addEventListener("click", clear);
    elements.stop.addEventListener("click", () => uploader.stop());
    form.addEventListener("submit", onSubmit);
    addEventListener("paste", (event) => addTransferred(event, event.clipboardData));
    listenForDrops();
    if ("ask" in elements.fleetNow.dataset) showFleet();
    showModels();
    addEventListener("beforeunload", (event) => {
        if (uploader.isRunning) event.preventDefault();
    });
}

async function showFleet() {
    const fleet = await fetchFleet();
    if (fleet) view.setFleet(fleet);
}

/** Return the models, or null if the user may not see them, or the server does not respond. */
async function fetchVisibleModels() {
    const isAllowed = form.dataset.models === "everyone" || (await import("../visitor.js")).visitor?.signed_in;
    return isAllowed ? fetchModels() : null;
}

/** Return how many pixels of an image's shorter side a job may need, or null if one of the models does not say so. */
function largestSide(found) {
    const sides = found?.models.map((model) => model.short_side) ?? [];
    return sides.length && sides.every(Boolean) ? Math.max(...sides) : null;
}

async function showModels() {
    const found = await catalog;
    if (found && elements.modelChoice?.hidden) view.setModels(found);
}

// The whole page accepts drops: a drop beside the target would make the browser leave the page.
function listenForDrops() {
    let depth = 0; // the browser fires dragenter and dragleave for each nested element
    const changeDepth = (change) => {
        depth = Math.max(0, depth + change);
        elements.drop.classList.toggle("over", depth > 0);
    };
    addEventListener("dragenter", () => changeDepth(1));
    addEventListener("dragleave", () => changeDepth(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
        event.preventDefault();
        changeDepth(-depth);
        addTransferred(event, event.dataTransfer);
    });
}

function addTransferred(event, transfer) {
    if (![...(transfer?.items ?? [])].some((item) => item.kind === "file")) return;
    event.preventDefault();
    add(transferSources(transfer, limits.maxBytes));
}

function addChosen(input) {
    const files = [...input.files];
    input.value = ""; // so that the user can choose the same files again
    add(fileSources(files, limits.maxBytes));
}

async function add(sources) {
    let yieldAt = performance.now() + YIELD_AFTER_MS;
    for await (const source of sources) {
        if (source.isHidden) batch.addHidden();
        else batch.add(source);
        startChecks();
        if (performance.now() < yieldAt) continue;
        await yieldToPage();
        yieldAt = performance.now() + YIELD_AFTER_MS;
    }
    if (uploader.job && !uploader.isRunning && !uploader.isStopped) send();
}

/** Let the browser run other tasks, such as drawing the page. */
function yieldToPage() {
    return new Promise((resolve) => setTimeout(resolve));
}

/** Check files until none is left. The number of checks is bounded, since each check of a zip's file unpacks it. */
async function startChecks() {
    if (concurrentChecks >= MAX_CONCURRENT_CHECKS) return;
    concurrentChecks += 1;
    for (let item = batch.nextUnchecked(); item; item = batch.nextUnchecked()) await check(item);
    concurrentChecks -= 1;
}

/** Check an item and record the outcome. */
async function check(item) {
    try {
        const file = await item.source.open();
        batch.recordCheck(item, await checkPool.check(file), file);
    } catch (error) {
        batch.recordCheck(item, { reason: error.message });
    }
}

function clear() {
    batch.clear();
    elements.choose.focus();
}

function onSubmit(event) {
    event.preventDefault();
    if (!batch.sendable) {
        view.announceEmpty();
        elements.choose.focus();
    } else if (!uploader.isRunning) {
        send();
    }
}

async function send() {
    view.announce("");
    try {
        const name = elements.name.value.trim() || batch.defaultName;
        await uploader.run(name, elements.keep.checked, elements.model?.value ?? "");
    } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        view.announceFailure(error);
        return;
    }
    const isComplete = batch.isFinished || uploader.isStopped;
    if (batch.counts.accepted && isComplete) {
        if (isLeaving) return;
        isLeaving = true;
        keepSkippedFiles(uploader.job.job_id, batch.skippedFiles());
        location.assign(uploader.job.links.page);
    } else {
        view.announceResult();
    }
}
