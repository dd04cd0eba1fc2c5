// Deletes a job's thumbnails from this browser when the user deletes the job.

import { deleteJobPictures } from "./local_pictures.js";

const form = document.getElementById("delete");

form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.querySelector("button").disabled = true; // against a second click
    await deleteJobPictures(form.dataset.job); // before the submit, which leaves the page
    form.submit();
});
