// The status of the batch on the page: totals, progress bar, buttons, rejected files, and screen reader announcements.

import { oncePerFrame } from "../frames.js";
import { Forecast } from "./forecast.js";
import { duration, fileSize, formatCount, plural } from "./format.js";

const MAX_REASONS = 200;
/** Least time between two progress announcements to screen readers. */
const ANNOUNCE_INTERVAL_MS = 5_000;
/** The page estimates the time left once it has sent this share, 0 to 1. */
const MIN_ESTIMATE_SHARE = 0.05;
const SIGN_IN_FIRST = "You are not signed in. Sign in in a new tab, then try again here: the files stay here.";

export class StatusView {
    #renderSoon = oncePerFrame(() => this.#render());

    /**
     * @param {HTMLFormElement} form
     * @param {Batch} batch
     * @param {Uploader} uploader
     */
    constructor(form, batch, uploader) {
        this.elements = Object.fromEntries([...form.querySelectorAll("[id]")].map((element) => [element.id, element]));
        this.shrinkAbove = JSON.parse(form.dataset.limits).shrinkAbove;
        this.forecast = new Forecast(this.elements.forecast, this.elements.fleetNow);
        Object.assign(this, { batch, uploader });
        this.announcedAt = 0;
        this.startedAt = 0;
        this.listedRejections = 0;
        for (const source of [batch, uploader]) source.addEventListener("change", () => this.#renderSoon());
    }

    /** Show a message and announce it to screen readers. It stays until the next message. */
    announce(message) {
        this.elements.said.textContent = message;
        this.announcedAt = performance.now();
    }

    /** Show what the fleet does at the moment. */
    setFleet(fleet) {
        this.elements.fleetNow.textContent = fleet.sentence;
    }

    /** Announce the result of an upload in which some files were not accepted. */
    announceResult() {
        const { accepted, rejected, unsent } = this.batch.counts;
        const parts = [`${plural(accepted, "image")} sent.`];
        if (rejected) parts.push(`${plural(rejected, "file")} not taken; see the reasons in the list.`);
        if (unsent) parts.push(`${plural(unsent, "image")} could not be sent for now: try again.`);
        if (this.uploader.isSignedOut) parts.push(SIGN_IN_FIRST);
        this.announce(parts.join(" "));
        this.#render();
    }

    /** Announce that nothing was sent, and why. */
    announceFailure(error) {
        const reason = this.uploader.isSignedOut ? `. ${SIGN_IN_FIRST}` : `: ${error.message}. Try again.`;
        this.announce(`Nothing was sent${reason}`);
    }

    #render() {
        const { batch, uploader, elements } = this;
        const hasJob = uploader.job !== null;
        elements.batch.hidden = batch.total === 0;
        elements.count.textContent = plural(batch.sendable, "image");
        elements.facts.textContent = this.#factsText();
        elements.progressText.textContent = this.#progressText();
        elements.bar.hidden = !hasJob;
        elements.bar.value = uploader.share;
        elements.signIn.hidden = !uploader.isSignedOut;
        elements.clear.hidden = hasJob;
        elements.name.disabled = elements.keep.disabled = uploader.isRunning || hasJob; // the job has them already
        this.#renderButton();
        this.#renderLink();
        this.#renderRejections();
        // Once images are on their way, the job's page shows what happens.
        this.forecast.update(hasJob || uploader.isRunning ? 0 : batch.sendable);
        this.#announceProgress();
    }

    #factsText() {
        const { batch } = this;
        const facts = [fileSize(batch.bytes)];
        if (batch.counts.checking) facts.push(`${formatCount(batch.counts.checking)} being checked`);
        if (batch.shrunk) facts.push(`${formatCount(batch.shrunk)} shrunk to ${this.shrinkAbove} px`);
        if (batch.converted) facts.push(`${formatCount(batch.converted)} converted to JPEG`);
        if (batch.counts.rejected) facts.push(`${formatCount(batch.counts.rejected)} not taken`);
        return facts.join(", ");
    }

    #progressText() {
        const { uploader } = this;
        if (uploader.isServerDown) return "Connection lost. The upload resumes by itself.";
        if (!uploader.isRunning) return this.batch.counts.unsent ? "Stopped" : "";
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
        if (uploader.isRunning) send.textContent = "Sending …";
        else if (batch.counts.unsent) send.textContent = `Try again: ${plural(batch.counts.unsent, "image")}`;
        else send.textContent = batch.sendable ? `Classify ${plural(batch.sendable, "image")}` : "Classify";
    }

    #isFinished() {
        return this.uploader.job !== null && this.batch.isFinished;
    }

    #renderLink() {
        const { job } = this.uploader;
        const { follow } = this.elements;
        follow.hidden = !job || !this.batch.counts.accepted;
        follow.classList.toggle("plain", !this.#isFinished());
        if (job) follow.href = job.links.page;
    }

    #renderRejections() {
        const { batch, elements } = this;
        const { rejected } = batch.counts;
        elements.refused.hidden = rejected === 0;
        if (rejected === this.listedRejections) return;
        this.listedRejections = rejected;
        elements.refusedCount.textContent = `${plural(rejected, "file")} not taken`;
        const items = batch.items.filter((item) => item.state === "rejected").slice(0, MAX_REASONS);
        const lines = items.map(reasonLine);
        if (rejected > MAX_REASONS) lines.push(textLine(`and ${formatCount(rejected - MAX_REASONS)} more`));
        elements.reasons.replaceChildren(...lines);
    }

    #announceProgress() {
        const { batch, uploader } = this;
        if (!uploader.isRunning || performance.now() - this.announcedAt < ANNOUNCE_INTERVAL_MS) return;
        this.announce(`${formatCount(batch.counts.accepted)} of ${plural(batch.sendable, "image")} sent.`);
    }
}

function reasonLine(item) {
    const line = document.createElement("li");
    const name = document.createElement("bdi");
    name.className = "filename";
    name.textContent = item.name;
    line.append(name, `: ${item.reason}`);
    return line;
}

function textLine(text) {
    return Object.assign(document.createElement("li"), { textContent: text });
}
