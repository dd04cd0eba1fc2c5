// The histogram of labels, and the list of them to choose from.

const MOST = 20;
const number = new Intl.NumberFormat("en-US");

export class Labels {
  constructor(onChoose) {
    this.body = document.getElementById("histogram");
    this.none = document.getElementById("no-labels");
    this.blank = document.getElementById("bar-template").content.firstElementChild;
    this.select = document.querySelector("#filters [name=label]");
    this.offered = new Set([...this.select.options].map((option) => option.value));
    this.body.addEventListener("click", (event) => {
      const link = event.target.closest("a");
      if (!link) return;
      event.preventDefault();
      onChoose(link.textContent);
    });
  }

  show(rows) {
    const entries = rows.histogram(MOST);
    while (this.body.rows.length > entries.length) this.body.lastElementChild.remove();
    entries.forEach(([label, images], index) => this.#line(index, label, images, entries[0][1]));
    this.none.hidden = entries.length > 0;
    this.#offer(rows.labels.keys());
  }

  #line(index, label, images, most) {
    const line = this.body.rows[index] ?? this.body.appendChild(this.blank.cloneNode(true));
    const link = line.querySelector("a");
    if (link.textContent !== label) {
      link.textContent = label;
      link.href = `?label=${encodeURIComponent(label)}`;
    }
    line.querySelector(".share").setAttribute("width", `${(100 * images) / most}%`);
    line.lastElementChild.textContent = number.format(images);
  }

  #offer(labels) {
    const news = [...labels].filter((label) => !this.offered.has(label));
    for (const label of news.sort()) {
      const after = [...this.select.options].find((option, index) => index > 0 && option.text > label);
      this.select.add(new Option(label, label), after ?? null);
      this.offered.add(label);
    }
  }
}
