// The values of the chart under the pointer. The server draws the chart; see features/fleet_control/chart.py.

import { plural } from "../upload/format.js";

/** The edges of the drawing in its viewBox, as in chart.py. */
const WIDTH = 720;
const LEFT = 36;
const RIGHT = 684;
const TOP = 26;
const BOTTOM = 200;

const timeFormat = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const svg = document.getElementById("chart");
let pointedShare = null; // of the time that the chart shows, 0 to 1

/** Show the values of the moment under the pointer; none if it is elsewhere. */
export function showValue() {
    const value = document.getElementById("chart-value");
    const cursor = svg.querySelector(".cursor");
    if (pointedShare === null) {
        value.textContent = "";
        cursor.setAttribute("d", "");
        return;
    }
    const samples = JSON.parse(svg.dataset.samples); // [milliseconds since 1970, workers, images], oldest first
    const at = samples.at(-1)[0] - Number(svg.dataset.span) * (1 - pointedShare);
    const [, workers, images] = samples.findLast((sample) => sample[0] <= at) ?? samples[0];
    value.textContent = `${timeFormat.format(at)}: ${plural(workers, "worker")}, ${plural(images, "image")}`;
    cursor.setAttribute("d", `M${(LEFT + pointedShare * (RIGHT - LEFT)).toFixed(1)} ${TOP}V${BOTTOM}`);
}

svg.addEventListener("pointermove", ({ clientX }) => {
    const { left, width } = svg.getBoundingClientRect();
    const place = ((clientX - left) / width) * WIDTH;
    pointedShare = Math.min(1, Math.max(0, (place - LEFT) / (RIGHT - LEFT)));
    showValue();
});
svg.addEventListener("pointerleave", () => {
    pointedShare = null;
    showValue();
});
