// The fleet page: polls the state of the fleet every second while the page is visible, and updates the page.

import { goToSignIn, needsSignIn } from "../sign_in.js";
import { Chart } from "./chart.js";

const POLL_INTERVAL_MS = 1_000;
/** Names of the fields of `/fleet/now` that the page shows as counts. */
const COUNTS = [
    "running",
    "pending",
    "stopped",
    "waiting",
    "in_flight",
    "dead_letters",
    "peak_workers",
    "min_workers",
    "max_workers",
];

const numberFormat = new Intl.NumberFormat("en-US");
const chart = new Chart(document.getElementById("chart"));

const findSlot = (name) => document.querySelector(`[data-slot="${name}"]`);

function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

function setTextOrHide(name, text) {
    setText(findSlot(name), text ?? "");
    findSlot(name).hidden = !text;
}

function showFleet(fleet) {
    for (const name of COUNTS) setText(findSlot(name), numberFormat.format(fleet[name]));
    findSlot("stopped").parentElement.hidden = fleet.stopped === 0;
    setText(findSlot("cost"), fleet.cost);
    setText(findSlot("cost").nextElementSibling, `for ${fleet.billed} billed`);
    setText(findSlot("per_thousand"), fleet.per_thousand ?? "");
    setText(findSlot("per_thousand").nextElementSibling, fleet.per_thousand_of);
    findSlot("per_thousand").parentElement.hidden = !fleet.per_thousand;
    setText(findSlot("sentence"), fleet.sentence);
    for (const name of ["problem", "clocks", "paused", "unlisted"]) setTextOrHide(name, fleet[name]);
    setText(findSlot("limits_set"), fleet.limits_set ?? "");
    document.getElementById("limits-set").hidden = !fleet.limits_set;
    document.getElementById("pause").hidden = Boolean(fleet.paused);
    document.getElementById("resume").hidden = !fleet.paused;
    showInstances(fleet.instances);
    showDecisions(fleet.decisions);
    if (fleet.known) chart.add(fleet.running + fleet.pending, fleet.waiting + fleet.in_flight);
}

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
    for (const cell of row.querySelectorAll("[data-cell]")) setText(cell, instance[cell.dataset.cell]);
    row.querySelector("time").dateTime = instance.launched;
    row.querySelector(".pill").classList.toggle("on", instance.at_work);
    row.classList.toggle("marked", instance.marked);
    showDrainLink(row.querySelector("[data-drain]"), instance);
}

// A link to a confirmation page instead of a button: the rows may move just before the user clicks.
function showDrainLink(link, { instance_id, can_drain }) {
    link.hidden = !can_drain;
    link.href = `/fleet/instances/${encodeURIComponent(instance_id)}/drain`;
    link.ariaLabel = `Drain ${instance_id}`;
}

function showDecisions(decisions) {
    const list = document.getElementById("decisions");
    const newest = decisions[0] ? `${decisions[0].at} ${decisions[0].words}` : "";
    if (list.dataset.newest === newest) return;
    list.dataset.newest = newest;
    list.replaceChildren(...decisions.map(createDecision));
}

function createDecision({ at, time, words }) {
    const item = document.createElement("li");
    const timeElement = document.createElement("time");
    const text = document.createElement("span");
    timeElement.dateTime = at;
    timeElement.textContent = time;
    text.textContent = words;
    item.append(timeElement, " ", text);
    return item;
}

async function poll() {
    try {
        const response = await fetch("/fleet/now");
        if (needsSignIn(response)) goToSignIn();
        else if (response.ok) showFleet(await response.json());
    } catch {
        // The next poll may succeed. The page keeps the last state.
    }
}

async function pollForever() {
    for (;;) {
        if (!document.hidden) await poll();
        await new Promise((resolve) => setTimeout(resolve, POLL_INTERVAL_MS));
    }
}

// The field is hidden without JavaScript: the page then reloads every two seconds, which would discard its text.
document.querySelector("#pause label").hidden = false;
pollForever();
