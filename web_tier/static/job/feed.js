// A job's news: server-sent events while the page can be seen, and asking now and then where there is no stream.

import { goToSignIn, needsSignIn } from "../sign_in.js";

const POLL_MILLISECONDS = 2_000;
const STREAM_AGAIN_MILLISECONDS = 30_000;
const PAGE = 1_000;

export class Feed {
  /**
   * @param {string} jobId
   * @param {{rows: (rows) => void, progress: (progress, ended: boolean) => void, gone: () => void}} told
   */
  constructor(jobId, told) {
    this.jobId = jobId;
    this.told = told;
    this.last = "";
    this.ended = false;
    this.reading = null;
    this.readAgain = false;
    document.addEventListener("visibilitychange", () => this.#onVisibility());
  }

  /** Follow the job until its end, and for `milliseconds` in any case: images that are tried again have failed so far. */
  follow(milliseconds) {
    this.until = performance.now() + milliseconds;
    this.#open();
  }

  /** Follow it for `milliseconds` more, even if it was at its end: something of it has been asked for again. */
  resume(milliseconds) {
    this.ended = false;
    this.follow(milliseconds);
  }

  /** Read all rows, in pages; asked for again meanwhile, it reads once more after that. */
  async readAll() {
    if (this.reading) {
      this.readAgain = true;
      return this.reading;
    }
    this.reading = this.#readPages().finally(() => {
      this.reading = null;
    });
    await this.reading;
    if (this.readAgain) {
      this.readAgain = false;
      await this.readAll();
    }
  }

  async #readPages() {
    let after = "";
    do {
      const page = await this.#json(`/jobs/${this.jobId}/rows?limit=${PAGE}${after && `&after=${after}`}`);
      this.told.rows(page.rows);
      after = page.next;
    } while (after);
  }

  async #json(address) {
    const answer = await fetch(address, { headers: { Accept: "application/json" } });
    if (answer.status === 404) {
      this.#end();
      this.told.gone();
    }
    if (needsSignIn(answer)) {
      this.#end();
      goToSignIn();
      throw new Error(`${address} asks for a sign-in`);
    }
    if (!answer.ok) throw new Error(`${address} answered ${answer.status}`);
    return answer.json();
  }

  // A browser has six connections to a server for all its tabs, so a hidden tab closes its stream.
  #onVisibility() {
    if (document.hidden) this.#close();
    else if (!this.ended) this.#open();
  }

  #close() {
    this.source?.close();
    this.source = null;
    clearTimeout(this.timer);
  }

  #end() {
    this.ended = true;
    this.#close();
  }

  #open() {
    if (this.source || document.hidden) return;
    clearTimeout(this.timer);
    const resume = this.last && `?last_event_id=${encodeURIComponent(this.last)}`;
    const source = new EventSource(`/api/v1/jobs/${this.jobId}/events${resume}`);
    this.source = source;
    const on = (kind, act) =>
      source.addEventListener(kind, (event) => {
        this.last = event.lastEventId;
        act(JSON.parse(event.data));
      });
    on("resync", () => this.readAll().catch(() => this.#lost()));
    on("images", ({ rows }) => this.told.rows(rows));
    on("results", ({ rows }) => this.told.rows(rows));
    on("progress", (progress) => this.told.progress(progress, false));
    on("end", (progress) => {
      this.told.progress(progress, true);
      if (performance.now() > this.until) this.#end();
      else this.#lost();
    });
    on("gone", () => {
      this.#end();
      this.told.gone();
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED && source === this.source) this.#lost();
    });
  }

  // The stream was refused: ask now and then, and try for a stream again later.
  #lost() {
    this.#close();
    this.last = "";
    if (!this.ended && !document.hidden) this.#poll(performance.now() + STREAM_AGAIN_MILLISECONDS);
  }

  async #poll(until) {
    try {
      const progress = await this.#json(`/jobs/${this.jobId}/progress`);
      const results = `${progress.accepted}/${progress.done}/${progress.failed}/${progress.resends}`;
      if (results !== this.results || progress.retried) await this.readAll();
      this.results = results;
      if (progress.settled && performance.now() > this.until) this.#end();
      this.told.progress(progress, progress.settled);
    } catch {
      // The next round may do better; the page says how far it is as of the last one that did.
    }
    if (this.ended || document.hidden) return;
    this.timer = setTimeout(() => (performance.now() > until ? this.#open() : this.#poll(until)), POLL_MILLISECONDS);
  }
}
