// The upload page: adds files to the batch and shows them; at the click it becomes the page of their job.
// Without JavaScript the browser submits the form itself.

import { Adding } from "./adding.js";
import { fetchState } from "../fetch_state.js";
import { ApiError } from "./api.js";
import { Grid } from "./grid.js";
import { showJobPage } from "./job_page.js";
import { Options } from "./options.js";

const form = document.getElementById("upload");
const find = (id) => document.getElementById(id);
const adding = new Adding(find("adding"));
const { batch, uploader } = adding;
const grid = new Grid(find("thumbs"), adding);
const options = new Options(form, adding);

initialize();

function initialize() {
    find("clear").addEventListener("click", clear);
    form.addEventListener("submit", onSubmit);
    batch.addEventListener("change", () => document.head.append(find("job-files").content), { once: true });
    if ("ask" in find("fleetNow").dataset) showFleet();
    adding.section.addEventListener("models", showModels, { once: true });
    adding.models();
}

async function showFleet() {
    const fleet = await fetchState("/fleet/now");
    if (fleet) options.setFleet(fleet);
}

function showModels({ detail }) {
    if (find("modelChoice")?.hidden) options.setModels(detail);
}

function clear() {
    batch.clear();
    find("choose").focus();
}

function onSubmit(event) {
    event.preventDefault();
    if (!batch.total) {
        options.announceEmpty();
        find("choose").focus();
    } else if (!uploader.isRunning) {
        send();
    }
}

async function send() {
    options.announce("");
    try {
        await uploader.create(options.chosen);
    } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        options.announceFailure(error);
        return;
    }
    const { page } = uploader.job.links;
    const sending = adding.send();
    try {
        grid.stop();
        await showJobPage(page, adding.section);
    } catch (error) {
        console.error(error);
        await sending; // then go to the page of the job, which could not be shown yet
        location.assign(page);
    }
}
