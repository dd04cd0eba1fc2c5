// The fleet's page, live: it asks every second while it can be seen, and keeps what it saw for the chart.

import { draw } from "./chart.js";

const POLL_MILLISECONDS = 1_000;
const SPAN = 180_000;
const MOST_DECISIONS = 12;

const number = new Intl.NumberFormat("en-US");
const samples = [];
const decisions = document.getElementById("decisions");
const FIGURES = ["running", "pending", "stopped", "waiting", "in_flight", "dead_letters", "peak_workers", "min_workers", "max_workers"];

const slot = (name) => document.querySelector(`[data-slot="${name}"]`);

function show(fleet) {
  for (const name of FIGURES) slot(name).textContent = number.format(fleet[name]);
  slot("stopped").parentElement.hidden = fleet.stopped === 0;
  slot("cost").textContent = fleet.cost;
  slot("cost").nextElementSibling.textContent = `for ${fleet.billed} billed`;
  slot("problem").textContent = fleet.problem ?? "";
  slot("problem").hidden = !fleet.problem;
  note(fleet);
  if (fleet.known) sample(fleet);
}

/** Put a decision that is another than the last one on top of the list. */
function note(fleet) {
  if (decisions.querySelector("li span").textContent === fleet.sentence) return;
  const line = document.createElement("li");
  const time = document.createElement("time");
  const at = fleet.at ? new Date(fleet.at) : new Date();
  time.dateTime = at.toISOString();
  time.textContent = at.toISOString().slice(11, 19);
  const words = document.createElement("span");
  words.textContent = fleet.sentence;
  line.append(time, " ", words);
  decisions.prepend(line);
  while (decisions.children.length > MOST_DECISIONS) decisions.lastElementChild.remove();
}

function sample(fleet) {
  const at = Date.now();
  samples.push({ at, workers: fleet.running + fleet.pending, queue: fleet.waiting + fleet.in_flight });
  while (samples[0].at < at - SPAN) samples.shift();
  document.getElementById("chart-card").hidden = false;
  draw(document.getElementById("chart"), samples, SPAN);
}

async function ask() {
  try {
    const answer = await fetch("/fleet/now");
    if (answer.ok) show(await answer.json());
  } catch {
    // The next second may do better; the page shows what it saw last.
  }
}

async function follow() {
  for (;;) {
    if (!document.hidden) await ask();
    await new Promise((resume) => setTimeout(resume, POLL_MILLISECONDS));
  }
}

follow();
