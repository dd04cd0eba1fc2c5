// The options of a new job beside its images, the forecast, and the button that sends them.

import { oncePerFrame } from "../frames.js";
import { Forecast } from "./forecast.js";
import { plural } from "./format.js";

/** Shown until there is something to send. */
export const CHOOSE_FIRST = "Choose one or more images first.";

export class Options {
    /**
     * @param {HTMLFormElement} form
     * @param {Adding} adding
     */
    constructor(form, { batch, uploader }) {
        this.elements = Object.fromEntries([...form.querySelectorAll("[id]")].map((element) => [element.id, element]));
        this.forecast = new Forecast(this.elements.forecast);
        Object.assign(this, { form, batch, uploader });
        this.emptyName = this.elements.name.placeholder;
        const renderSoon = oncePerFrame(() => this.#render());
        for (const source of [batch, uploader]) source.addEventListener("change", renderSoon);
        form.addEventListener("input", renderSoon);
    }

    /** What the user has chosen for the job, as the API takes it. */
    get chosen() {
        const { name, keep, model, minScore, labels } = this.elements;
        const finishBy = this.#finishBy;
        const only = labels.value.split("\n").map((line) => line.trim()).filter(Boolean);
        const job = { name: name.value.trim() || this.batch.defaultName, keep: keep.checked };
        if (model?.value) job.model = model.value;
        if (only.length) job.labels = only;
        if (minScore.value) job.min_score = Number(minScore.value) / 100;
        if (finishBy) job.finish_by = finishBy.toISOString();
        return job;
    }

    /** When the job may be finished at the latest, the next time that clocks here show what was chosen, or null. */
    get #finishBy() {
        const [hours, minutes] = (this.elements.finishBy?.value ?? "").split(":").map(Number);
        if (!Number.isInteger(minutes)) return null;
        const time = new Date();
        time.setHours(hours, minutes, 0, 0);
        if (time <= Date.now()) time.setDate(time.getDate() + 1);
        return time;
    }

    /** Show a message and announce it to screen readers. It stays until the next message. */
    announce(message) {
        this.elements.note.textContent = message;
    }

    #render() {
        const { batch, uploader, elements } = this;
        if (uploader.job) {
            elements.send.textContent = "Sending …"; // until the page of the job takes over
            return;
        }
        if (batch.total && elements.note.textContent === CHOOSE_FIRST) this.announce("");
        this.form.classList.toggle("has-batch", batch.total > 0);
        elements.batch.hidden = batch.total === 0;
        elements.name.placeholder = batch.defaultName || this.emptyName;
        elements.clear.hidden = uploader.isRunning || batch.total + batch.rejected.length + batch.hidden === 0;
        elements.send.disabled = uploader.isRunning;
        if (uploader.isRunning) elements.send.textContent = "Creating the job …";
        else elements.send.textContent = batch.total ? `Classify ${plural(batch.total, "image")}` : "Classify";
        elements.modelLabels.search = elements.model?.value ? `name=${elements.model.value}` : "";
        this.forecast.update(batch.total, this.#finishBy);
    }
}
