// The fleet's page, live: it asks every second while it can be seen, and goes on with the chart that the server drew.

import { goToSignIn, needsSignIn } from "../sign_in.js";
import { Chart } from "./chart.js";

const POLL_MILLISECONDS = 1_000;

const number = new Intl.NumberFormat("en-US");
const chart = new Chart(document.getElementById("chart"));
const FIGURES = ["running", "pending", "stopped", "waiting", "in_flight", "dead_letters", "peak_workers", "min_workers", "max_workers"];

const slot = (name) => document.querySelector(`[data-slot="${name}"]`);

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function putOrHide(name, text) {
  put(slot(name), text ?? "");
  slot(name).hidden = !text;
}

function show(fleet) {
  for (const name of FIGURES) put(slot(name), number.format(fleet[name]));
  slot("stopped").parentElement.hidden = fleet.stopped === 0;
  put(slot("cost"), fleet.cost);
  put(slot("cost").nextElementSibling, `for ${fleet.billed} billed`);
  put(slot("per_thousand"), fleet.per_thousand ?? "");
  put(slot("per_thousand").nextElementSibling, fleet.per_thousand_of);
  slot("per_thousand").parentElement.hidden = !fleet.per_thousand;
  put(slot("sentence"), fleet.sentence);
  for (const name of ["problem", "clocks", "paused", "unlisted"]) putOrHide(name, fleet[name]);
  put(slot("limits_set"), fleet.limits_set ?? "");
  document.getElementById("limits-set").hidden = !fleet.limits_set;
  document.getElementById("pause").hidden = Boolean(fleet.paused);
  document.getElementById("resume").hidden = !fleet.paused;
  showInstances(fleet.instances);
  showDecisions(fleet.decisions);
  if (fleet.known) chart.add(fleet.running + fleet.pending, fleet.waiting + fleet.in_flight);
}

/** Fill one row for each instance, with as many rows as there are instances. */
function showInstances(instances) {
  const body = document.querySelector("#instances tbody");
  const template = document.getElementById("instance-row").content;
  while (body.rows.length > instances.length) body.rows[body.rows.length - 1].remove();
  while (body.rows.length < instances.length) body.append(template.cloneNode(true));
  instances.forEach((instance, index) => showInstance(body.rows[index], instance));
  document.getElementById("instances").hidden = instances.length === 0;
  document.getElementById("no-instances").hidden = instances.length > 0;
}

function showInstance(row, instance) {
  for (const cell of row.querySelectorAll("[data-cell]")) put(cell, instance[cell.dataset.cell]);
  row.querySelector("time").dateTime = instance.launched;
  row.querySelector(".pill").classList.toggle("on", instance.at_work);
  row.classList.toggle("marked", instance.marked);
  showDrain(row.querySelector("[data-drain]"), instance);
}

/** A page of its own asks first: the rows move while they are looked at. */
function showDrain(link, { instance_id: id, can_drain: can }) {
  link.hidden = !can;
  link.href = `/fleet/instances/${encodeURIComponent(id)}/drain`;
  link.ariaLabel = `Drain ${id}`;
}

function showDecisions(decisions) {
  const list = document.getElementById("decisions");
  const newest = decisions[0] ? `${decisions[0].at} ${decisions[0].words}` : "";
  if (list.dataset.newest === newest) return;
  list.dataset.newest = newest;
  list.replaceChildren(...decisions.map(decisionItem));
}

function decisionItem({ at, time, words }) {
  const [item, when, what] = ["li", "time", "span"].map((name) => document.createElement(name));
  when.dateTime = at;
  when.textContent = time;
  what.textContent = words;
  item.append(when, " ", what);
  return item;
}

async function ask() {
  try {
    const answer = await fetch("/fleet/now");
    if (needsSignIn(answer)) goToSignIn();
    else if (answer.ok) show(await answer.json());
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

// Without a script the page is loaded anew every two seconds, which would take away what is being typed.
document.querySelector("#pause label").hidden = false;
follow();
