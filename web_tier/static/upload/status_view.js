// The status of the batch on the page: totals, progress bar, buttons, skipped files, and screen reader announcements.

import { oncePerFrame } from "../frames.js";
import { skippedLines } from "../job/skipped.js";
import { Forecast } from "./forecast.js";
import { duration, fileSize, formatCount, plural } from "./format.js";

/** Least time between two progress announcements to screen readers. */
const ANNOUNCE_INTERVAL_MS = 5_000;
/** The page estimates the time left once it has sent this share, 0 to 1. */
const MIN_ESTIMATE_SHARE = 0.05;
const CHOOSE_FIRST = "Choose one or more images first.";
const SIGN_IN_FIRST = "Your session ended. Sign in in a new tab, then retry. Your files stay selected.";

export class StatusView {
    #renderSoon = oncePerFrame(() => this.#render());

    /**
     * @param {HTMLFormElement} form
     * @param {Batch} batch
     * @param {Uploader} uploader
     */
    constructor(form, batch, uploader) {
        this.elements = Object.fromEntries([...form.querySelectorAll("[id]")].map((element) => [element.id, element]));
        this.forecast = new Forecast(this.elements.forecast, this.elements.fleetNow);
        Object.assign(this, { form, batch, uploader });
        this.emptyName = this.elements.name.placeholder;
        this.announcedAt = 0;
        this.startedAt = 0;
        this.listedRejections = 0;
        for (const source of [batch, uploader]) source.addEventListener("change", () => this.#renderSoon());
    }

    /** Show a message and announce it to screen readers. It stays until the next message. */
    announce(message) {
        this.elements.said.textContent = message;
    }

    /** Show that there is nothing to send. The message goes when there is. */
    announceEmpty() {
        this.announce(CHOOSE_FIRST);
    }

    /** Show what the fleet does at the moment. */
    setFleet(fleet) {
        this.elements.fleetNow.textContent = fleet.sentence;
    }

    /** Offer a choice of the models if there are several. */
    setModels({ default: defaultName, models }) {
        const { model, modelChoice } = this.elements;
        model.replaceChildren(new Option(`Default: ${defaultName}`, ""));
        for (const { name } of models) if (name !== defaultName) model.append(new Option(name));
        modelChoice.hidden = models.length < 2;
    }

    /** Announce the result of an upload after which the page stays. */
    announceResult() {
        const { accepted, unsent } = this.batch.counts;
        if (this.uploader.isStopped) {
            this.announce("Upload stopped. No image was sent.");
        } else if (unsent) {
            const sent = accepted ? `${plural(accepted, "image")} sent. ` : "";
            const advice = this.uploader.isSignedOut ? ` ${SIGN_IN_FIRST}` : "";
            this.announce(`${sent}${plural(unsent, "image")} ${unsent === 1 ? "was" : "were"} not sent.${advice}`);
        } else {
            this.announce("No image was accepted. The list shows why.");
        }
        this.#render();
    }

    /** Announce that nothing was sent, and why. */
    announceFailure(error) {
        const reason = this.uploader.isSignedOut ? `. ${SIGN_IN_FIRST}` : `: ${error.message}. Try again.`;
        this.announce(this.uploader.isStopped ? "Upload stopped. No image was sent." : `Nothing was sent${reason}`);
    }

    #render() {
        const { batch, uploader, elements } = this;
        const hasJob = uploader.job !== null;
        const isEmpty = batch.total === 0 && batch.hidden === 0;
        if (batch.sendable && elements.said.textContent === CHOOSE_FIRST) this.announce("");
        this.form.classList.toggle("has-batch", !isEmpty);
        elements.batch.hidden = isEmpty;
        for (const count of [elements.count, elements.chosen]) count.textContent = plural(batch.sendable, "image");
        elements.name.placeholder = batch.defaultName || this.emptyName;
        elements.facts.textContent = this.#factsText();
        elements.progressText.textContent = this.#progressText();
        elements.bar.hidden = !hasJob;
        elements.bar.value = uploader.share;
        elements.signIn.hidden = !uploader.isSignedOut;
        elements.clear.hidden = hasJob || uploader.isRunning || isEmpty;
        elements.stop.hidden = !uploader.isRunning || uploader.isStopped;
        // The job has them already; the server's page has no choice of a model where there is only one.
        for (const option of [elements.name, elements.keep, elements.model].filter(Boolean)) {
            option.disabled = uploader.isRunning || hasJob;
        }
        this.#renderButton();
        this.#renderLink();
        this.#renderRejections();
        // Once images are on their way, the job's page shows what happens.
        const isSending = hasJob || uploader.isRunning;
        this.forecast.update(isSending ? 0 : batch.sendable);
        if (isSending) elements.fleetNow.hidden = true;
        this.#announceProgress();
    }

    #factsText() {
        const { batch } = this;
        const facts = [fileSize(batch.bytes)];
        if (batch.counts.checking) facts.push(`${formatCount(batch.counts.checking)} being checked`);
        if (batch.shrunk) facts.push(`${formatCount(batch.shrunk)} shrunk`);
        if (batch.skipped) facts.push(`${formatCount(batch.skipped)} skipped`);
        return facts.join(", ");
    }

    #progressText() {
        const { uploader } = this;
        if (uploader.isServerDown) return "Connection lost. The upload resumes automatically.";
        if (!uploader.isRunning) return this.batch.counts.unsent ? "Stopped" : "";
        if (uploader.isStopped) return "Stopping …";
        this.startedAt ||= performance.now();
        const share = uploader.share;
        const seconds = (performance.now() - this.startedAt) / 1_000;
        const isKnown = share > MIN_ESTIMATE_SHARE && share < 1;
        const left = isKnown ? ` · ${duration((seconds * (1 - share)) / share)} left` : "";
        return `${Math.floor(share * 100)}%${left}`;
    }

    #renderButton() {
        const { batch, uploader } = this;
        const { send } = this.elements;
        send.disabled = uploader.isRunning;
        send.hidden = this.#isFinished();
        if (uploader.isRunning) send.textContent = "Uploading …";
        else if (batch.counts.unsent && !uploader.isStopped) send.textContent = `Retry ${plural(batch.counts.unsent, "image")}`;
        else send.textContent = batch.sendable ? `Classify ${plural(batch.sendable, "image")}` : "Classify";
    }

    #isFinished() {
        return this.uploader.job !== null && this.batch.isFinished;
    }

    #renderLink() {
        const { job } = this.uploader;
        const { follow } = this.elements;
        follow.hidden = !job || !this.batch.counts.accepted || this.uploader.isRunning;
        follow.classList.toggle("plain", !this.#isFinished());
        if (job) follow.href = job.links.page;
    }

    #renderRejections() {
        const { batch, elements } = this;
        elements.refused.hidden = batch.skipped === 0;
        if (batch.rejections === this.listedRejections) return;
        this.listedRejections = batch.rejections;
        elements.refusedCount.textContent = `${plural(batch.skipped, "file")} skipped`;
        elements.reasons.replaceChildren(...skippedLines(batch.skippedFiles()));
    }

    // For screen readers only: the line above the bar shows the same.
    #announceProgress() {
        const { uploader, elements } = this;
        if (!uploader.isRunning || performance.now() - this.announcedAt < ANNOUNCE_INTERVAL_MS) return;
        this.announcedAt = performance.now();
        elements.announcement.textContent = `${Math.floor(uploader.share * 100)}% sent.`;
    }
}
