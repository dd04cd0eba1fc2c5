// Workers and queue over time: the chart that the server has drawn, drawn again as time goes on. Lines are steps, since
// a sample holds until the next one; each has a scale of its own.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 36;
const RIGHT = 684;
const TOP = 12;
const BOTTOM = 190;
const LINES = 3;

/** The least round figure that is not below `most`. */
export function ceiling(most) {
  const steps = [1, 2, 3, 5, 10];
  const power = 10 ** Math.floor(Math.log10(Math.max(1, most)));
  return steps.map((step) => step * power).find((round) => round >= most);
}

function line(y) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", `M${LEFT} ${y}H${RIGHT}`);
  return element;
}

const steps = (places) => places.map(([x, y], index) => (index ? `H${x}V${y}` : `M${x} ${y}`)).join("");
const count = (number, noun) => `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;

export class Chart {
  #chart;
  #samples; // [milliseconds, workers, queue], oldest first
  #span;
  #scales = "";

  /** @param {SVGElement} chart as the server drew it, with its samples and its span in milliseconds */
  constructor(chart) {
    this.#chart = chart;
    this.#samples = JSON.parse(chart.dataset.samples);
    this.#span = Number(chart.dataset.span);
  }

  /** Take in what there is now, and draw. */
  add(workers, queue) {
    const at = Date.now();
    const last = this.#samples.at(-1);
    // The last one only says how long the one before it held: it gives way while nothing changes.
    const before = this.#samples.at(-2);
    const held = before && [before, last].every((sample) => sample[1] === workers && sample[2] === queue);
    if (held) this.#samples.pop();
    this.#samples.push([at, workers, queue]);
    const start = at - this.#span;
    while (this.#samples.length > 1 && this.#samples[1][0] <= start) this.#samples.shift();
    this.#draw(start, at);
  }

  #draw(start, now) {
    const most = (place) => Math.max(...this.#samples.map((sample) => sample[place]));
    const [workersTop, queueTop] = [ceiling(most(1)), ceiling(most(2))];
    const x = (at) => (LEFT + (Math.max(0, at - start) / this.#span) * (RIGHT - LEFT)).toFixed(1);
    const y = (share) => (BOTTOM - share * (BOTTOM - TOP)).toFixed(1);
    const queue = steps(this.#samples.map((sample) => [x(sample[0]), y(sample[2] / queueTop)]));
    this.#put(".workers-line", steps(this.#samples.map((sample) => [x(sample[0]), y(sample[1] / workersTop)])));
    this.#put(".queue-line", queue);
    this.#put(".queue-area", `${queue}V${BOTTOM}H${x(this.#samples[0][0])}Z`);
    this.#drawScales(workersTop, queueTop, y);
    const [, workers, images] = this.#samples.at(-1);
    const words = `at most ${count(most(1), "worker")} and ${count(most(2), "image")} in the queue`;
    const present = `now ${count(workers, "worker")} and ${count(images, "image")}.`;
    this.#chart.setAttribute("aria-label", `${this.#chart.dataset.title}: ${words}; ${present}`);
  }

  #put(selector, path) {
    this.#chart.querySelector(selector).setAttribute("d", path);
  }

  #drawScales(workersTop, queueTop, y) {
    const scales = `${workersTop}/${queueTop}`;
    if (this.#scales === scales) return;
    this.#scales = scales;
    const shares = Array.from({ length: LINES + 1 }, (_, index) => index / LINES);
    this.#chart.querySelector(".gridlines").replaceChildren(...shares.map((share) => line(y(share))));
    const [workers, , queue] = this.#chart.querySelectorAll(".axis text");
    workers.textContent = workersTop.toLocaleString("en-US");
    queue.textContent = queueTop.toLocaleString("en-US");
  }
}
