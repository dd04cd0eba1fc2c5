// What the page says about the batch: figures, the bar, the button, what was not taken, and aloud for screen readers.

import { duration, fileSize, grouped, plural } from "./words.js";

const MAX_REASONS = 200;
/** A screen reader is told of progress no more often than this. */
const ALOUD_MS = 5_000;
/** The time left is told once this much is sent, 0 to 1. */
const KNOWN_SHARE = 0.05;
const SIGN_IN_FIRST = "You are not signed in. Sign in, in a tab of its own, then come back and try again: the files stay here.";

export class Report {
    constructor(form, batch, uploader) {
        this.parts = Object.fromEntries([...form.querySelectorAll("[id]")].map((part) => [part.id, part]));
        this.plan = JSON.parse(form.dataset.plan);
        Object.assign(this, { batch, uploader, waiting: false, saidAt: 0, startedAt: 0, reasons: 0, message: "" });
        for (const source of [batch, uploader]) source.addEventListener("change", () => this.#soon());
    }

    /** Say something at once; it stays until there is something else to say. */
    say(message) {
        this.parts.said.textContent = message;
        this.saidAt = performance.now();
    }

    /** Take into account what the fleet does just now. */
    knowFleet(fleet) {
        this.parts.fleetNow.textContent = fleet.sentence;
        if (fleet.known) Object.assign(this.plan, { running: fleet.running + fleet.pending, most: fleet.max_workers });
        this.#soon();
    }

    /** Say how it ended, where not everything was taken. */
    end() {
        const { accepted, refused, stuck } = this.batch.counts;
        const left = stuck ? ` ${plural(stuck, "image")} could not be sent for now: try again.` : "";
        const not = refused ? ` ${plural(refused, "file")} not taken; the list says why.` : "";
        this.say(`${plural(accepted, "image")} sent.${not}${left}${this.uploader.signedOut ? ` ${SIGN_IN_FIRST}` : ""}`);
        this.#render();
    }

    /** Say that nothing was sent, and why. */
    refused(error) {
        this.say(this.uploader.signedOut ? `Nothing was sent. ${SIGN_IN_FIRST}` : `Nothing was sent: ${error.message}. Try again.`);
    }

    #soon() {
        if (this.waiting) return;
        this.waiting = true;
        requestAnimationFrame(() => {
            this.waiting = false;
            this.#render();
        });
    }

    #render() {
        const { batch, uploader, parts } = this;
        parts.batch.hidden = batch.total === 0;
        parts.count.textContent = plural(batch.toSend, "image");
        parts.facts.textContent = this.#facts();
        parts.pace.textContent = this.#pace();
        parts.bar.hidden = uploader.job === null;
        parts.bar.value = uploader.share;
        parts.signIn.hidden = !uploader.signedOut;
        parts.clear.hidden = uploader.job !== null;
        parts.name.disabled = parts.keep.disabled = uploader.running || uploader.job !== null; // the server knows them
        this.#renderButton();
        this.#renderLink();
        this.#renderReasons();
        parts.next.textContent = this.#expectation();
        this.#progressAloud();
    }

    #facts() {
        const { batch } = this;
        const facts = [fileSize(batch.bytes)];
        if (batch.counts.checking) facts.push(`${grouped(batch.counts.checking)} being checked`);
        if (batch.shrunk) facts.push(`${grouped(batch.shrunk)} shrunk to ${this.plan.shrinkAbove} px`);
        if (batch.converted) facts.push(`${grouped(batch.converted)} converted to JPEG`);
        if (batch.counts.refused) facts.push(`${grouped(batch.counts.refused)} not taken`);
        return facts.join(", ");
    }

    #pace() {
        const { uploader } = this;
        if (uploader.absent) return "The connection is cut: this goes on by itself.";
        if (!uploader.running) return this.batch.counts.stuck ? "Stopped" : "";
        this.startedAt ||= performance.now();
        const share = uploader.share;
        const passed = (performance.now() - this.startedAt) / 1_000;
        const left = share > KNOWN_SHARE && share < 1 ? ` · ${duration((passed * (1 - share)) / share)} left` : "";
        return `${Math.floor(share * 100)}%${left}`;
    }

    #renderButton() {
        const { batch, uploader, parts } = this;
        parts.send.disabled = uploader.running;
        parts.send.hidden = this.#isOver();
        if (uploader.running) parts.send.textContent = "Sending …";
        else if (batch.counts.stuck) parts.send.textContent = `Try again: ${plural(batch.counts.stuck, "image")}`;
        else parts.send.textContent = batch.toSend ? `Classify ${plural(batch.toSend, "image")}` : "Classify";
    }

    #isOver() {
        return this.uploader.job !== null && this.batch.ended;
    }

    #renderLink() {
        const { job } = this.uploader;
        this.parts.follow.hidden = !job || !this.batch.counts.accepted;
        this.parts.follow.classList.toggle("plain", !this.#isOver());
        if (job) this.parts.follow.href = job.links.page;
    }

    #renderReasons() {
        const { batch, parts } = this;
        const { refused } = batch.counts;
        parts.refused.hidden = refused === 0;
        if (refused === this.reasons) return;
        this.reasons = refused;
        parts.refusedCount.textContent = `${plural(refused, "file")} not taken`;
        const lines = batch.items.filter((item) => item.state === "refused").slice(0, MAX_REASONS).map(reasonLine);
        if (refused > MAX_REASONS) lines.push(textLine(`and ${grouped(refused - MAX_REASONS)} more`));
        parts.reasons.replaceChildren(...lines);
    }

    /** Say in words what the fleet will do about so many images. */
    #expectation() {
        const { running, most, imagesPerWorker, workerCost } = this.plan;
        const images = this.batch.toSend;
        const wanted = Math.min(most, Math.ceil(images / imagesPerWorker));
        if (!images || !most || wanted <= running) return "";
        const cost = ((wanted - running) * workerCost).toFixed(4);
        return `About ${plural(wanted - running, running ? "more worker" : "worker")} will start for ${plural(images, "image")} (at most ${most}), for about $${cost}.`;
    }

    #progressAloud() {
        const { batch, uploader } = this;
        if (!uploader.running || performance.now() - this.saidAt < ALOUD_MS) return;
        this.say(`${grouped(batch.counts.accepted)} of ${plural(batch.toSend, "image")} sent.`);
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
