// Workers and queue over time, drawn as SVG: steps for the workers, an area for the queue, each on a scale of its own.

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
  return steps.map((step) => step * power).find((round) => round >= most) ?? 10 * power;
}

function text(x, y, words, anchor) {
  const element = document.createElementNS(SVG, "text");
  element.setAttribute("x", x);
  element.setAttribute("y", y);
  element.setAttribute("text-anchor", anchor);
  element.textContent = words;
  return element;
}

function line(y) {
  const element = document.createElementNS(SVG, "path");
  element.setAttribute("d", `M${LEFT} ${y}H${RIGHT}`);
  return element;
}

/**
 * @param {SVGElement} chart
 * @param {{at: number, workers: number, queue: number}[]} samples oldest first, `at` in milliseconds
 * @param {number} span milliseconds from the left to the right edge
 */
export function draw(chart, samples, span) {
  const now = samples.at(-1).at;
  const workersTop = ceiling(Math.max(...samples.map((sample) => sample.workers)));
  const queueTop = ceiling(Math.max(...samples.map((sample) => sample.queue)));
  const x = (at) => (RIGHT - ((now - at) / span) * (RIGHT - LEFT)).toFixed(1);
  const y = (share) => (BOTTOM - share * (BOTTOM - TOP)).toFixed(1);
  const workers = samples.map(({ at, workers }, index) => `${index ? "H" : "M"}${x(at)}${index ? "V" : " "}${y(workers / workersTop)}`);
  const queue = samples.map(({ at, queue }) => `${x(at)} ${y(queue / queueTop)}`).join("L");
  chart.querySelector(".workers-line").setAttribute("d", workers.join(""));
  chart.querySelector(".queue-line").setAttribute("d", `M${queue}`);
  chart.querySelector(".queue-area").setAttribute("d", `M${x(samples[0].at)} ${BOTTOM}L${queue}V${BOTTOM}Z`);
  drawScales(chart, workersTop, queueTop, y);
}

function drawScales(chart, workersTop, queueTop, y) {
  const scales = `${workersTop}/${queueTop}`;
  if (chart.dataset.scales === scales) return;
  chart.dataset.scales = scales;
  const shares = Array.from({ length: LINES + 1 }, (_, index) => index / LINES);
  chart.querySelector(".gridlines").replaceChildren(...shares.map((share) => line(y(share))));
  chart.querySelector(".axis").replaceChildren(
    text(LEFT - 6, TOP + 4, workersTop.toLocaleString("en-US"), "end"),
    text(LEFT - 6, BOTTOM + 4, "0", "end"),
    text(RIGHT + 6, TOP + 4, queueTop.toLocaleString("en-US"), "start"),
    text(RIGHT + 6, BOTTOM + 4, "0", "start"),
    text(LEFT, BOTTOM + 22, "3 min ago", "start"),
    text(RIGHT, BOTTOM + 22, "now", "end"),
  );
}
