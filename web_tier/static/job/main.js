// The page of a job: the server renders it once, and this module keeps it up to date.

import { Connection } from "../connection.js";
import "../copy.js";
import { Adding } from "../upload/adding.js";
import { formatCount, plural } from "../upload/format.js";
import { VirtualList } from "../virtual_list.js";
import { showDownloads } from "./downloads.js";
import { Facets } from "./facets.js";
import { Feed } from "./feed.js";
import { goToJobs } from "./gone.js";
import { adoptTile, createTile, markOpened, updateTile } from "./items.js";
import { listenForListKeys } from "./keyboard.js";
import { showCount, showFound, showProgress, showRetriable } from "./progress.js";
import { interceptRetryForms } from "./retry.js";
import { Rows } from "./rows.js";
import { listenForSizes } from "./sizes.js";
import { Viewer } from "./viewer.js";

/** Least time between two refreshes of the list. */
const MIN_REFRESH_INTERVAL_MS = 50;
/** The time between two refreshes is at least this many times as long as a refresh takes. */
const REFRESH_INTERVAL_FACTOR = 8;
/** How long the page follows a finished job after a retry. */
const RETRY_FOLLOW_MS = 60_000;

/** How often the page of a shared job checks whether it is still shared, once the job has finished. */
const CHECK_INTERVAL_MS = 10_000;
/** The part of a query that shows all images. */
const NO_FILTERS = { state: "", label: "", low: null, high: null, name: "", truth: "", correct: "", reviewed: "" };

/**
 * The filters and the order of the list, and the open image; the page's URL has them as parameters.
 *
 * @typedef {object} Query
 * @property {string} state - "done", "failed", "waiting", "unsure", or empty for all.
 * @property {string} label - or empty for all.
 * @property {number | null} low - lowest score, in percent.
 * @property {number | null} high - highest score, in percent.
 * @property {string} name - a part of the file name.
 * @property {string} sort - see orders.js.
 * @property {string} truth - true label, or empty for all.
 * @property {string} correct - "true" or "false": whether the label is the true one; empty for all.
 * @property {string} reviewed - "true" or "false": whether there is a true label; empty for all.
 * @property {string} image - the id of the open image, or empty.
 */

const job = document.getElementById("job").dataset;
const base = `/jobs/${job.job}`;
const filters = document.getElementById("filters");
const announcement = document.getElementById("announcement");
const rows = new Rows(job.job);
const query = queryFromUrl();

let list = null;
let selectedRows = [];
let places = new Map(); // id → place in `selectedRows`
let lastId = null; // of the image that had the focus, or was open
let progress = null; // the last one that arrived
let shownProgress = null; // with the files that this page still sends
let shownSize = 0; // rows when the figures were shown
let mustReveal = query.image !== ""; // the page's URL has opened an image
let refreshTimer = null;
let nextRefreshAt = 0;

/** @returns {Query} The server has left out what is not valid. */
function queryFromUrl() {
    const params = new URLSearchParams(location.search);
    const param = (name) => params.get(name) ?? "";
    const names = ["state", "label", "sort", "truth", "correct", "reviewed", "image"];
    const texts = Object.fromEntries(names.map((name) => [name, param(name)]));
    return { ...texts, name: param("q"), low: parsePercent(param("from")), high: parsePercent(param("to")) };
}

function parsePercent(text) {
    const number = Number(text);
    return text.trim() !== "" && number >= 0 && number <= 100 ? number : null;
}

function queryUrl() {
    const { state, label, low, high, name: q, sort, truth, correct, reviewed, image } = query;
    const values = { state, label, from: low, to: high, q, sort, truth, correct, reviewed, image };
    const params = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) if (value || value === 0) params.set(name, value);
    return params.size ? `${base}?${params}` : base;
}

/** Refresh the list soon. Many updates share one refresh. */
function scheduleRefresh() {
    refreshTimer ??= setTimeout(refresh, Math.max(0, nextRefreshAt - performance.now()));
}

function refresh() {
    clearTimeout(refreshTimer);
    refreshTimer = null;
    const startedAt = performance.now();
    selectedRows = rows.select(query);
    places = new Map(selectedRows.map((row, index) => [row.id, index]));
    list ??= createList();
    list.show(selectedRows);
    if (shownSize === rows.size) showNumbers();
    else showFigures();
    document.getElementById("unlikely").hidden = rows.unsure * 2 <= rows.size;
    showListNotes(selectedRows.length, rows.size);
    showDownloads(query, selectedRows.length, rows.size);
    for (const part of parts) part.onRefresh?.();
    if (query.image) viewer.show(query.image, rows.byId.get(query.image));
    viewer.updateSteps();
    if (mustReveal && reveal(query.image)) mustReveal = false;
    if (rows.hasResult) adding?.uploader.endWait();
    const took = performance.now() - startedAt;
    nextRefreshAt = performance.now() + Math.max(MIN_REFRESH_INTERVAL_MS, REFRESH_INTERVAL_FACTOR * took);
}

/** Show what the rows add up to; some of it only once the page has all rows, since it would look final before. */
function showNumbers() {
    const areAllRead = feed.hasReadAll && rows.size - rows.files.size >= (progress?.accepted ?? 0);
    const { state, sentence } = shownProgress ?? {};
    const retrying = countRetrying();
    if (retrying) showFound(`Retrying ${plural(retrying, "image")}.`, true);
    else if (state) showFound(sentence, state !== "running");
    if (!rows.size) return; // the server's are shown
    facets.show(rows, query, areAllRead);
    showCount("unsure", areAllRead || !rows.done ? rows.unsure : null); // a part of it would look final
    for (const part of parts) part.onNumbers?.(areAllRead);
    if (areAllRead) showRetriable(rows.retriable, state === "cancelled");
}

/** Return how many images are being retried in a job that is otherwise finished. */
const countRetrying = () => (shownProgress?.state === "finished" ? rows.retrying : 0);

function showListNotes(shown, total) {
    const emptyNote = document.getElementById("nothing");
    emptyNote.hidden = shown > 0;
    emptyNote.querySelector("strong").textContent = total ? "No images match." : "No images yet.";
    document.getElementById("clear").hidden = total === 0;
    const countText = `${formatCount(shown)} of ${formatCount(total)} images`;
    document.getElementById("shown").textContent = shown === total ? "" : countText;
}

function createList() {
    const container = document.getElementById("list");
    const tiles = [...container.querySelectorAll(".tile")].map(adoptTile); // that the server has rendered
    document.getElementById("pager").hidden = true;
    return new VirtualList(
        container,
        {
            createItem: (row) => createTile(base, row),
            update(element, row) {
                updateTile(element, row);
                for (const part of parts) part.decorate?.(element, row);
                markOpened(element, row.id === query.image);
            },
            requestPicture: ({ item }) => item && adding.requestPicture(item),
        },
        new Map(tiles.map((tile) => [tile.querySelector("a.open").dataset.id, tile])),
    );
}

/**
 * Change the query and the page's URL. Back undoes the change, unless it replaces the entry of the history.
 *
 * @param {Partial<Query>} changes
 * @param {{replace?: boolean, state?: object | null}} [entry] - `state` says how the entry came about.
 */
function navigate(changes, { replace = false, state = null } = {}) {
    const before = { ...query };
    Object.assign(query, changes);
    if (replace) history.replaceState(state, "", queryUrl());
    else history.pushState(state, "", queryUrl());
    showChange(before);
}

/** Change the query while the user types: all letters in one field are one entry of the history. */
function navigateTyping(field, changes) {
    const state = { typing: field };
    navigate(changes, { replace: history.state?.typing === field, state });
}

function showChange(before) {
    const { image, ...filter } = query;
    if (Object.entries(filter).some(([name, value]) => before[name] !== value)) {
        showQuery();
        refresh();
    }
    if (image !== before.image) showImage(before.image);
}

function showImage(previousId) {
    markOpened(list?.elements.get(previousId), false);
    markOpened(list?.elements.get(query.image), true);
    if (query.image) {
        lastId = query.image;
        const row = rows.byId.get(query.image);
        viewer.show(query.image, row);
        reveal(query.image); // the panel has made the list narrower
        if (row) announcement.textContent = [row.name, row.label ?? row.failure ?? row.status].join(": ");
    } else {
        for (const part of parts) part.onClose?.();
        viewer.hide();
        reveal(lastId)?.focus({ preventScroll: true });
    }
}

/** Open an image. Back closes it, also after steps to other images. */
function openImage(id) {
    if (query.image) navigate({ image: id }, { replace: true, state: history.state });
    else navigate({ image: id }, { state: { opened: true } });
}

function closeImage() {
    if (!query.image || isGoingBack) return;
    if (history.state?.opened) {
        isGoingBack = true;
        history.back();
    } else {
        navigate({ image: "" });
    }
}

let isGoingBack = false;
addEventListener("popstate", () => {
    isGoingBack = false;
    if (location.pathname !== base) {
        leave();
        return;
    }
    const before = { ...query };
    Object.assign(query, queryFromUrl());
    showChange(before);
});

/** Go back to the upload page, which became this page without a navigation. */
function leave() {
    if (adding?.uploader.isRunning && !confirm("Images are still being sent. Leave this page all the same?")) {
        history.forward();
        return;
    }
    if (adding) adding.mayLeave = true;
    location.reload();
}

/** Show the query in the filters. */
function showQuery() {
    const isFiltered = Object.entries(NO_FILTERS).some(([name, value]) => query[name] !== value);
    for (const link of filters.querySelectorAll("[data-state]")) {
        const { state } = link.dataset;
        link.ariaCurrent = (state ? state === query.state : !isFiltered) ? "true" : null;
    }
    const { sort, from, to, q } = filters.elements;
    if (q.value.trim() !== query.name) q.value = query.name;
    for (const [field, value] of [[from, query.low], [to, query.high]]) {
        if (parsePercent(field.value) !== value) field.value = value ?? "";
    }
    sort.value = query.sort;
    for (const part of parts) part.showQuery?.(query);
}

/** Return the image that is `step` places after another; the files behind the images have no page yet. */
function neighbour(id, step) {
    if (page.queue) return rows.byId.get(page.queue[page.queue.indexOf(id) + step]);
    const row = places.has(id) ? selectedRows[places.get(id) + step] : undefined;
    return row?.item ? undefined : row;
}

/** Scroll the list to an image, and return its link. */
function reveal(id) {
    return places.has(id) ? list?.reveal(places.get(id))?.querySelector("a.open") : undefined;
}

/** Go to the image that is `step` places after the open or focused one; false if there is none. */
function move(step) {
    const id = query.image || page.focusedId || lastId;
    const next = places.has(id) ? neighbour(id, step) : selectedRows[0];
    return next && !next.item ? goTo(next) : false;
}

/** Open an image in place of the open one, or give it the focus in the list. */
function goTo({ id }) {
    lastId = id;
    const link = reveal(id);
    if (query.image) openImage(id);
    if (!query.image || viewer.isBeside) link?.focus({ preventScroll: true });
}

/** Merge updates into the rows. The viewer reloads its image if that image has changed. */
function merge(updates) {
    rows.merge(updates);
    if (query.image) viewer.show(query.image, rows.byId.get(query.image));
}

/**
 * What features add to the page; it calls the functions that a part has.
 *
 * @typedef {object} Part
 * @property {() => void} [onRefresh] - the list has been refreshed.
 * @property {(areAllRead: boolean) => void} [onNumbers] - what the rows add up to is shown.
 * @property {(element: HTMLElement, row: Row) => void} [decorate] - adds to an item of the list.
 * @property {(query: Query) => void} [showQuery] - shows the filters of the feature.
 * @property {() => void} [onClose] - the user has closed the open image.
 */

/** @type {Part[]} */
const parts = [];

/** @typedef {typeof page} JobPage - the page, as the viewer, the parts and the keys see it. */
export const page = {
    /** Ids of images that the user goes through one by one, in order, without the list; or null. */
    queue: null,
    /** @param {Part} part */
    addPart(part) {
        parts.push(part);
        part.showQuery?.(query);
        if (list) refresh();
    },
    base,
    rows,
    query,
    isShared: document.body.classList.contains("shared"), // by another user: nothing can be changed
    /** The images that match the filters, in their order. */
    get shown() {
        return selectedRows.filter((row) => !row.item);
    },
    get list() {
        return list;
    },
    /** The id of the image in the list that has the focus, or undefined. */
    get focusedId() {
        return document.activeElement?.closest(".tile")?.querySelector("a.open").dataset.id;
    },
    /** Whether the open image covers the list. */
    get isCovered() {
        return query.image !== "" && !viewer.isBeside;
    },
    /** Return the place of an image in the list in words. */
    position(id) {
        const place = 1 + (page.queue ? page.queue.indexOf(id) : (places.get(id) ?? -1));
        return place ? `${formatCount(place)} of ${formatCount((page.queue ?? selectedRows).length)}` : "";
    },
    open(id) {
        reveal(id);
        if (id === query.image) viewer.place();
        else openImage(id);
    },
    close: closeImage,
    merge(updates) {
        merge(updates);
        refresh();
    },
    goTo,
    move,
    navigate,
    neighbour,
};
const facets = new Facets(
    (label) => navigate({ label: query.label === label ? "" : label }),
    (name) => navigate({ name: query.name === name ? "" : name }),
);
const viewer = new Viewer(page);
const connection = new Connection();
const feed = new Feed(
    job.job,
    {
        rows(updates) {
            merge(updates);
            scheduleRefresh();
        },
        progress(update, hasEnded) {
            progress = update;
            document.getElementById("state").classList.toggle("live", !hasEnded);
            showFigures();
        },
        gone: goToJobs,
    },
    connection,
);

filters.addEventListener("click", (event) => {
    const link = event.target.closest("[data-state]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const { state } = link.dataset;
    navigate(state ? { state, low: null, high: null } : NO_FILTERS);
});
filters.elements.sort.addEventListener("change", ({ target }) => navigate({ sort: target.value }));
filters.elements.q.addEventListener("input", ({ target }) => navigateTyping("q", { name: target.value.trim() }));
for (const [field, bound] of [["from", "low"], ["to", "high"]]) {
    filters.elements[field].addEventListener("input", ({ target }) => {
        navigateTyping(field, { [bound]: parsePercent(target.value) });
    });
}
filters.addEventListener("submit", (event) => event.preventDefault());

document.getElementById("clear").addEventListener("click", (event) => {
    event.preventDefault();
    navigate(NO_FILTERS);
});

document.getElementById("list").addEventListener("click", (event) => {
    const link = event.target.closest("a.open");
    if (!link?.dataset.id || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (link.dataset.id !== query.image) openImage(link.dataset.id);
    else if (event.detail === 0) viewer.focus(); // by the keyboard
});
listenForListKeys(page);

interceptRetryForms(base, (id) => {
    const row = rows.byId.get(id);
    if (row) merge([{ ...row, retrying: true, turn: (row.turn ?? 0) + 1 }]);
    refresh();
    feed.resume(RETRY_FOLLOW_MS);
});

// The list scrolls to the image that has the focus; the browser would scroll to where the list was before.
history.scrollRestoration = "manual";
addEventListener("pagehide", () => {
    history.scrollRestoration = "auto";
});

/** Show the last progress; the files that this page still sends wait, too. */
function showFigures() {
    shownSize = rows.size;
    if (!progress) {
        showNumbers();
        return;
    }
    const files = Math.max(0, rows.size - progress.accepted);
    const [accepted, waiting] = [progress.accepted + files, progress.waiting + files];
    const advice = "Keep this page open until all images are sent.";
    const sentence = progress.waiting ? `${advice} ${progress.sentence}` : advice;
    const words = progress.blocked ? progress.words : "running";
    const ofFiles = { accepted, waiting, sentence, state: "running", words, left: null, unsent: files };
    const shown = files ? { ...progress, ...ofFiles } : progress;
    shownProgress = shown;
    showProgress(shown);
    showNumbers();
    if (["finished", "cancelled"].includes(shown.state) && !countRetrying()) announcement.textContent = shown.sentence;
    const counts = ` · ${shown.done + shown.failed} of ${shown.accepted} · `;
    document.title = document.title.replace(/ · [\d,]+ of [\d,]+ · /, counts);
}

/** Show the files that are being sent, and follow the job while they are. */
function showFiles({ batch, uploader }) {
    const followUpload = () => {
        feed.isAwaited = uploader.isRunning || batch.counts.unsent > 0;
        if (uploader.isRunning && feed.hasEnded) feed.resume(0);
    };
    for (const item of batch.items) rows.setFile(item);
    batch.addEventListener("change", ({ detail: item }) => {
        if (item) rows.setFile(item);
        scheduleRefresh();
    });
    uploader.addEventListener("change", () => {
        for (const { items } of uploader.requestsInFlight) for (const item of items) rows.setFile(item);
        followUpload();
        scheduleRefresh();
    });
    followUpload();
    if (batch.items.length) scheduleRefresh(); // without files, the list of the server stays until the rows are here
}

async function readRows() {
    await feed.readAll();
    return rows;
}

const section = document.getElementById("adding");
const adding = section && (section.adding ?? new Adding(section, { job_id: job.job }, readRows));
if (adding) showFiles(adding);
listenForSizes(() => list?.resized());
showQuery();
if (query.image) viewer.show(query.image);
feed.follow(job.followRetry === "true" ? RETRY_FOLLOW_MS : 0);
if (page.isShared) setInterval(() => feed.hasEnded && !document.hidden && feed.checkEnded(), CHECK_INTERVAL_MS);
