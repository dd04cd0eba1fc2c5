// Offers a choice of the models on the upload page that is a static file, if there are several.

import { fetchState } from "../fetching.js";

const choice = document.getElementById("modelChoice");

/** Request the models, if the visitor may see them, and show the choice. */
async function offer() {
    const isAllowed = choice.dataset.for === "everyone" || (await import("../visitor.js")).visitor?.signed_in;
    const found = isAllowed && (await fetchState("/api/v1/models"));
    if (!found) return;
    const { default: defaultName, models } = found;
    const model = choice.querySelector("select");
    model.replaceChildren(new Option(`Default: ${defaultName}`, ""));
    for (const { name } of models) if (name !== defaultName) model.append(new Option(name));
    choice.hidden = models.length < 2;
}

if (choice?.hidden) offer();
