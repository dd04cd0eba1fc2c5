// The review of labels: accept or correct them one by one or many at once, and show the evaluation.

import { goToSignIn, needsSignIn } from "../sign_in.js";
import { goToJobs, isGone } from "./gone.js";
import { addShortcut } from "./shortcuts.js";

/** Images of one request; the API takes no more. */
const MAX_CHANGES = 1_000;
/** The evaluation is read this long after the last change at least, so that many changes read it once. */
const MIN_EVALUATION_DELAY_MS = 600;
/** The delay is at least this many times as long as the last reading took: a large job has many true labels. */
const EVALUATION_DELAY_FACTOR = 4;

/** A message goes after this long, unless the user points at it or its button has the focus. */
const MESSAGE_MS = 10_000;

const numberFormat = new Intl.NumberFormat("en-US");
const images = (count) => `${numberFormat.format(count)} ${count === 1 ? "image" : "images"}`;
const labels = (count) => `${numberFormat.format(count)} ${count === 1 ? "label" : "labels"}`;

/**
 * @typedef {object} ReviewList
 * @property {Rows} rows
 * @property {() => Row[]} shown - returns the rows that match the filters, in their order.
 * @property {() => string} openedId - returns the id of the open image, or an empty string.
 * @property {() => string | undefined} focusedId - returns the id of the image in the list that has the focus.
 * @property {() => Map<string, HTMLElement>} elements - returns the drawn items by id.
 * @property {(id: string) => void} open - opens an image.
 * @property {(updates: Partial<Row>[]) => void} merge - changes rows and draws them.
 * @property {() => Promise<void>} readAll - reads all rows again.
 * @property {(changes: Partial<Query>) => void} navigate - changes the filters.
 */

export class Review {
    #selected = new Set();
    #lastPicked = null; // id; Shift selects from it on
    #previous = null; // truths before the last change, by id
    #uncertainId = null; // image that "next uncertain" has opened: a decision goes on to the next one
    #evaluationTimer = null;
    #messageTimer = null;
    #evaluationDelay = MIN_EVALUATION_DELAY_MS;

    /**
     * @param {string} base - the job's path.
     * @param {ReviewList} list
     */
    constructor(base, list) {
        this.base = base;
        this.list = list;
        this.card = document.getElementById("review");
        this.note = document.getElementById("review-note");
        this.bar = document.getElementById("selection");
        this.pickTemplate = document.getElementById("pick-template").content.firstElementChild;
        this.card.querySelector(".with-keys").hidden = !matchMedia("(any-pointer: fine)").matches;
        this.note.querySelector("button").addEventListener("click", () => this.#undo());
        document.addEventListener("submit", (event) => this.#onSubmit(event));
        document.getElementById("list").addEventListener("click", (event) => this.#onPick(event));
        this.card.addEventListener("click", (event) => this.#onFilterLink(event));
        document.getElementById("review-filter").addEventListener("click", (event) => this.#onFilterLink(event));
        this.bar.querySelector("[data-accept]").addEventListener("click", () => this.#acceptSelected());
        this.bar.querySelector("[data-all]").addEventListener("click", () => this.#selectShown());
        this.bar.querySelector("[data-clear]").addEventListener("click", () => this.#clearSelection());
        this.#listenForKeys();
        if (this.card.dataset.reviewed === "true") this.#loadEvaluation();
        else document.getElementById("review-figures").hidden = true;
    }

    #listenForKeys() {
        addShortcut({ keys: ["n"], shown: "N", words: "Next uncertain image", run: () => this.#openUncertain() });
        addShortcut({ keys: ["a"], shown: "A", words: "Accept the label, or those selected", run: () => this.#accept() });
        addShortcut({
            keys: [..."123456789"],
            shown: "1 … 9",
            words: "Set the first to ninth label",
            run: (event) => this.#choose(Number(event.key)),
        });
        addShortcut({ keys: ["x"], shown: "X", words: "Select the image", run: () => this.#toggleCurrent() });
        addShortcut({ keys: ["z"], shown: "Z", words: "Undo the last change of labels", run: () => this.#undo() });
    }

    // Items of the list

    /** Show the checkbox and the mark of an item; `_review.html` has the same mark. */
    decorate(element, row) {
        let pick = element.querySelector(".pick");
        if (!pick) {
            pick = this.pickTemplate.cloneNode(true);
            pick.firstElementChild.setAttribute("aria-label", `Select ${row.name}`);
            (element.querySelector("td") ?? element).prepend(pick);
        }
        pick.querySelector("input").checked = this.#selected.has(row.id);
        element.classList.toggle("picked", this.#selected.has(row.id));
        element.querySelector(".truth-mark")?.remove();
        if (!row.truth) return;
        const isAccepted = row.truth === row.label;
        const mark = document.createElement("span");
        mark.className = `truth-mark ${isAccepted ? "accepted" : "corrected"}`;
        mark.title = `True label: ${row.truth}`;
        mark.textContent = isAccepted ? "✓ accepted" : `✎ ${row.truth}`;
        (element.querySelector("td.state") ?? element).append(mark);
    }

    #onPick(event) {
        const input = event.target.closest(".pick input");
        if (!input) return;
        const id = idOf(input);
        const ids = event.shiftKey && this.#lastPicked ? this.#range(this.#lastPicked, id) : [id];
        this.#select(ids, input.checked);
        this.#lastPicked = id;
    }

    #range(from, to) {
        const shown = this.list.shown();
        const [first, last] = [from, to].map((id) => shown.findIndex((row) => row.id === id)).sort((a, b) => a - b);
        return first < 0 ? [to] : shown.slice(first, last + 1).map((row) => row.id);
    }

    #select(ids, isSelected) {
        for (const id of ids) {
            if (isSelected) this.#selected.add(id);
            else this.#selected.delete(id);
        }
        this.updateSelection();
    }

    #selectShown() {
        this.#select(this.list.shown().map((row) => row.id), true);
    }

    #clearSelection() {
        this.#selected.clear();
        this.#lastPicked = null;
        this.updateSelection();
    }

    #toggleCurrent() {
        const id = this.list.openedId() || this.list.focusedId();
        if (!id) return false;
        this.#select([id], !this.#selected.has(id));
        this.#lastPicked = id;
    }

    /** Show which images are selected. Images that the filters hide stay selected. */
    updateSelection() {
        for (const [id, element] of this.list.elements()) {
            const input = element.querySelector(".pick input");
            if (input) input.checked = this.#selected.has(id);
            element.classList.toggle("picked", this.#selected.has(id));
        }
        const acceptable = this.#acceptable().length;
        const accept = this.bar.querySelector("[data-accept]");
        this.bar.hidden = this.#selected.size === 0;
        document.getElementById("list").classList.toggle("picking", this.#selected.size > 0);
        this.bar.querySelector("[data-count]").textContent = `${images(this.#selected.size)} selected`;
        accept.textContent = `Accept ${labels(acceptable)}`;
        accept.disabled = acceptable === 0;
    }

    #acceptable() {
        return [...this.#selected].filter((id) => this.list.rows.byId.get(id)?.label !== undefined);
    }

    // Decisions

    #accept() {
        if (this.#selected.size) return this.#acceptSelected();
        const id = this.list.openedId() || this.list.focusedId();
        const label = this.list.rows.byId.get(id)?.label;
        if (label === undefined) return false;
        this.#decide(id, label);
    }

    #acceptSelected() {
        const ids = this.#acceptable();
        if (!ids.length) return false;
        this.#set(new Map(ids.map((id) => [id, this.list.rows.byId.get(id).label])), `Accepted ${labels(ids.length)}.`);
        this.#clearSelection();
    }

    #choose(number) {
        const id = this.list.openedId();
        const form = document.querySelector("#viewed form.truth-choices");
        const button = form?.querySelectorAll("button")[number - 1];
        if (!button?.value || form.dataset.id !== id) return false; // the page of the image is still being loaded
        this.#decide(id, button.value);
    }

    /** Set the true label of one image; an empty one removes it. */
    #decide(id, label) {
        const row = this.list.rows.byId.get(id);
        const set = label === row?.label ? `Accepted “${label}”.` : `True label set: “${label}”.`;
        this.#set(new Map([[id, label]]), label ? set : "True label removed.");
        if (id === this.#uncertainId) this.#openUncertain();
    }

    #openUncertain() {
        const open = this.list.shown().filter((row) => row.status === "done" && !row.truth);
        const opened = this.list.openedId();
        const others = open.length > 1 ? open.filter((row) => row.id !== opened) : open;
        const next = others.reduce((best, row) => (!best || row.score < best.score ? row : best), undefined);
        this.#uncertainId = next?.id ?? null;
        if (next) this.list.open(next.id);
        else this.#say("All shown labels are reviewed.");
    }

    #undo() {
        if (!this.#previous) return false;
        const previous = this.#previous;
        this.#set(previous, "Undone.");
        this.#previous = null;
        this.note.querySelector("button").hidden = true;
    }

    /**
     * Set true labels by image id. The page shows them at once, and takes them back if the server refuses them.
     *
     * @param {Map<string, string>} truths - an empty one removes the true label.
     * @param {string} done - the message for the user.
     */
    async #set(truths, done) {
        const before = new Map([...truths.keys()].map((id) => [id, this.list.rows.byId.get(id)?.truth ?? ""]));
        this.#show(truths);
        this.#previous = before;
        this.#say(done, true);
        const entries = [...truths];
        for (let start = 0; start < entries.length; start += MAX_CHANGES) {
            const some = entries.slice(start, start + MAX_CHANGES);
            if (await this.#send(some)) continue;
            const unsent = entries.slice(start).map(([id]) => [id, before.get(id)]);
            this.#show(new Map(unsent));
            this.#previous = null;
            this.#say(`${images(unsent.length)} could not be changed. Try again in a moment.`);
            break;
        }
        this.#reloadOpened(truths);
        this.#scheduleEvaluation();
    }

    // The viewer may have loaded the page of the image before the server had the change.
    #reloadOpened(truths) {
        const id = this.list.openedId();
        if (!truths.has(id)) return;
        this.list.rows.byId.get(id).version += 1;
        this.list.merge([]);
    }

    async #send(entries) {
        try {
            const response = await fetch(`/api/v1${this.base}/truth`, {
                method: "PUT",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ labels: Object.fromEntries(entries.map(([id, label]) => [id, label || null])) }),
            });
            if (needsSignIn(response)) goToSignIn();
            if (isGone(response)) goToJobs();
            return response.ok;
        } catch {
            return false;
        }
    }

    #show(truths) {
        const known = [...truths].filter(([id]) => this.list.rows.byId.has(id));
        this.list.merge(known.map(([id, truth]) => ({ id, status: this.list.rows.byId.get(id).status, truth })));
    }

    #say(text, canUndo = false) {
        this.note.hidden = false;
        this.note.firstElementChild.textContent = text;
        this.note.querySelector("button").hidden = !canUndo;
        clearTimeout(this.#messageTimer);
        this.#messageTimer = setTimeout(() => this.#hideMessage(), MESSAGE_MS);
    }

    #hideMessage() {
        if (this.note.matches(":hover, :focus-within")) {
            this.#messageTimer = setTimeout(() => this.#hideMessage(), MESSAGE_MS);
        } else {
            this.note.hidden = true;
        }
    }

    // Forms and links

    async #onSubmit(event) {
        const form = event.target;
        if (form.matches("form.truth") && this.list.rows.byId.has(form.dataset.id)) {
            event.preventDefault();
            const label = cleaned(event.submitter?.value || form.querySelector("input[name=label]")?.value || "");
            // The page of the image is loaded again, without the button that has the focus.
            document.querySelector("#detail [data-step='1']:enabled")?.focus();
            this.#decide(form.dataset.id, label);
        } else if (form.parentElement === this.bar) {
            event.preventDefault();
            const label = cleaned(form.elements.label.value);
            if (!label) return;
            const ids = [...this.#selected];
            this.#set(new Map(ids.map((id) => [id, label])), `Set “${label}” for ${images(ids.length)}.`);
            form.reset();
            this.#clearSelection();
        } else if (form.matches("form.truth-file")) {
            event.preventDefault();
            await this.#sendForm(form);
        }
    }

    /** Send the form with a file or for folders; its answer is the page of the evaluation. */
    async #sendForm(form) {
        const button = form.querySelector("button");
        button.disabled = true;
        try {
            const response = await fetch(form.action, { method: "POST", body: new FormData(form) });
            if (needsSignIn(response)) goToSignIn();
            if (isGone(response)) goToJobs();
            const page = parsed(await response.text());
            if (response.ok) {
                this.#previous = null; // an undo would take back some of these labels
                this.note.hidden = true;
                this.#showEvaluation(page);
                await this.list.readAll();
                form.reset();
            } else {
                this.#say(page.querySelector(".problem .detail")?.textContent ?? "The file could not be read.");
            }
        } catch {
            this.#say("The true labels could not be sent. Try again in a moment.");
        }
        button.disabled = false;
    }

    #onFilterLink(event) {
        const link = event.target.closest("a");
        if (!link || link.pathname !== this.base || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        const params = new URLSearchParams(link.search);
        const [label, truth, correct, reviewed] = ["label", "truth", "correct", "reviewed"].map((name) => params.get(name) ?? "");
        const isClearing = link.closest("#review-filter") !== null;
        this.list.navigate(isClearing ? { truth, correct, reviewed } : { label, truth, correct, reviewed, state: "", image: "" });
        document.getElementById("images").scrollIntoView({ block: "start" });
    }

    /** @param {Query} query */
    showFilter({ truth, correct, reviewed }) {
        const words = { correct: ["Correct labels", "Wrong labels"], reviewed: ["Reviewed", "Not reviewed"] };
        const word = (name, value) => words[name][value === "true" ? 0 : 1];
        const text = truth
            ? `True label: ${truth}`
            : (correct && word("correct", correct)) || (reviewed && word("reviewed", reviewed)) || "";
        const filter = document.getElementById("review-filter");
        filter.hidden = text === "";
        filter.querySelector("bdi").textContent = text;
    }

    // Evaluation

    #scheduleEvaluation() {
        clearTimeout(this.#evaluationTimer);
        this.#evaluationTimer = setTimeout(() => this.#loadEvaluation(), this.#evaluationDelay);
    }

    async #loadEvaluation() {
        const startedAt = performance.now();
        try {
            const response = await fetch(`${this.base}/evaluation`);
            if (response.ok) this.#showEvaluation(parsed(await response.text()));
        } catch {
            // The next change loads it. The card keeps the last figures.
        }
        const took = performance.now() - startedAt;
        this.#evaluationDelay = Math.max(MIN_EVALUATION_DELAY_MS, EVALUATION_DELAY_FACTOR * took);
    }

    #showEvaluation(page) {
        const figures = document.adoptNode(page.getElementById("evaluation"));
        const target = document.getElementById("review-figures");
        target.replaceChildren(figures);
        target.hidden = false;
        document.getElementById("review-summary").textContent = figures.dataset.summary;
        this.card.querySelector(".truth-downloads").hidden = false;
    }
}

const idOf = (element) => element.closest(".tile, .image-row").querySelector("a.open").dataset.id;
const cleaned = (text) => text.trim().replace(/\s+/g, " ");
const parsed = (text) => new DOMParser().parseFromString(text, "text/html");
