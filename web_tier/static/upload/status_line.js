// What happens to the files that the user added: how many there are, how fast they are sent, which were rejected.

import { oncePerFrame } from "../frames.js";
import { duration, fileSize, formatCount, plural } from "./format.js";
import { saveRejected } from "./rejected.js";

/** Least time between two progress announcements to screen readers. */
const ANNOUNCE_INTERVAL_MS = 5_000;
/** Rejected files that are listed with their reasons; all of them can be saved. */
const MAX_REJECTED_LISTED = 200;
export const SIGN_IN_FIRST = "Your session ended. Sign in in a new tab, then try again. Your files stay selected.";

export class StatusLine {
    #announcedAt = 0;
    #listed = 0; // rejected files that the list has or counts

    /**
     * @param {HTMLElement} section - see _adding.html.
     * @param {Adding} adding
     */
    constructor(section, adding) {
        this.elements = Object.fromEntries([...section.querySelectorAll("[id]")].map((each) => [each.id, each]));
        Object.assign(this, { section, adding, batch: adding.batch, uploader: adding.uploader });
        const renderSoon = oncePerFrame(() => this.#render());
        for (const source of [this.batch, this.uploader]) source.addEventListener("change", renderSoon);
        this.elements.forget.addEventListener("click", () => adding.forget());
        this.elements.saveRejected.addEventListener("click", () => saveRejected(this.#rejected));
    }

    #render() {
        const { batch, uploader, elements } = this;
        const hasJob = uploader.job !== null;
        this.section.classList.toggle("has-batch", batch.total > 0);
        for (const count of [elements.count, elements.chosen]) count.textContent = plural(batch.total, "image");
        elements.facts.textContent = this.#factsText();
        elements.progress.textContent = this.#progressText();
        elements.stop.hidden = !hasJob || !uploader.isRunning || uploader.isStopped;
        elements.again.hidden = !hasJob || uploader.isRunning || uploader.isStopped || !batch.counts.unsent;
        elements.again.textContent = `Retry ${plural(batch.counts.unsent, "image")}`;
        elements.signIn.hidden = !uploader.isSignedOut;
        elements.said.textContent = hasJob ? this.#outcomeText() : "";
        this.#renderRejected();
        this.#announceProgress();
    }

    #factsText() {
        const { counts, bytes } = this.batch;
        const facts = [fileSize(bytes)];
        if (counts.checking) facts.push(`${formatCount(counts.checking)} being checked`);
        return facts.join(", ");
    }

    #progressText() {
        const { batch, uploader } = this;
        if (uploader.isServerDown) return "Connection lost. The upload resumes automatically.";
        if (!uploader.isRunning || !uploader.job) return "";
        if (uploader.isStopped) return "Stopping …";
        const { rate } = uploader;
        const facts = [`Sending: ${Math.floor(uploader.share * 100)}%`];
        if (rate) facts.push(`${fileSize(rate)}/s`, `${duration((batch.bytes - uploader.sentBytes) / rate)} left`);
        return facts.join(" · ");
    }

    /** What came of an upload that did not send everything. */
    #outcomeText() {
        const { batch, uploader, adding } = this;
        const { accepted, unsent } = batch.counts;
        if (adding.missing) {
            return `${plural(adding.missing, "image")} of your upload ${adding.missing === 1 ? "was" : "were"} not sent. Choose the same files again: only these are sent.`;
        }
        if (uploader.isRunning) return "";
        if (uploader.isStopped) return `Upload stopped. ${plural(accepted, "image")} sent.`;
        const advice = uploader.isSignedOut ? ` ${SIGN_IN_FIRST}` : "";
        return unsent ? `${plural(unsent, "image")} ${unsent === 1 ? "was" : "were"} not sent.${advice}` : "";
    }

    /** The rejected files in the order in which they were added. */
    get #rejected() {
        return this.batch.rejected.toSorted((a, b) => a.position - b.position);
    }

    #renderRejected() {
        const { batch, elements, adding } = this;
        const { rejected, hidden } = batch;
        elements.rejected.hidden = elements.saveRejected.hidden = rejected.length === 0;
        elements.saveRejected.textContent = `Save all ${formatCount(rejected.length)} as CSV`;
        elements.hiddenFiles.hidden = hidden === 0;
        elements.hiddenFiles.textContent = `${plural(hidden, "system file")} not sent`;
        elements.forget.hidden = this.uploader.job === null || !(rejected.length + hidden + adding.missing);
        const meaning = this.uploader.job ? "not part of this job" : "not sent";
        elements.rejectedCount.textContent = `${plural(rejected.length, "file")} rejected, ${meaning}`;
        if (rejected.length === this.#listed) return;
        this.#listed = rejected.length;
        elements.reasons.replaceChildren(...this.#rejected.slice(0, MAX_REJECTED_LISTED).map(rejectedLine));
        const others = rejected.length - MAX_REJECTED_LISTED;
        if (others > 0) elements.reasons.append(listItem(`and ${formatCount(others)} more`));
    }

    // For screen readers only: the line shows the same.
    #announceProgress() {
        const { uploader, elements } = this;
        if (!uploader.isRunning) elements.sending.textContent = "";
        if (!uploader.isRunning || performance.now() - this.#announcedAt < ANNOUNCE_INTERVAL_MS) return;
        this.#announcedAt = performance.now();
        elements.sending.textContent = `${Math.floor(uploader.share * 100)}% sent.`;
    }
}

function rejectedLine({ name, reason }) {
    return listItem(Object.assign(document.createElement("bdi"), { className: "filename", textContent: name }), `: ${reason}`);
}

function listItem(...content) {
    const item = document.createElement("li");
    item.append(...content);
    return item;
}
