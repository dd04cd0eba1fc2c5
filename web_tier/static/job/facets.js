// The labels and folders beside the list, with their numbers of images: a click shows the images of one.

import { formatCount } from "../upload/format.js";

/** Share of the images that a full bar stands for, if no label has more. */
const WHOLE_BAR = 0.25;
/** Folders that are shown: the largest ones. */
const MAX_FOLDERS = 20;

export class Facets {
    #isWhole = false;

    /**
     * @param {(label: string) => void} onLabel - called when the user clicks a label.
     * @param {(folder: string) => void} onFolder - called with the path of a folder, which ends with a slash.
     */
    constructor(onLabel, onFolder) {
        this.labels = document.getElementById("histogram");
        this.folders = document.getElementById("folders");
        this.more = document.getElementById("more-labels");
        this.template = document.getElementById("facet-template").content.firstElementChild;
        this.more.addEventListener("toggle", () => this.showAgain?.());
        for (const [list, onSelect] of [[this.labels, onLabel], [this.folders, onFolder]]) {
            list.addEventListener("click", (event) => {
                const link = event.target.closest("a");
                if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
                event.preventDefault();
                onSelect(link.title);
            });
        }
    }

    /**
     * @param {Rows} rows
     * @param {Query} query - see main.js.
     * @param {boolean} areAllRead - whether the page has all rows. Until it has once, the list would change its order
     *     under the pointer, with numbers that look final.
     */
    show(rows, query, areAllRead) {
        this.#isWhole ||= areAllRead;
        if (!this.#isWhole) return;
        this.showAgain = () => this.show(rows, query, areAllRead);
        const labels = rows.histogram();
        const max = Number(this.more.dataset.max);
        const whole = Math.max(labels[0]?.[1] ?? 0, WHOLE_BAR * rows.done);
        const shown = this.more.open ? labels : labels.slice(0, max);
        this.#fill(this.labels, shown, whole, (label) => [label, "label", label, label === query.label]);
        for (const [index, item] of [...this.labels.children].entries()) item.classList.toggle("more", index >= max);
        this.labels.classList.remove("partial");
        this.more.hidden = labels.length <= max;
        this.more.firstElementChild.textContent = `and ${formatCount(labels.length - max)} more`;
        document.getElementById("no-labels").hidden = labels.length > 0;
        const folders = rows.folders().slice(0, MAX_FOLDERS);
        this.#fill(this.folders, folders, rows.size, (path) => {
            return [path.slice(path.lastIndexOf("/") + 1), "q", `${path}/`, `${path}/` === query.name];
        });
        document.getElementById("folders-title").hidden = folders.length === 0;
    }

    #fill(list, entries, whole, describe) {
        while (list.children.length > entries.length) list.lastElementChild.remove();
        for (const [index, [key, images]] of entries.entries()) {
            const item = list.children[index] ?? list.appendChild(this.template.cloneNode(true));
            const [text, parameter, value, isCurrent] = describe(key);
            const link = item.firstElementChild;
            link.ariaCurrent = isCurrent ? "true" : null;
            if (link.title !== value) {
                link.title = value;
                link.href = `?${new URLSearchParams({ [parameter]: value })}`;
                link.querySelector("bdi").textContent = text;
            }
            link.querySelector(".count").textContent = formatCount(images);
            link.querySelector("rect").setAttribute("width", `${(100 * images) / whole}%`);
        }
    }
}
