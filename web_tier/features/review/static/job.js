// The review of labels: accept or correct them one by one or many at once.

import { fetchState } from "../fetching.js";
import { formatCount, plural } from "../upload/format.js";
import { fetchOrLeave } from "../job/gone.js";
import { page as jobPage } from "../job/main.js";
import { addShortcut } from "../job/shortcuts.js";

/** Images of one request; the API takes no more. */
const MAX_CHANGES = 1_000;
/** The accuracy is read this long after the last change, so that many changes read it once. */
const ACCURACY_DELAY_MS = 1_000;
/** A message goes after this long, unless the user points at it or its button has the focus. */
const MESSAGE_MS = 10_000;

class Review {
    #selected = new Set();
    #lastPicked = null; // id; Shift selects from it on
    #previous = null; // truths before the last change, by id
    #accuracyTimer = null;
    #messageTimer = null;

    /** @param {JobPage} page - see ../job/main.js. */
    constructor(page) {
        this.page = page;
        this.note = document.getElementById("review-note");
        this.bar = document.getElementById("selection");
        this.note.querySelector("button").addEventListener("click", () => this.#undo());
        document.addEventListener("submit", (event) => this.#onSubmit(event));
        document.getElementById("list").addEventListener("click", (event) => this.#onPick(event));
        document.addEventListener("image-shown", ({ detail }) => this.#focusChoice(detail.article));
        document.getElementById("review-filter").addEventListener("click", (event) => this.#onFilterLink(event));
        document.getElementById("start-review").addEventListener("click", (event) => {
            event.preventDefault();
            this.#start();
        });
        this.bar.querySelector("[data-accept]").addEventListener("click", () => this.#acceptSelected());
        this.bar.querySelector("[data-all]").addEventListener("click", () => this.#selectShown());
        this.bar.querySelector("[data-clear]").addEventListener("click", () => this.#clearSelection());
        if (!page.isShared) this.#listenForKeys();
    }

    #listenForKeys() {
        addShortcut({ keys: ["n"], shown: "N", words: "Review labels, next unsure image", run: () => this.#openNext() });
        addShortcut({
            keys: ["a"],
            shown: "A",
            words: "Accept the label of the open image, or those selected in the list",
            run: () => this.#accept(),
        });
        addShortcut({
            keys: [..."123456789"],
            shown: "1 … 9",
            words: "Set the first to ninth label",
            run: (event) => this.#choose(Number(event.key)),
        });
        addShortcut({ keys: ["x"], shown: "X", words: "Select the image in the list", run: () => this.#toggleCurrent() });
        addShortcut({ keys: ["z"], shown: "Z", words: "Undo the last change of labels", run: () => this.#undo() });
    }

    // Items of the list

    /** Show whether an item is selected, and the mark of its true label, as tile.html does. */
    decorate(element, row) {
        if (!row.item && !element.querySelector(".pick")) element.prepend(createPick(row));
        this.#showPicked(element, row.id);
        element.querySelector(".truth-mark")?.remove();
        if (!row.truth) return;
        const isAccepted = row.truth === row.label;
        const mark = document.createElement("span");
        mark.className = `truth-mark ${isAccepted ? "accepted" : "corrected"}`;
        mark.title = `True label: ${row.truth}`;
        mark.textContent = isAccepted ? "✓ accepted" : `✎ ${row.truth}`;
        element.append(mark);
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
        const shown = this.page.shown;
        const [first, last] = [from, to].map((id) => shown.findIndex((row) => row.id === id)).sort((a, b) => a - b);
        return first < 0 ? [to] : shown.slice(first, last + 1).map((row) => row.id);
    }

    #select(ids, isSelected) {
        for (const id of ids) {
            if (isSelected) this.#selected.add(id);
            else this.#selected.delete(id);
        }
        this.onRefresh();
    }

    #selectShown() {
        this.#select(this.page.shown.map((row) => row.id), true);
    }

    #clearSelection() {
        this.#selected.clear();
        this.#lastPicked = null;
        this.onRefresh();
    }

    // An image that covers the list hides what is selected in it.
    #toggleCurrent() {
        const id = this.page.query.image || this.page.focusedId;
        if (!id || this.page.isCovered) return false;
        this.#select([id], !this.#selected.has(id));
        this.#lastPicked = id;
    }

    /** The rows of the selected images. Those that the filters hide are selected only once they are shown again. */
    get #chosen() {
        return this.#selected.size ? this.page.shown.filter(({ id }) => this.#selected.has(id)) : [];
    }

    /** Show which images are selected. */
    onRefresh() {
        for (const [id, element] of this.page.list?.elements ?? []) this.#showPicked(element, id);
        const chosen = this.#chosen;
        const acceptable = chosen.filter(hasLabel).length;
        const accept = this.bar.querySelector("[data-accept]");
        this.bar.hidden = chosen.length === 0;
        document.getElementById("list").classList.toggle("picking", chosen.length > 0);
        this.bar.querySelector("[data-count]").textContent = `${plural(chosen.length, "image")} selected`;
        accept.textContent = `Accept ${plural(acceptable, "label")}`;
        accept.disabled = acceptable === 0;
    }

    #showPicked(element, id) {
        const input = element.querySelector(".pick input");
        if (input) input.checked = this.#selected.has(id); // a file that is being sent has none yet
        element.classList.toggle("picked", this.#selected.has(id));
    }

    // Decisions

    /** The form of the open image with its labels; null while the page of the image is being loaded. */
    get #openForm() {
        return document.querySelector(`#viewed form.truth-choices[data-id="${this.page.query.image}"]`);
    }

    #accept() {
        const { image } = this.page.query;
        if (!image && this.#chosen.length) return this.#acceptSelected();
        const row = this.page.rows.byId.get(image ? this.#openForm?.dataset.id : this.page.focusedId);
        if (!row || !hasLabel(row)) return false;
        this.#decideAndStep(row.id, row.label);
    }

    #acceptSelected() {
        const rows = this.#chosen.filter(hasLabel);
        if (!rows.length) return false;
        this.#set(new Map(rows.map(({ id, label }) => [id, label])), `Accepted ${plural(rows.length, "label")}.`);
        this.#clearSelection();
    }

    #choose(number) {
        const button = this.#openForm?.querySelectorAll("button")[number - 1];
        if (!button?.value) return false;
        this.#decideAndStep(this.page.query.image, button.value);
    }

    /** Decide by a key, after which the next image comes. */
    #decideAndStep(id, label) {
        const next = this.page.queue ? undefined : this.page.neighbour(id, 1); // a filter may hide the decided image
        this.#decide(id, label);
        if (next) this.page.goTo(next);
    }

    /** Set the true label of one image; an empty one removes it. */
    #decide(id, label) {
        const row = this.page.rows.byId.get(id);
        const set = label === row?.label ? `Accepted “${label}”.` : `True label set: “${label}”.`;
        this.#set(new Map([[id, label]]), label ? set : "True label removed.");
        if (this.page.queue) this.#openNext();
    }

    // One image after the other

    /** Show on the button how many unsure images of the list have no true label. */
    onNumbers(areAllRead) {
        const unsure = areAllRead ? this.page.shown.filter((row) => row.unsure && !row.truth).length : 0;
        const text = unsure ? `Review ${formatCount(unsure)} unsure` : "Review";
        const button = document.getElementById("start-review");
        if (button.textContent !== text) button.textContent = text;
    }

    /** Review the unsure images, or else all labels, those of the lowest score first. */
    #start() {
        const open = this.page.shown.filter((row) => row.status === "done" && !row.truth);
        const unsure = open.filter((row) => row.unsure);
        const rows = (unsure.length ? unsure : open).sort((a, b) => a.score - b.score);
        if (!rows.length) return this.#end("All shown labels are reviewed.");
        this.page.queue = rows.map((row) => row.id);
        this.page.open(this.page.queue[0]);
        this.#showAccuracy();
    }

    /** Open the next image of the review that has no true label; begin a review if there is none. */
    #openNext() {
        if (!this.page.queue) return this.#start();
        const at = this.page.queue.indexOf(this.page.query.image);
        const others = [...this.page.queue.slice(at + 1), ...this.page.queue.slice(0, at)];
        const next = others.find((id) => !this.page.rows.byId.get(id).truth);
        if (next) this.page.open(next);
        else this.#end(`You have reviewed all ${plural(this.page.queue.length, "image")}.`);
    }

    #end(text) {
        this.onClose();
        this.page.close();
        this.#say(text, this.#previous !== null);
    }

    /** The user goes back to the list. */
    onClose() {
        this.page.queue = null;
        document.getElementById("accuracy").textContent = "";
        document.getElementById("images").append(this.note);
    }

    /** The most probable label gets the focus: Enter accepts it. */
    #focusChoice(article) {
        if (this.page.queue) article.querySelector(".truth-choices button")?.focus({ preventScroll: true });
    }

    async #showAccuracy() {
        const found = await fetchState(`/api/v1${this.page.base}/evaluation`);
        if (!found) return; // the next change reads it
        const { reviewed, unknown, correct, accuracy_low: low, accuracy_high: high } = found;
        const interval = `95% interval ${Math.round(100 * low)}–${Math.round(100 * high)}%`;
        const share = `${((100 * correct) / reviewed).toFixed(1)}%`;
        const parts = reviewed ? [`${formatCount(reviewed)} reviewed, ${share} right (${interval})`] : [];
        if (unknown) parts.push(`${formatCount(unknown)} with another true label than a class of the model`);
        document.getElementById("accuracy").textContent = parts.join("; ");
    }

    #undo() {
        if (!this.#previous) return false;
        const previous = this.#previous;
        this.#set(previous, "Undone.");
        if (this.page.query.image && previous.size === 1) this.page.open([...previous.keys()][0]);
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
        const before = new Map([...truths.keys()].map((id) => [id, this.page.rows.byId.get(id)?.truth ?? ""]));
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
            this.#say(`${plural(unsent.length, "image")} could not be changed. Try again in a moment.`);
            break;
        }
        this.#reloadOpened(truths);
        if (!this.page.queue) return;
        clearTimeout(this.#accuracyTimer);
        this.#accuracyTimer = setTimeout(() => this.#showAccuracy(), ACCURACY_DELAY_MS);
    }

    // The viewer may have loaded the page of the image before the server had the change.
    #reloadOpened(truths) {
        const id = this.page.query.image;
        if (!truths.has(id)) return;
        this.page.rows.byId.get(id).version += 1;
        this.page.merge([]);
    }

    async #send(entries) {
        try {
            const response = await fetchOrLeave(`/api/v1${this.page.base}/truth`, {
                method: "PUT",
                headers: { "Content-Type": "application/json" },
                body: JSON.stringify({ labels: Object.fromEntries(entries.map(([id, label]) => [id, label || null])) }),
            });
            return response.ok;
        } catch {
            return false;
        }
    }

    #show(truths) {
        const known = [...truths].filter(([id]) => this.page.rows.byId.has(id));
        this.page.merge(known.map(([id, truth]) => ({ id, truth })));
    }

    #say(text, canUndo = false) {
        document.querySelector("dialog:modal")?.append(this.note); // what is outside of a dialog is covered
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

    #onSubmit(event) {
        const form = event.target;
        if (form.matches("form.truth") && this.page.rows.byId.has(form.dataset.id)) {
            event.preventDefault();
            const label = cleaned(event.submitter?.value || form.querySelector("input[name=label]")?.value || "");
            // The page of the image is loaded again, without the button that has the focus.
            document.querySelector("#detail [data-step='1']:enabled")?.focus();
            this.#decide(form.dataset.id, label);
        } else if (form.parentElement === this.bar) {
            event.preventDefault();
            const label = cleaned(form.elements.label.value);
            if (!label) return;
            const rows = this.#chosen;
            this.#set(new Map(rows.map(({ id }) => [id, label])), `Set “${label}” for ${plural(rows.length, "image")}.`);
            form.reset();
            this.#clearSelection();
        }
    }

    #onFilterLink(event) {
        const link = event.target.closest("a");
        if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        this.page.navigate({ truth: "", correct: "", reviewed: "" });
    }

    /** @param {Query} query */
    showQuery({ truth, correct, reviewed }) {
        const words = { correct: ["Correct labels", "Wrong labels"], reviewed: ["Reviewed", "Not reviewed"] };
        const word = (name, value) => words[name][value === "true" ? 0 : 1];
        const text = truth
            ? `True label: ${truth}`
            : (correct && word("correct", correct)) || (reviewed && word("reviewed", reviewed)) || "";
        const filter = document.getElementById("review-filter");
        filter.hidden = text === "";
        filter.querySelector("bdi").textContent = text;
    }
}

/** Return the box that selects an image of the list. */
function createPick({ name }) {
    const pick = Object.assign(document.createElement("label"), { className: "pick" });
    pick.append(Object.assign(document.createElement("input"), { type: "checkbox", ariaLabel: `Select ${name}` }));
    return pick;
}

const hasLabel = ({ label }) => label !== undefined;
const idOf = (element) => element.closest(".tile").querySelector("a.open").dataset.id;
const cleaned = (text) => text.trim().replace(/\s+/g, " ");

jobPage.addPart(new Review(jobPage));
