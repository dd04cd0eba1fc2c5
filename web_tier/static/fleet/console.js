// The console of an instance: it is read again while the page is visible, and lines that are new are appended.

import { keepPolling } from "../connection.js";

/** The web tier asks EC2 no more often. */
const POLL_INTERVAL_MS = 5_000;

const lines = document.getElementById("lines");
const field = document.querySelector("[data-searches] [type=search]");

/** Append the lines behind the last one that is shown, so that open ones stay open. */
function append(fresh) {
    const last = lines.lastElementChild.textContent;
    const known = fresh.findLastIndex((line) => line.textContent === last);
    if (known < 0) lines.replaceChildren();
    lines.append(...fresh.slice(known + 1));
    field.dispatchEvent(new Event("input")); // the new lines are searched, too
}

async function show(response) {
    const page = document.adoptNode(new DOMParser().parseFromString(await response.text(), "text/html").body);
    document.getElementById("facts").replaceWith(page.querySelector("#facts"));
    append([...page.querySelector("#lines").children]);
}

keepPolling(location.href, show, () => POLL_INTERVAL_MS);
