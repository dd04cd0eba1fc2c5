// The histogram of labels, and the options of the label filter.

const MAX_LABELS = 20;
const numberFormat = new Intl.NumberFormat("en-US");

export class Labels {
    /** @param {(label: string) => void} onSelect - called when the user clicks a label of the histogram. */
    constructor(onSelect) {
        this.body = document.getElementById("histogram");
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

    /** @param {Rows} rows */
    show(rows) {
        const entries = rows.histogram(MAX_LABELS);
        while (this.body.rows.length > entries.length) this.body.lastElementChild.remove();
        entries.forEach(([label, images], index) => this.#showBar(index, label, images, entries[0][1]));
        this.emptyNote.hidden = entries.length > 0;
        this.#addOptions(rows.labels.keys());
    }

    #showBar(index, label, images, maxImages) {
        const bar = this.body.rows[index] ?? this.body.appendChild(this.template.cloneNode(true));
        const link = bar.querySelector("a");
        if (link.textContent !== label) {
            link.textContent = label;
            link.href = `?label=${encodeURIComponent(label)}`;
        }
        bar.querySelector(".share").setAttribute("width", `${(100 * images) / maxImages}%`);
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
