// Deleting a job from this browser also lets go of the small pictures of its images that this browser has kept.

import { forgetJob } from "./local_pictures.js";

const form = document.getElementById("delete");

form.addEventListener("submit", async (event) => {
    event.preventDefault();
    form.querySelector("button").disabled = true; // once is enough
    await forgetJob(form.dataset.job); // before the page is left, which would end it
    form.submit();
});
