// The fleet page: polls the state of the fleet every second while the page is visible, and updates the page.

import { keepPolling, POLL_TIMEOUT_MS } from "../connection.js";
import { showSlots } from "../slots.js";
import { showWorkersPill } from "../workers_pill.js";
import { Chart } from "./chart.js";
import "./dialogs.js";

const POLL_INTERVAL_MS = 1_000;
/** The controller stores the results by model so often. */
const MODELS_INTERVAL_MS = 10_000;

const chart = new Chart(
    document.getElementById("chart"),
    document.getElementById("chart-title"),
    document.getElementById("chart-value"),
);

function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

function showFleet(fleet) {
    const { per_thousand, paused, is_latest } = fleet;
    showSlots({ ...fleet, per_thousand: per_thousand ?? "–", not_paused: !paused, is_news: !is_latest });
    showInstances(fleet.instances);
    showEnded(fleet.ended);
    showDecisions(fleet.decisions);
    if (!fleet.known) return;
    showWorkersPill(fleet.workers, fleet.halt);
    chart.add(fleet.workers, fleet.waiting + fleet.in_flight);
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

/** Set the moment of a `<time>`, with the whole date as its tooltip, as the server renders it. */
function showMoment(element, at) {
    element.dateTime = at;
    element.title = `${at.slice(0, 19).replace("T", " ")} UTC`;
}

function showInstance(row, instance) {
    for (const cell of row.querySelectorAll("[data-cell]")) setText(cell, instance[cell.dataset.cell]);
    showConsoleLink(row.querySelector("[data-console]"), instance.instance_id);
    showMoment(row.querySelector("time"), instance.launched);
    row.querySelector(".pill").classList.toggle("on", instance.at_work);
    row.classList.toggle("marked", instance.marked);
    showDrainLink(row.querySelector("[data-drain]"), instance);
}

function showConsoleLink(link, instanceId) {
    link.href = `/fleet/instances/${encodeURIComponent(instanceId)}/console`;
    link.title = `Console of ${instanceId}`;
}

function showEnded(ended) {
    const list = document.querySelector("#ended span");
    const shown = JSON.stringify(ended);
    document.getElementById("ended").hidden = ended.length === 0;
    if (list.dataset.shown === shown) return;
    list.dataset.shown = shown;
    list.replaceChildren(...ended.flatMap(createEnded));
}

function createEnded({ instance_id, words }, index, { length }) {
    const link = document.createElement("a");
    const code = document.createElement("code");
    code.textContent = instance_id;
    link.append(code);
    showConsoleLink(link, instance_id);
    return [link, ` ${words}${index < length - 1 ? "; " : ""}`];
}

// A link to a confirmation instead of a button: the rows may move just before the user clicks.
function showDrainLink(link, { instance_id, can_drain }) {
    link.hidden = !can_drain;
    link.href = `/fleet/instances/${encodeURIComponent(instance_id)}/drain`;
    link.ariaLabel = `Drain ${instance_id}`;
}

function showDecisions(decisions) {
    const list = document.getElementById("decisions");
    const newest = decisions[0] ? `${decisions[0].at} ${decisions[0].lead}${decisions[0].words}` : "";
    if (list.dataset.newest === newest) return;
    list.dataset.newest = newest;
    list.replaceChildren(...decisions.map(createDecision));
}

function createDecision({ at, time, lead, words }) {
    const item = document.createElement("li");
    const timeElement = document.createElement("time");
    const text = document.createElement("span");
    const leadElement = document.createElement("strong");
    showMoment(timeElement, at);
    timeElement.textContent = time;
    leadElement.textContent = lead;
    text.append(leadElement, words);
    item.append(timeElement, " ", text);
    return item;
}

/** Show the comparison of models that the server has rendered; the poll of the fleet shows that the connection is lost. */
async function showModels() {
    if (document.hidden) return;
    try {
        const response = await fetch("/fleet/models", { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
        if (!response.ok) return;
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        const [shown, fresh] = [document, page].map((each) => each.getElementById("models"));
        if (shown.innerHTML !== fresh.innerHTML) shown.replaceWith(document.adoptNode(fresh));
    } catch {
        // The next one may succeed.
    }
}

keepPolling("/fleet/now", async (response) => showFleet(await response.json()), () => POLL_INTERVAL_MS);
setInterval(showModels, MODELS_INTERVAL_MS);
