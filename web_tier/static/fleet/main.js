// The fleet page: polls the state of the fleet every second while the page is visible, and updates the page.

import { Connection, POLL_TIMEOUT_MS } from "../connection.js";
import { goToSignIn, needsSignIn } from "../sign_in.js";
import { plural } from "../upload/format.js";
import { showWorkersPill } from "../workers_pill.js";
import { Chart } from "./chart.js";
import "./dialogs.js";

const POLL_INTERVAL_MS = 1_000;
/** The controller stores the results by model so often. */
const MODELS_INTERVAL_MS = 10_000;
/** Names of the fields of `/fleet/now` that the page shows as counts. */
const COUNTS = ["workers", "waiting", "in_flight", "dead_letters", "min_workers", "max_workers"];
/** Names of those that it shows as they are. */
const TEXTS = ["workers_of", "rate", "today", "today_of", "month", "cost", "billed", "sentence", "next_worker"];

const numberFormat = new Intl.NumberFormat("en-US");
const connection = new Connection();
const chart = new Chart(
    document.getElementById("chart"),
    document.getElementById("chart-title"),
    document.getElementById("chart-value"),
);

const findSlot = (name) => document.querySelector(`[data-slot="${name}"]`);

function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

function setTextOrHide(name, text) {
    setText(findSlot(name), text ?? "");
    findSlot(name).hidden = !text;
}

function setBanner(name, text) {
    setText(findSlot(name), text ?? "");
    document.getElementById(name).hidden = !text;
}

function showFleet(fleet) {
    for (const name of COUNTS) setText(findSlot(name), numberFormat.format(fleet[name]));
    for (const name of TEXTS) setText(findSlot(name), fleet[name]);
    setText(findSlot("per_thousand"), fleet.per_thousand ?? "–");
    setText(findSlot("peak"), plural(fleet.peak_workers, "worker"));
    findSlot("sentence").hidden = fleet.is_latest;
    for (const name of ["paused", "capped", "problem"]) setBanner(name, fleet[name]);
    setText(findSlot("spending"), fleet.spending ?? "");
    document.getElementById("spending").hidden = !fleet.spending;
    for (const name of ["unlisted", "per_thousand_of"]) setTextOrHide(name, fleet[name]);
    setText(findSlot("limits_set"), fleet.limits_set ?? "");
    document.getElementById("limits-set").hidden = !fleet.limits_set;
    document.getElementById("pause").hidden = Boolean(fleet.paused);
    document.getElementById("resume").hidden = !fleet.paused;
    showInstances(fleet.instances);
    showEnded(fleet.ended);
    showDecisions(fleet.decisions);
    if (!fleet.known) return;
    showWorkersPill(fleet.workers, Boolean(fleet.paused));
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

async function poll() {
    try {
        const response = await fetch("/fleet/now", { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
        if (needsSignIn(response)) goToSignIn();
        if (!response.ok) throw new Error(response.statusText);
        showFleet(await response.json());
        connection.succeeded();
    } catch {
        // The next poll may succeed. The page keeps the last state, and says how old it is.
        connection.failed();
    }
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function pollForever() {
    for (;;) {
        if (document.hidden) connection.paused();
        else await poll();
        await pause(POLL_INTERVAL_MS);
    }
}

/** Show the comparison of models that the server has rendered; `poll` shows that the connection is lost. */
async function pollModels() {
    for (;;) {
        await pause(MODELS_INTERVAL_MS);
        if (document.hidden) continue;
        try {
            const response = await fetch("/fleet/models", { signal: AbortSignal.timeout(POLL_TIMEOUT_MS) });
            if (!response.ok) continue;
            const page = new DOMParser().parseFromString(await response.text(), "text/html");
            const [shown, fresh] = [document, page].map((each) => each.getElementById("models"));
            if (shown.innerHTML !== fresh.innerHTML) shown.replaceWith(document.adoptNode(fresh));
        } catch {
            // The next poll may succeed.
        }
    }
}

pollForever();
pollModels();
