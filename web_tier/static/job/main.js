// The page of a job, live: the server drew it once, and from here on it follows the job by itself.

import { Feed } from "./feed.js";
import { showCount, showProgress } from "./figures.js";
import { drop, gridItems, tableItems } from "./items.js";
import { Labels } from "./labels.js";
import { takeOverRetries } from "./retry.js";
import { Rows } from "./rows.js";
import { Viewer } from "./viewer.js";
import { Windowed } from "./window.js";

const REFRESH_MILLISECONDS = 250; // between two sorts and counts of everything, at least
const RETRY_MILLISECONDS = 60_000; // how long failed images that are tried again are waited for
const REST = 8; // and this many times as long as one took

const job = document.getElementById("job").dataset;
const base = `/jobs/${job.job}`;
const filters = document.getElementById("filters");
const rows = new Rows();
const asked = askedByAddress();

let list = null;
let order = [];
let refreshDue = null;
let notBefore = 0;

function askedByAddress() {
  const words = new URLSearchParams(location.search);
  const word = (name) => words.get(name) ?? "";
  return {
    state: word("state"),
    label: word("label"),
    low: percentage(word("from")),
    high: percentage(word("to")),
    name: word("q"),
    sort: word("sort"),
    view: word("view") || "grid",
  };
}

function percentage(text) {
  return text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text);
}

function address() {
  const words = new URLSearchParams();
  const { state, label, low, high, name: q, sort } = asked;
  const named = { state, label, from: low, to: high, q, sort, view: asked.view === "table" ? "table" : "" };
  for (const [name, value] of Object.entries(named)) if (value || value === 0) words.set(name, value);
  return words.size ? `${base}?${words}` : base;
}

/** Show what is asked for; many news make one refresh. */
function refreshSoon() {
  refreshDue ??= setTimeout(refresh, Math.max(0, notBefore - performance.now()));
}

function refresh() {
  clearTimeout(refreshDue);
  refreshDue = null;
  const began = performance.now();
  order = rows.select(asked);
  list ??= newList();
  list.show(order);
  labels.show(rows);
  showCount("unsure", rows.unsure);
  document.getElementById("nothing").hidden = order.length > 0;
  document.getElementById("nothing").textContent = rows.size ? "No image is like that." : "No images here yet.";
  document.getElementById("shown").textContent =
    order.length === rows.size ? "" : `${order.length.toLocaleString("en-US")} of ${rows.size.toLocaleString("en-US")} images`;
  const took = performance.now() - began;
  notBefore = performance.now() + Math.max(REFRESH_MILLISECONDS, REST * took);
}

function newList() {
  const keep = job.keep === "true";
  const items = asked.view === "table" ? tableItems(base, keep) : gridItems(base, keep);
  const { root, list: container } = items.container();
  const place = document.getElementById("list");
  drop(place);
  place.replaceChildren(root);
  document.getElementById("pager").hidden = true;
  return new Windowed(container, items);
}

function ask(changes) {
  const other = changes.view !== undefined && changes.view !== asked.view;
  Object.assign(asked, changes);
  history.replaceState(null, "", address());
  if (other) {
    list?.close();
    list = null;
  }
  showAsked();
  refresh();
}

function mark(elements, isCurrent) {
  for (const element of elements) {
    if (isCurrent(element.dataset)) element.setAttribute("aria-current", "true");
    else element.removeAttribute("aria-current");
  }
}

function showAsked() {
  mark(filters.querySelectorAll("[data-state]"), ({ state }) => state === asked.state);
  mark(filters.querySelectorAll("[data-view]"), ({ view }) => view === asked.view);
  const { label, sort, from, to } = filters.elements;
  for (const [field, value] of [[from, asked.low], [to, asked.high]]) {
    if (percentage(field.value) !== value) field.value = value ?? "";
  }
  if (asked.label && ![...label.options].some((option) => option.value === asked.label)) label.add(new Option(asked.label));
  label.value = asked.label;
  sort.value = asked.sort;
}

const place = (id) => order.findIndex((row) => row.id === id);
const neighbour = (id, step) => (place(id) < 0 ? undefined : order[place(id) + step]?.id);
const reveal = (id) => list.reveal(place(id))?.querySelector("a.open");

/** Take news; what the viewer shows is shown anew when it is about that image. */
function merge(news) {
  const version = () => rows.byId.get(viewer.shown)?.version;
  const before = version();
  rows.merge(news);
  if (version() !== before) viewer.open(viewer.shown);
}

const labels = new Labels((label) => ask({ label: asked.label === label ? "" : label }));
const viewer = new Viewer(base, neighbour, reveal);
const feed = new Feed(job.job, {
  rows(news) {
    merge(news);
    refreshSoon();
  },
  progress(progress, ended) {
    showProgress(progress);
    if (progress.state === "finished") document.getElementById("news").textContent = progress.sentence;
    document.getElementById("state").classList.toggle("live", !ended);
    document.title = document.title.replace(/ · [\d,]+ of [\d,]+ · /, ` · ${progress.done + progress.failed} of ${progress.accepted} · `);
  },
  gone() {
    document.getElementById("news").textContent = "This job has been deleted.";
    location.assign("/jobs");
  },
});

filters.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  ask(link.dataset.view ? { view: link.dataset.view } : { state: link.dataset.state });
});
filters.addEventListener("change", ({ target }) => {
  if (target.name === "label" || target.name === "sort") ask({ [target.name]: target.value });
});
filters.elements.q.addEventListener("input", ({ target }) => ask({ name: target.value.trim() }));
filters.elements.from.addEventListener("input", ({ target }) => ask({ low: percentage(target.value) }));
filters.elements.to.addEventListener("input", ({ target }) => ask({ high: percentage(target.value) }));
filters.addEventListener("submit", (event) => event.preventDefault());

document.getElementById("list").addEventListener("click", (event) => {
  const link = event.target.closest("a.open");
  if (!link?.dataset.id || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  viewer.open(link.dataset.id, link);
});

takeOverRetries(base, (id) => {
  const row = rows.byId.get(id);
  if (row) merge([{ ...row, retrying: true, turn: (row.turn ?? 0) + 1 }]);
  refresh();
  feed.resume(RETRY_MILLISECONDS);
});

const share = document.getElementById("share");
share.hidden = !navigator.clipboard;
share.addEventListener("click", async () => {
  await navigator.clipboard.writeText(location.href);
  share.querySelector("span").textContent = "Copied";
});

filters.querySelector('[data-state="unsure"]').hidden = false;
document.getElementById("apply").hidden = true;
showAsked();
feed.follow(job.insist === "true" ? RETRY_MILLISECONDS : 0);
