// The images of a job, as far as this page knows them; rows are laid over each other by id.

import { byName, ORDERS } from "./orders.js";

export const UNSURE = 0.75;

/** How the system retried an image and why, a line for each way; as `Row.retries` of results/job_snapshot.py. */
export function retries({ tries, again }) {
  const tried = tries ? `Tried ${tries} times: a worker failed` : "";
  const resent = again ? `Requested again${again > 1 ? ` ×${again}` : ""}: presumed lost` : "";
  return [tried, resent].filter(Boolean).join("\n");
}

const RANK = { waiting: 0, failed: 1, done: 2 };

export class Rows {
  constructor() {
    this.byId = new Map();
    this.all = []; // in the order of the ids
    this.early = new Map(); // news of images that have not been told yet
    this.labels = new Map(); // label → images
    this.unsure = 0;
  }

  get size() {
    return this.all.length;
  }

  /** Take rows; each has an id and a status, and as much more as is known. */
  merge(rows) {
    let inOrder = true;
    for (const news of rows) {
      const known = this.byId.get(news.id);
      if (known) {
        this.#update(known, news);
      } else if (news.name === undefined) {
        this.early.set(news.id, [...(this.early.get(news.id) ?? []), news]);
      } else {
        inOrder = this.#add(news) && inOrder;
      }
    }
    if (!inOrder) this.all.sort((a, b) => (a.id < b.id ? -1 : 1));
  }

  #add(news) {
    const row = { id: news.id, name: news.name, bytes: news.bytes, status: "waiting", version: 0 };
    row.folded = row.name.toLowerCase();
    const inOrder = this.size === 0 || this.all[this.size - 1].id < row.id;
    this.byId.set(row.id, row);
    this.all.push(row);
    this.#update(row, news);
    for (const early of this.early.get(row.id) ?? []) this.#update(row, early);
    this.early.delete(row.id);
    return inOrder;
  }

  /** A result beats none, done beats failed, a later failure an earlier one, and more requests fewer; so any news may come first. */
  #update(row, news) {
    if ((news.again ?? 0) > (row.again ?? 0)) {
      row.again = news.again;
      row.version += 1;
    }
    const isLater = news.status === "failed" && row.status === "failed" && (news.turn ?? 0) > (row.turn ?? 0);
    if (RANK[news.status] <= RANK[row.status] && !isLater) return;
    const { status, label, score, reason, final, retrying, cached, at, turn, tries } = news;
    Object.assign(row, { status, label, score, reason, final, retrying, cached, at, turn, tries });
    row.version += 1;
    if (row.status === "done") {
      this.labels.set(row.label, (this.labels.get(row.label) ?? 0) + 1);
      if (row.score < UNSURE) this.unsure += 1;
    }
  }

  /** The rows that are asked for, in the order that is asked for. */
  select({ state, label, low, high, name, sort }) {
    const folded = name.toLowerCase();
    const takes = (row) =>
      (!state || (state === "unsure" ? row.score < UNSURE : row.status === state)) &&
      (!label || row.label === label) &&
      (low === null || row.score >= low / 100) &&
      (high === null || row.score <= high / 100) &&
      (!folded || row.folded.includes(folded));
    const wantsAll = !state && !label && !folded && low === null && high === null;
    const found = wantsAll ? this.all : this.all.filter(takes);
    const order = ORDERS[sort] ?? null;
    return order ? [...found].sort(order) : found;
  }

  /** Labels with most images first: [label, images] each. */
  histogram(most) {
    const entries = [...this.labels].sort((a, b) => b[1] - a[1] || byName(a[0], b[0]));
    return entries.slice(0, most);
  }
}
