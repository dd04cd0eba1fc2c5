// The chart of workers and queue over time: the server draws it once, and this module redraws it with each poll. A line
// is a step function, since a sample holds until the next one. Each line has its own scale.

import { plural } from "../upload/format.js";

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";
/** Edges of the drawing in the viewBox, as in pages/fleet.py. */
const LEFT = 36;
const RIGHT = 684;
const TOP = 12;
const BOTTOM = 190;
const GRIDLINE_INTERVALS = 3;

/** Return the least round number (1, 2, 3 or 5 times a power of ten) that is at least `max`. */
export function roundUp(max) {
    const steps = [1, 2, 3, 5, 10];
    const power = 10 ** Math.floor(Math.log10(Math.max(1, max)));
    return steps.map((step) => step * power).find((round) => round >= max);
}

function createGridline(y) {
    const element = document.createElementNS(SVG_NAMESPACE, "path");
    element.setAttribute("d", `M${LEFT} ${y}H${RIGHT}`);
    return element;
}

const stepPath = (points) => points.map(([x, y], index) => (index ? `H${x}V${y}` : `M${x} ${y}`)).join("");

export class Chart {
    #svg;
    #samples; // [milliseconds since 1970, workers, queue], oldest first
    #spanMs;
    #drawnScales = "";

    /** @param {SVGElement} svg - drawn by the server, with its samples and its span in milliseconds as data. */
    constructor(svg) {
        this.#svg = svg;
        this.#samples = JSON.parse(svg.dataset.samples);
        this.#spanMs = Number(svg.dataset.span);
    }

    /** Add a sample of the current time, and redraw. */
    add(workers, queue) {
        const now = Date.now();
        // The last of several equal samples only marks how long the value has held, so a new equal one replaces it.
        const lastTwo = this.#samples.slice(-2);
        const isUnchanged = lastTwo.every((sample) => sample[1] === workers && sample[2] === queue);
        if (lastTwo.length === 2 && isUnchanged) this.#samples.pop();
        this.#samples.push([now, workers, queue]);
        const start = now - this.#spanMs;
        while (this.#samples.length > 1 && this.#samples[1][0] <= start) this.#samples.shift();
        this.#draw(start);
    }

    #draw(start) {
        const max = (column) => Math.max(...this.#samples.map((sample) => sample[column]));
        const [workersTop, queueTop] = [roundUp(max(1)), roundUp(max(2))];
        const x = (at) => (LEFT + (Math.max(0, at - start) / this.#spanMs) * (RIGHT - LEFT)).toFixed(1);
        const y = (share) => (BOTTOM - share * (BOTTOM - TOP)).toFixed(1);
        const workersPath = stepPath(this.#samples.map((sample) => [x(sample[0]), y(sample[1] / workersTop)]));
        const queuePath = stepPath(this.#samples.map((sample) => [x(sample[0]), y(sample[2] / queueTop)]));
        this.#setPath(".workers-line", workersPath);
        this.#setPath(".queue-line", queuePath);
        this.#setPath(".queue-area", `${queuePath}V${BOTTOM}H${x(this.#samples[0][0])}Z`);
        this.#drawScales(workersTop, queueTop, y);
        const [, workers, images] = this.#samples.at(-1);
        const highest = `at most ${plural(max(1), "worker")} and ${plural(max(2), "image")} in the queue`;
        const current = `now ${plural(workers, "worker")} and ${plural(images, "image")}.`;
        this.#svg.setAttribute("aria-label", `${this.#svg.dataset.title}: ${highest}; ${current}`);
    }

    #setPath(selector, path) {
        this.#svg.querySelector(selector).setAttribute("d", path);
    }

    #drawScales(workersTop, queueTop, y) {
        const scales = `${workersTop}/${queueTop}`;
        if (this.#drawnScales === scales) return;
        this.#drawnScales = scales;
        const shares = Array.from({ length: GRIDLINE_INTERVALS + 1 }, (_, index) => index / GRIDLINE_INTERVALS);
        this.#svg.querySelector(".gridlines").replaceChildren(...shares.map((share) => createGridline(y(share))));
        const [workers, , queue] = this.#svg.querySelectorAll(".axis text");
        workers.textContent = workersTop.toLocaleString("en-US");
        queue.textContent = queueTop.toLocaleString("en-US");
    }
}
