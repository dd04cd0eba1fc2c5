// How an image looks in the grid and in the table: the templates at the end of the page, filled as _image.html does.

import { DELETED, ownPicture } from "./own_pictures.js";
import { retries, UNSURE } from "./rows.js";

const template = (id) => document.getElementById(id).content.firstElementChild;

export const percent = (score) => (score >= 1 ? "100%" : `${Math.min(99, Math.round(score * 100))}%`);

function size(bytes) {
  return bytes >= 2 ** 20 ? `${Number((bytes / 2 ** 20).toPrecision(3))} MB` : `${Math.max(1, Math.round(bytes / 1024))} KB`;
}

function addressed(element, base, row) {
  const link = element.querySelector("a.open");
  element.querySelector("img").dataset.id = row.id;
  link.href = `${base}/images/${row.id}`;
  link.dataset.id = row.id;
  element.querySelector("img").dataset.src = `${base}/images/${row.id}/thumbnail`;
  for (const name of element.querySelectorAll("bdi")) name.textContent = row.name;
  element.querySelector("form").action = `${base}/images/${row.id}/retry`;
  return element;
}

function marked(element, row) {
  element.querySelector("form").hidden = row.status !== "failed" || row.retrying === true || row.final === true;
  element.querySelector(".at-once").hidden = !row.cached;
  element.querySelector(".retries").textContent = retries(row);
}

const wanted = new WeakSet(); // pictures that are looked for

/** Asks for the picture of an element; of an image that is not kept, the server has none once it has its label. */
function stills(keep) {
  return async (element) => {
    const picture = element.querySelector("img");
    if (picture.src || wanted.has(picture)) return;
    const stored = () => (!keep && element.classList.contains("done") ? DELETED : picture.dataset.src);
    wanted.add(picture);
    const address = keep ? stored() : await ownPicture(picture.dataset.id, stored);
    if (wanted.delete(picture)) picture.src = address;
  };
}

/** Take an element out of use: a picture that is still awaited is not wanted any more. */
export function drop(element) {
  for (const picture of element.querySelectorAll("img")) {
    wanted.delete(picture);
    picture.removeAttribute("src");
  }
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

export function gridItems(base, keep) {
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
      tile.className = `tile ${row.status}${row.retrying ? " retrying" : ""}`;
      marked(tile, row);
      const label = tile.querySelector(".label");
      const failed = row.retrying ? "Trying again" : "Failed";
      label.textContent = done ? row.label : row.status === "failed" ? failed : "waiting";
      label.classList.toggle("quiet", row.status === "waiting");
      tile.querySelector(".score").textContent = done ? percent(row.score) : "";
      tile.querySelector(".reason").textContent = row.reason ?? "";
      const bar = tile.querySelector(".confidence");
      bar.toggleAttribute("hidden", !done);
      bar.classList.toggle("unsure", done && row.score < UNSURE);
      bar.lastElementChild.setAttribute("width", done ? `${row.score * 100}%` : "0");
    },
    still: stills(keep),
    drop,
    ...spaces("li"),
  };
}

export function tableItems(base, keep) {
  const blank = template("row-template");
  return {
    container: () => {
      const root = template("table-template").cloneNode(true);
      return { root, list: root.querySelector("tbody") };
    },
    make: (row) => addressed(blank.cloneNode(true), base, row),
    fill(line, row) {
      line.className = `row-of ${row.status}${row.retrying ? " retrying" : ""}`;
      marked(line, row);
      line.querySelector(".found").textContent = row.label ?? row.reason ?? "";
      line.querySelector(".score").textContent = row.score === undefined ? "" : percent(row.score);
      line.querySelector(".state .words").textContent = row.retrying ? "trying again" : row.status;
      line.querySelector(".size").textContent = size(row.bytes);
    },
    still: stills(keep),
    drop,
    ...spaces("tr"),
  };
}
