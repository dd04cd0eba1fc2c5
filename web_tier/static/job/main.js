// The page of a job: the server renders it once, and this module keeps it up to date.

import { showDownloads } from "./downloads.js";
import { Feed } from "./feed.js";
import { cancelPictures, gridItems, tableItems } from "./items.js";
import { Labels } from "./labels.js";
import { showProgress } from "./progress.js";
import { interceptRetryForms } from "./retry.js";
import { LOW_SCORE, Rows } from "./rows.js";
import { Viewer } from "./viewer.js";
import { VirtualList } from "./virtual_list.js";

/** Least time between two refreshes of the list. */
const MIN_REFRESH_INTERVAL_MS = 250;
/** The time between two refreshes is at least this many times as long as a refresh takes. */
const REFRESH_INTERVAL_FACTOR = 8;
/** How long the page follows a finished job after a retry. */
const RETRY_FOLLOW_MS = 60_000;

/**
 * The filters, the order and the view of the list; the page's URL has them as parameters.
 *
 * @typedef {object} Query
 * @property {string} state - "done", "failed", "waiting", or empty for all.
 * @property {string} label - or empty for all.
 * @property {number | null} low - lowest score, in percent.
 * @property {number | null} high - highest score, in percent.
 * @property {string} name - a part of the file name.
 * @property {string} sort - see orders.js.
 * @property {string} view - "grid" or "table".
 */

const job = document.getElementById("job").dataset;
const base = `/jobs/${job.job}`;
const filters = document.getElementById("filters");
const announcement = document.getElementById("announcement");
const rows = new Rows();
const query = queryFromUrl();

let list = null;
let selectedRows = [];
let refreshTimer = null;
let nextRefreshAt = 0;

/** @returns {Query} */
function queryFromUrl() {
    const params = new URLSearchParams(location.search);
    const param = (name) => params.get(name) ?? "";
    return {
        state: param("state"),
        label: param("label"),
        low: parsePercent(param("from")),
        high: parsePercent(param("to")),
        name: param("q"),
        sort: param("sort"),
        view: param("view") || "grid",
    };
}

function parsePercent(text) {
    return text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text);
}

function queryUrl() {
    const { state, label, low, high, name: q, sort } = query;
    const values = { state, label, from: low, to: high, q, sort, view: query.view === "table" ? "table" : "" };
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
    list ??= createList();
    list.show(selectedRows);
    labels.show(rows);
    filters.querySelector("[data-to] .count").textContent = rows.lowScores.toLocaleString("en-US");
    showListNotes(selectedRows.length, rows.size);
    showDownloads(query, selectedRows.length, rows.size);
    const took = performance.now() - startedAt;
    nextRefreshAt = performance.now() + Math.max(MIN_REFRESH_INTERVAL_MS, REFRESH_INTERVAL_FACTOR * took);
}

function showListNotes(shown, total) {
    const emptyNote = document.getElementById("nothing");
    emptyNote.hidden = shown > 0;
    emptyNote.textContent = total ? "No images match the filters." : "No images here yet.";
    const countText = `${shown.toLocaleString("en-US")} of ${total.toLocaleString("en-US")} images`;
    document.getElementById("shown").textContent = shown === total ? "" : countText;
}

function createList() {
    const renderer = query.view === "table" ? tableItems(base) : gridItems(base);
    const { root, list: container } = renderer.createContainer();
    const parent = document.getElementById("list");
    cancelPictures(parent);
    parent.replaceChildren(root);
    document.getElementById("pager").hidden = true;
    return new VirtualList(container, renderer);
}

/** @param {Partial<Query>} changes */
function setQuery(changes) {
    const changesView = changes.view !== undefined && changes.view !== query.view;
    Object.assign(query, changes);
    history.replaceState(null, "", queryUrl());
    if (changesView) {
        list?.close();
        list = null;
    }
    showQuery();
    refresh();
}

function markCurrent(elements, isCurrent) {
    for (const element of elements) {
        if (isCurrent(element.dataset)) element.setAttribute("aria-current", "true");
        else element.removeAttribute("aria-current");
    }
}

/** Return whether the scores are those of the filter "Up to 75%". */
const isLow = () => query.low === null && query.high === 100 * LOW_SCORE;

/** Show the query in the filters. */
function showQuery() {
    markCurrent(filters.querySelectorAll("[data-to]"), isLow);
    markCurrent(filters.querySelectorAll("[data-state]"), ({ state }) => state === query.state);
    markCurrent(filters.querySelectorAll("[data-view]"), ({ view }) => view === query.view);
    const { label, sort, from, to } = filters.elements;
    for (const [field, value] of [[from, query.low], [to, query.high]]) {
        if (parsePercent(field.value) !== value) field.value = value ?? "";
    }
    const hasOption = [...label.options].some((option) => option.value === query.label);
    if (query.label && !hasOption) label.add(new Option(query.label));
    label.value = query.label;
    sort.value = query.sort;
}

const indexOf = (id) => selectedRows.findIndex((row) => row.id === id);
const neighbour = (id, step) => (indexOf(id) < 0 ? undefined : selectedRows[indexOf(id) + step]?.id);
const reveal = (id) => list.reveal(indexOf(id))?.querySelector("a.open");

/** Merge updates into the rows. The viewer reloads its image if that image has changed. */
function merge(updates) {
    const shownVersion = () => rows.byId.get(viewer.shownId)?.version;
    const before = shownVersion();
    rows.merge(updates);
    if (shownVersion() !== before) viewer.open(viewer.shownId);
}

const labels = new Labels((label) => setQuery({ label: query.label === label ? "" : label }));
const viewer = new Viewer(base, neighbour, reveal);
const feed = new Feed(job.job, {
    rows(updates) {
        merge(updates);
        scheduleRefresh();
    },
    progress(progress, hasEnded) {
        showProgress(progress);
        if (["finished", "cancelled"].includes(progress.state)) announcement.textContent = progress.sentence;
        document.getElementById("state").classList.toggle("live", !hasEnded);
        const counts = ` · ${progress.done + progress.failed} of ${progress.accepted} · `;
        document.title = document.title.replace(/ · [\d,]+ of [\d,]+ · /, counts);
    },
    gone() {
        announcement.textContent = "This job has been deleted.";
        location.assign("/jobs");
    },
});

filters.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const { view, state, to } = link.dataset;
    if (to) setQuery({ low: null, high: isLow() ? null : Number(to) });
    else setQuery(view ? { view } : { state });
});
filters.addEventListener("change", ({ target }) => {
    if (target.name === "label" || target.name === "sort") setQuery({ [target.name]: target.value });
});
filters.elements.q.addEventListener("input", ({ target }) => setQuery({ name: target.value.trim() }));
filters.elements.from.addEventListener("input", ({ target }) => setQuery({ low: parsePercent(target.value) }));
filters.elements.to.addEventListener("input", ({ target }) => setQuery({ high: parsePercent(target.value) }));
filters.addEventListener("submit", (event) => event.preventDefault());

document.getElementById("list").addEventListener("click", (event) => {
    const link = event.target.closest("a.open");
    if (!link?.dataset.id || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    viewer.open(link.dataset.id, link);
});

interceptRetryForms(base, (id) => {
    const row = rows.byId.get(id);
    if (row) merge([{ ...row, retrying: true, turn: (row.turn ?? 0) + 1 }]);
    refresh();
    feed.resume(RETRY_FOLLOW_MS);
});

const share = document.getElementById("share");
share.hidden = !navigator.clipboard; // missing without TLS
share.addEventListener("click", async () => {
    await navigator.clipboard.writeText(location.href);
    share.querySelector("span").textContent = "Copied";
});

document.getElementById("apply").hidden = true;
showQuery();
feed.follow(job.followRetry === "true" ? RETRY_FOLLOW_MS : 0);
