// How an image looks in the grid and in the table: the templates at the end of the page, filled as _image.html does.

import { UNSURE } from "./rows.js";

const template = (id) => document.getElementById(id).content.firstElementChild;

export const percent = (score) => (score >= 1 ? "100%" : `${Math.min(99, Math.round(score * 100))}%`);

function size(bytes) {
  return bytes >= 2 ** 20 ? `${Number((bytes / 2 ** 20).toPrecision(3))} MB` : `${Math.max(1, Math.round(bytes / 1024))} KB`;
}

function addressed(element, base, row) {
  const link = element.querySelector("a.open");
  link.href = `${base}/images/${row.id}`;
  link.dataset.id = row.id;
  element.querySelector("img").dataset.src = `${base}/images/${row.id}/thumbnail`;
  element.querySelector("bdi").textContent = row.name;
  return element;
}

function still(element) {
  const picture = element.querySelector("img");
  if (!picture.src) picture.src = picture.dataset.src;
}

/** Take an element out of use: a picture that is still awaited is not wanted any more. */
export function drop(element) {
  for (const picture of element.querySelectorAll("img")) picture.removeAttribute("src");
}

function spaces(tag) {
  return {
    space() {
      const space = document.createElement(tag);
      space.className = "space";
      space.setAttribute("aria-hidden", "true");
      return space;
    },
    stretch(space, pixels) {
      space.hidden = pixels === 0;
      space.style.height = `${pixels}px`;
    },
  };
}

export function gridItems(base) {
  const blank = template("tile-template");
  return {
    container: () => {
      const grid = template("grid-template").cloneNode(true);
      return { root: grid, list: grid };
    },
    make(row) {
      const tile = addressed(blank.cloneNode(true), base, row);
      tile.querySelector(".filename").title = row.name;
      return tile;
    },
    fill(tile, row) {
      const done = row.status === "done";
      tile.className = `tile ${row.status}`;
      const label = tile.querySelector(".label");
      label.textContent = done ? row.label : row.status === "failed" ? "Failed" : "waiting";
      label.classList.toggle("quiet", row.status === "waiting");
      tile.querySelector(".score").textContent = done ? percent(row.score) : "";
      tile.querySelector(".reason").textContent = row.reason ?? "";
      const bar = tile.querySelector(".confidence");
      bar.toggleAttribute("hidden", !done);
      bar.classList.toggle("unsure", done && row.score < UNSURE);
      bar.lastElementChild.setAttribute("width", done ? `${row.score * 100}%` : "0");
    },
    still,
    drop,
    ...spaces("li"),
  };
}

export function tableItems(base) {
  const blank = template("row-template");
  return {
    container: () => {
      const root = template("table-template").cloneNode(true);
      return { root, list: root.querySelector("tbody") };
    },
    make: (row) => addressed(blank.cloneNode(true), base, row),
    fill(line, row) {
      line.className = `row-of ${row.status}`;
      line.querySelector(".found").textContent = row.label ?? row.reason ?? "";
      line.querySelector(".score").textContent = row.score === undefined ? "" : percent(row.score);
      line.querySelector(".state").textContent = row.status;
      line.querySelector(".size").textContent = size(row.bytes);
    },
    still,
    drop,
    ...spaces("tr"),
  };
}
