// The items of the list: clones of the template in job.html, filled as _image.html does.

/** As `percent` of core/format.py. */
const formatPercent = (score) => `${Math.floor(score * 100 + 1e-9)}%`;

/** What becomes of a file before its image is there. */
const FILE_WORDS = { checking: "Being checked", ready: "Ready", sending: "Sending", unsent: "Not sent", accepted: "Sent" };

/** Return what a waiting image, or a file that is not accepted yet, waits for. */
function waitingWords({ item }) {
    if (!item) return "Waiting";
    return item.state === "sending" ? `Sending ${Math.floor(item.request.share * 100)}%` : FILE_WORDS[item.state];
}

/** Mark the image that is open. */
export function markOpened(element, isOpened) {
    const link = element?.querySelector("a.open");
    if (link) link.ariaCurrent = isOpened ? "true" : null;
}

/** Return a part of tiles, as the template has it. */
function partOf(selector) {
    return document.importNode(document.getElementById("tile-template").content.querySelector(selector), true);
}

/** Return the item of a row with what never changes: the link, the name and the picture's URL. A file has no page yet. */
export function createTile(base, row) {
    const tile = partOf(".tile");
    const name = tile.querySelector(".filename");
    name.title = name.firstElementChild.textContent = row.name;
    if (row.item) return tile;
    tile.querySelector("a.open").href = `${base}/images/${row.id}`;
    return adoptTile(tile);
}

/** Add to a tile of an image, such as one that the server has rendered, what only scripts use. */
export function adoptTile(tile) {
    const link = tile.querySelector("a.open");
    const picture = tile.querySelector("img");
    link.dataset.id = link.pathname.split("/").pop();
    picture.dataset.src = `${link.pathname}/thumbnail`;
    if (picture.complete && !picture.naturalWidth) picture.removeAttribute("src"); // a broken one is loaded again
    return tile;
}

/** Show a part that few tiles have, or remove it. */
function togglePart(parent, selector, isShown) {
    const shown = parent.querySelector(selector);
    if (isShown && !shown) parent.append(partOf(selector));
    else if (!isShown) shown?.remove();
}

/** Show a text. What is equal stays, such as in a tile of the server: the browser would draw it again. */
function show(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

export function updateTile(tile, row) {
    const isDone = row.status === "done";
    const hasLanded = isDone && tile.classList.contains("waiting");
    const texts = {
        done: labelsOf(row),
        failed: row.retrying ? "Trying again" : row.failure,
        waiting: waitingWords(row),
    };
    const { picture } = row.item ?? row.file ?? {}; // of a file that this page sends, or has sent
    const isUndrawn = picture === null && row.item; // as a TIFF in most browsers
    const isOther = { unsure: row.unsure, retrying: row.retrying, landed: hasLanded, file: row.item, undrawn: isUndrawn };
    const marks = Object.keys(isOther).filter((mark) => isOther[mark]);
    tile.className = ["tile", row.status, ...marks, row.item?.state ?? ""].join(" ").trim();
    if (picture) tile.querySelector("img").dataset.src = picture;
    togglePart(tile, ".retry-one", row.status === "failed" && !row.retrying && !row.final);
    for (const name of tile.querySelectorAll("form bdi")) name.textContent = row.name;
    show(tile.querySelector(".retries"), retriesText(row));
    const label = tile.querySelector(".label");
    show(label, texts[row.status]);
    label.title = row.unsure ? `Unsure: ${labelsOf(row)}` : (labelsOf(row) ?? "");
    label.classList.toggle("quiet", row.status === "waiting");
    show(tile.querySelector(".score"), isDone ? formatPercent(row.score) : "");
    const reason = tile.querySelector(".reason");
    reason.title = row.reason ?? "";
    show(reason, reason.title);
    const bar = tile.querySelector(".confidence");
    bar.toggleAttribute("hidden", !isDone);
    const width = `${isDone ? (row.score * 100).toFixed(2) : 0}%`;
    if (bar.lastElementChild.getAttribute("width") !== width) bar.lastElementChild.setAttribute("width", width);
}

/** Return how the system retried an image and why, one line each, as `ImageRow.retries` of job_snapshot.py does. */
function retriesText({ tries, again }) {
    const received = tries ? `Tried ${tries} times: a worker failed` : "";
    const requested = again ? `Requested again${again > 1 ? ` ×${again}` : ""}: presumed lost` : "";
    return [received, requested].filter(Boolean).join("\n");
}

/** Return the text of an image's labels; several of them are independent. */
function labelsOf({ label, also }) {
    return also ? `${label}, ${also}` : label;
}
