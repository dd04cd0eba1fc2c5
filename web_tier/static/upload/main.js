// The upload page: adds files to the batch and shows them; at the click it becomes the page of their job.
// Without JavaScript the browser submits the form itself.

import { Adding } from "./adding.js";
import { ApiError } from "./api.js";
import { Grid } from "./grid.js";
import { showJobPage } from "./job_page.js";
import { CHOOSE_FIRST, Options } from "./options.js";
import { SIGN_IN_FIRST } from "./status_line.js";

const form = document.getElementById("upload");
const find = (id) => document.getElementById(id);
const adding = new Adding(find("adding"));
const { batch, uploader } = adding;
const grid = new Grid(find("list"), adding);
const options = new Options(form, adding);

batch.addEventListener("change", () => document.head.append(find("job-files").content), { once: true });
find("clear").addEventListener("click", () => {
    batch.clear();
    find("choose").focus();
});
form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!batch.total) {
        options.announce(CHOOSE_FIRST);
        find("choose").focus();
    } else if (!uploader.isRunning) {
        send();
    }
});

async function send() {
    options.announce("");
    try {
        await uploader.create(options.chosen);
    } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        const reason = uploader.isSignedOut ? `. ${SIGN_IN_FIRST}` : `: ${error.message}. Try again.`;
        options.announce(`Nothing was sent${reason}`);
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
