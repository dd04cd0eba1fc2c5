// A list of any length of which only what can be seen, and a little more, is in the page.

const OVERSCAN = 3; // rows above and below the window, so that scrolling and the tab key find something
const STILL_MILLISECONDS = 120; // without a change of what is shown, before pictures are asked for

export class Windowed {
  /**
   * @param {HTMLElement} container holds the items; nothing else scrolls but the page
   * @param {object} items makes, fills, and drops elements; `still` is called with one that has stayed for a while
   */
  constructor(container, items) {
    this.container = container;
    this.items = items;
    this.order = [];
    this.shown = new Map(); // id → element
    this.before = items.space();
    this.after = items.space();
    container.replaceChildren(this.before, this.after);
    this.due = false;
    this.abort = new AbortController();
    addEventListener("scroll", () => this.draw(), { passive: true, signal: this.abort.signal });
    this.observer = new ResizeObserver(() => this.#measureAndDraw());
    this.observer.observe(container);
  }

  close() {
    this.abort.abort();
    this.observer.disconnect();
    clearTimeout(this.timer);
    for (const element of this.shown.values()) this.items.drop(element);
  }

  show(order) {
    this.order = order;
    this.draw();
  }

  /** Draw before the next frame, once, however often it is asked for. */
  draw() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.#drawNow();
    });
  }

  /** Scroll so that the row at `index` is drawn, and return its element. */
  reveal(index) {
    this.#measure();
    const top = this.container.getBoundingClientRect().top + scrollY + Math.floor(index / this.columns) * this.pitch;
    if (top < scrollY || top + this.pitch > scrollY + innerHeight) scrollTo({ top: top - innerHeight / 3 });
    this.#drawNow();
    return this.shown.get(this.order[index]?.id);
  }

  #measureAndDraw() {
    const width = this.container.clientWidth;
    if (width === this.width) return;
    this.width = width;
    this.pitch = undefined;
    this.draw();
  }

  #measure() {
    const style = getComputedStyle(this.container);
    this.columns = style.display === "grid" ? style.gridTemplateColumns.split(" ").length : 1;
    const gap = parseFloat(style.rowGap) || 0;
    const first = this.shown.values().next().value;
    if (first) this.pitch = first.getBoundingClientRect().height + gap;
    this.gap = gap;
  }

  #drawNow() {
    if (this.pitch === undefined) {
      if (this.shown.size === 0) this.#place(this.order.slice(0, 1)); // something to measure
      this.#measure();
    }
    if (this.pitch === undefined || this.pitch === 0) return;
    const rows = Math.ceil(this.order.length / this.columns);
    const top = -this.container.getBoundingClientRect().top;
    const first = Math.min(Math.max(0, Math.floor(top / this.pitch) - OVERSCAN), Math.max(0, rows - 1));
    const last = Math.min(rows, Math.max(first + 1, Math.ceil((top + innerHeight) / this.pitch) + OVERSCAN));
    this.#place(this.order.slice(first * this.columns, last * this.columns));
    this.items.stretch(this.before, Math.max(0, first * this.pitch - this.gap));
    this.items.stretch(this.after, Math.max(0, (rows - last) * this.pitch - this.gap));
  }

  /** Make the items of `rows` those that are there, touching only what changes: focus and pictures stay. */
  #place(rows) {
    const wanted = new Set(rows.map((row) => row.id));
    for (const [id, element] of this.shown) {
      if (!wanted.has(id)) {
        element.remove();
        this.items.drop(element);
        this.shown.delete(id);
      }
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#still(), STILL_MILLISECONDS);
    let at = this.before.nextSibling;
    for (const row of rows) {
      const element = this.#element(row);
      if (element === at) at = at.nextSibling;
      else this.container.insertBefore(element, at);
    }
  }

  // A user who scrolls fast through ten thousand images does not want the pictures of all of them.
  #still() {
    for (const element of this.shown.values()) this.items.still(element);
  }

  #element(row) {
    let element = this.shown.get(row.id);
    if (!element) {
      element = this.items.make(row);
      this.shown.set(row.id, element);
      element.version = undefined;
    }
    if (element.version !== row.version) {
      this.items.fill(element, row);
      element.version = row.version;
    }
    return element;
  }
}
