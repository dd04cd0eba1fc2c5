// Turns the upload page into the page of its job, without a navigation, so that sending goes on.

import "../dialogs.js"; // "Share" must not leave the page while its modules are loading
import { fetchInTime } from "../fetching.js";

/**
 * Show the page of a job in place of this one. Its scripts go on with the upload: see `Adding`.
 *
 * @param {string} address - of the page.
 * @param {HTMLElement} section - that adds images; it moves into the page.
 */
export async function showJobPage(address, section) {
    const response = await fetchInTime(address);
    if (!response.ok || response.redirected) throw new Error(`${address} returned ${response.status}`);
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const styleSheets = [...page.querySelectorAll("head link[rel=stylesheet]")].map((link) => link.href);
    const ownLinks = [...document.querySelectorAll("head link[rel=stylesheet]")];
    const ownSheets = ownLinks.map((link) => link.href);
    await Promise.all(styleSheets.filter((href) => !ownSheets.includes(href)).map(addStyleSheet));
    page.getElementById("adding").replaceWith(section);
    section.classList.add("as-line");
    document.body.className = page.body.className;
    const main = document.querySelector("main");
    main.replaceChildren(...page.querySelector("main").childNodes);
    for (const link of ownLinks) if (!styleSheets.includes(link.href)) link.remove();
    document.querySelector("header nav").replaceWith(page.querySelector("header nav"));
    document.title = page.title;
    history.pushState(null, "", address);
    scrollTo(0, 0);
    const heading = main.querySelector("h1");
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    for (const script of page.querySelectorAll("head script[type=module]")) await import(script.src);
}

/** Add a style sheet; resolves when it has loaded. */
function addStyleSheet(href) {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
    document.head.append(link);
    return new Promise((resolve, reject) => Object.assign(link, { onload: resolve, onerror: reject }));
}
