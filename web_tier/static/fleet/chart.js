// The chart of workers and queue over time: the server draws it once, and this module redraws it with each poll. A line
// is a step function, since a sample holds until the next one. Each line has its own scale.

import { duration, plural } from "../upload/format.js";

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";
/** Edges of the drawing in the viewBox, lengths and ticks, as in pages/fleet_chart.py. */
const LEFT = 36;
const RIGHT = 684;
const TOP = 26;
const BOTTOM = 200;
const GRIDLINE_INTERVALS = 3;
const FITTED_MS = [60_000, 120_000, 180_000, 300_000, 600_000];
const FITTED_SHARE = 0.9;
const TICK_SECONDS = { 60: 15, 120: 30, 180: 60, 300: 60, 600: 120, 3_600: 600, 86_400: 14_400 };
const TITLES = { 60: "Last minute", 3_600: "Last hour", 86_400: "Last day" };

const timeFormat = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** Return the least round number (1, 2, 3 or 5 times a power of ten) that is at least `max`. */
export function roundUp(max) {
    const steps = [1, 2, 3, 5, 10];
    const power = 10 ** Math.floor(Math.log10(Math.max(1, max)));
    return steps.map((step) => step * power).find((round) => round >= max);
}

function createElement(name, attributes, text = "") {
    const element = document.createElementNS(SVG_NAMESPACE, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.textContent = text;
    return element;
}

const stepPath = (points) => points.map(([x, y], index) => (index ? `H${x}V${y}` : `M${x} ${y}`)).join("");

export class Chart {
    #svg;
    #title;
    #value;
    #samples; // [milliseconds since 1970, workers, queue], oldest first
    #spanMs;
    #fits;
    #drawnScales = "";
    #pointerShare = null;

    /**
     * @param {SVGElement} svg - drawn by the server, with its samples and its span in milliseconds as data.
     * @param {HTMLElement} title - says which time the chart shows.
     * @param {HTMLElement} value - shows the values under the pointer.
     */
    constructor(svg, title, value) {
        this.#svg = svg;
        this.#title = title;
        this.#value = value;
        this.#samples = JSON.parse(svg.dataset.samples);
        this.#spanMs = Number(svg.dataset.span);
        this.#fits = "fits" in svg.dataset;
        svg.addEventListener("pointermove", (event) => this.#point(event.clientX));
        svg.addEventListener("pointerleave", () => this.#point(null));
    }

    /** Add a sample of the current time, and redraw. */
    add(workers, queue) {
        const now = Date.now();
        // The last of several equal samples only marks how long the value has held, so a new equal one replaces it.
        const lastTwo = this.#samples.slice(-2);
        const isUnchanged = lastTwo.every((sample) => sample[1] === workers && sample[2] === queue);
        if (lastTwo.length === 2 && isUnchanged) this.#samples.pop();
        this.#samples.push([now, workers, queue]);
        if (this.#fits) this.#spanMs = this.#fittedSpan(now);
        const longest = now - (this.#fits ? FITTED_MS.at(-1) : this.#spanMs);
        while (this.#samples.length > 1 && this.#samples[1][0] <= longest) this.#samples.shift();
        this.#draw(now);
    }

    /** Return the shortest span that shows everything since the first activity. */
    #fittedSpan(now) {
        const active = this.#samples.find(([, workers, queue]) => workers || queue);
        const age = active ? now - active[0] : Infinity;
        return FITTED_MS.find((span) => age <= span * FITTED_SHARE) ?? FITTED_MS.at(-1);
    }

    #draw(now) {
        const start = now - this.#spanMs;
        const after = this.#samples.findIndex(([at]) => at > start);
        const shown = this.#samples.slice(Math.max(0, after - 1));
        const max = (column) => Math.max(...shown.map((sample) => sample[column]));
        const [workersTop, queueTop] = [roundUp(max(1)), roundUp(max(2))];
        const x = (at) => (LEFT + (Math.max(0, at - start) / this.#spanMs) * (RIGHT - LEFT)).toFixed(1);
        const y = (share) => (BOTTOM - share * (BOTTOM - TOP)).toFixed(1);
        const workersPath = stepPath(shown.map((sample) => [x(sample[0]), y(sample[1] / workersTop)]));
        const queuePath = stepPath(shown.map((sample) => [x(sample[0]), y(sample[2] / queueTop)]));
        this.#setPath(".workers-line", workersPath);
        this.#setPath(".queue-line", queuePath);
        this.#setPath(".queue-area", `${queuePath}V${BOTTOM}H${x(shown[0][0])}Z`);
        this.#drawScales(workersTop, queueTop, y);
        this.#showValue(now);
        const [, workers, images] = shown.at(-1);
        const highest = `at most ${plural(max(1), "worker")} and ${plural(max(2), "image")} in the queue`;
        const current = `now ${plural(workers, "worker")} and ${plural(images, "image")}.`;
        this.#svg.setAttribute("aria-label", `${this.#title.textContent}: ${highest}; ${current}`);
    }

    #setPath(selector, path) {
        this.#svg.querySelector(selector).setAttribute("d", path);
    }

    #drawScales(workersTop, queueTop, y) {
        const seconds = this.#spanMs / 1_000;
        const scales = `${workersTop}/${queueTop}/${seconds}`;
        if (this.#drawnScales === scales) return;
        this.#drawnScales = scales;
        this.#title.textContent = TITLES[seconds] ?? `Last ${seconds / 60} minutes`;
        const shares = Array.from({ length: GRIDLINE_INTERVALS + 1 }, (_, index) => index / GRIDLINE_INTERVALS);
        const gridlines = shares.map((share) => createElement("path", { d: `M${LEFT} ${y(share)}H${RIGHT}` }));
        this.#svg.querySelector(".gridlines").replaceChildren(...gridlines);
        const step = TICK_SECONDS[seconds];
        const ticks = Array.from({ length: Math.ceil(seconds / step) - 1 }, (_, index) => (index + 1) * step);
        const x = (ago) => (RIGHT - (ago / seconds) * (RIGHT - LEFT)).toFixed(1);
        const marks = ticks.map((ago) => createElement("path", { d: `M${x(ago)} ${BOTTOM}v5` }));
        this.#svg.querySelector(".ticks").replaceChildren(...marks);
        const label = (at, height, anchor, text) => createElement("text", { x: at, y: height, "text-anchor": anchor }, text);
        this.#svg.querySelector(".axis").replaceChildren(
            label(LEFT - 6, TOP + 4, "end", workersTop.toLocaleString("en-US")),
            label(LEFT - 6, BOTTOM + 4, "end", "0"),
            label(RIGHT + 6, TOP + 4, "start", queueTop.toLocaleString("en-US")),
            label(RIGHT + 6, BOTTOM + 4, "start", "0"),
            label(0, 12, "start", "workers"),
            label(720, 12, "end", "images"),
            label(RIGHT, BOTTOM + 20, "end", "now"),
            ...ticks.map((ago) => label(x(ago), BOTTOM + 20, "middle", `${tickText(ago)} ago`)),
        );
    }

    #point(clientX) {
        if (clientX === null) {
            this.#pointerShare = null;
        } else {
            const { left, width } = this.#svg.getBoundingClientRect();
            const place = ((clientX - left) / width) * 720;
            this.#pointerShare = Math.min(1, Math.max(0, (place - LEFT) / (RIGHT - LEFT)));
        }
        this.#showValue(Date.now());
    }

    #showValue(now) {
        if (this.#pointerShare === null) {
            this.#value.textContent = "";
            this.#setPath(".cursor", "");
            return;
        }
        const at = now - this.#spanMs * (1 - this.#pointerShare);
        const [, workers, queue] = this.#samples.findLast((sample) => sample[0] <= at) ?? this.#samples[0];
        const time = timeFormat.format(at);
        this.#value.textContent = `${time}: ${plural(workers, "worker")}, ${plural(queue, "image")}`;
        this.#setPath(".cursor", `M${(LEFT + this.#pointerShare * (RIGHT - LEFT)).toFixed(1)} ${TOP}V${BOTTOM}`);
    }
}

function tickText(seconds) {
    return seconds >= 7_200 ? `${seconds / 3_600} h` : duration(seconds);
}
