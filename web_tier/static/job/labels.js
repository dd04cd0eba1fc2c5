// The histogram of labels, and the options of the label filter.

/** Share of the images that a full bar stands for, if no label has more. */
const WHOLE_BAR = 0.25;
const numberFormat = new Intl.NumberFormat("en-US");

export class Labels {
    /** @param {(label: string) => void} onSelect - called when the user clicks a label of the histogram. */
    constructor(onSelect) {
        this.body = document.getElementById("histogram");
        this.more = document.getElementById("more-labels");
        this.more.addEventListener("toggle", () => this.showAgain?.());
        this.emptyNote = document.getElementById("no-labels");
        this.template = document.getElementById("bar-template").content.firstElementChild;
        this.select = document.querySelector("#filters [name=label]");
        this.optionValues = new Set([...this.select.options].map((option) => option.value));
        this.body.addEventListener("click", (event) => {
            const link = event.target.closest("a");
            if (!link) return;
            event.preventDefault();
            onSelect(link.textContent);
        });
    }

    /**
     * @param {Rows} rows
     * @param {string} selected - the label of the filter, or empty.
     */
    show(rows, selected) {
        this.showAgain = () => this.show(rows, selected);
        const all = rows.histogram();
        const max = Number(this.more.dataset.max);
        const entries = this.more.open ? all : all.slice(0, max);
        const whole = Math.max(all[0]?.[1] ?? 0, WHOLE_BAR * rows.done);
        while (this.body.rows.length > entries.length) this.body.lastElementChild.remove();
        entries.forEach(([label, images], index) => this.#showBar(index, label, images, whole, selected));
        const more = all.length - max;
        this.more.hidden = more <= 0;
        this.more.firstElementChild.textContent = `and ${numberFormat.format(more)} more`;
        this.emptyNote.hidden = entries.length > 0;
        this.#addOptions(rows.labels.keys());
    }

    #showBar(index, label, images, whole, selected) {
        const bar = this.body.rows[index] ?? this.body.appendChild(this.template.cloneNode(true));
        const link = bar.querySelector("a");
        bar.classList.toggle("more", index >= Number(this.more.dataset.max));
        if (label === selected) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
        if (link.textContent !== label) {
            link.textContent = link.title = label;
            link.href = `?label=${encodeURIComponent(label)}`;
        }
        bar.querySelector(".share").setAttribute("width", `${(100 * images) / whole}%`);
        bar.lastElementChild.textContent = numberFormat.format(images);
    }

    /** Add the missing labels in alphabetical order. */
    #addOptions(labels) {
        const newLabels = [...labels].filter((label) => !this.optionValues.has(label));
        for (const label of newLabels.sort()) {
            const next = [...this.select.options].find((option, index) => index > 0 && option.text > label);
            this.select.add(new Option(label, label), next ?? null);
            this.optionValues.add(label);
        }
    }
}
