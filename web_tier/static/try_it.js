// Turns each operation on the API page into a form that calls it. Responses are shown as text, never as markup.

import "./copy.js";
import { fetchInTime } from "./fetching.js";

const MAX_SHOWN_CHARACTERS = 20_000;
const RESPONSE_TIMEOUT_MS = 120_000;

for (const form of document.querySelectorAll("form.try")) {
    for (const button of form.querySelectorAll("button")) button.hidden = false;
    const copy = form.querySelector("[data-copies]");
    copy.addEventListener("click", () => showCurl(form)); // copy.js copies it
    form.addEventListener("input", () => (copy.querySelector("span").textContent = "Copy as curl"));
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        send(form);
    });
}

/** Show the command that sends what the form would send. */
function showCurl(form) {
    const output = form.querySelector("output");
    output.hidden = false;
    output.querySelector(".status-line").textContent = "";
    output.querySelector("code").textContent = curlCommand(form);
}

function curlCommand(form) {
    const { method, headers, body } = requestOptions(form);
    const parts = ["curl", "-sS"];
    if (method !== "GET") parts.push("-X", method);
    // In double quotes, so that the shell inserts the token.
    if (form.closest("[data-token=true]")) parts.push("-H", '"Authorization: Bearer $TOKEN"');
    for (const [name, value] of headers) parts.push("-H", quote(`${name}: ${value}`));
    if (body instanceof FormData) for (const file of body.getAll("images")) parts.push("-F", quote(`images=@${file.name}`));
    else if (body) parts.push("--data-raw", quote(body));
    else if (form.elements.files) parts.push("-F", "images=@one.jpg");
    parts.push(quote(new URL(requestUrl(form), location.origin).href));
    return parts.join(" ");
}

/** Quote a text for a POSIX shell. */
function quote(text) {
    return `'${text.replaceAll("'", `'\\''`)}'`;
}

async function send(form) {
    const button = form.querySelector("button");
    button.disabled = true;
    const startedAt = performance.now();
    const elapsed = () => performance.now() - startedAt;
    try {
        const response = await fetchInTime(requestUrl(form), requestOptions(form), RESPONSE_TIMEOUT_MS);
        const isStream = form.dataset.stream !== undefined;
        const body = isStream ? await readFirstChunk(response) : await response.text();
        show(form, `${response.status} ${response.statusText}`, elapsed(), response, body);
    } catch (error) {
        show(form, `No response: ${error.message}`, elapsed(), null, "");
    } finally {
        button.disabled = false;
    }
}

function requestUrl(form) {
    const query = new URLSearchParams();
    let path = form.dataset.path;
    for (const field of form.querySelectorAll("[data-in]")) {
        if (field.dataset.in === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(field.value.trim()));
        else if (field.dataset.in === "query" && field.value !== "") query.append(field.name, field.value);
    }
    return query.size ? `${path}?${query}` : path;
}

function requestOptions(form) {
    const headers = new Headers();
    for (const field of form.querySelectorAll('[data-in="header"]')) {
        if (field.value !== "") headers.set(field.name, field.value);
    }
    const body = requestBody(form);
    if (typeof body === "string") headers.set("Content-Type", "application/json");
    return { method: form.dataset.method.toUpperCase(), headers, body };
}

/** Return the chosen files as form data, else the JSON text, else undefined. */
function requestBody(form) {
    const files = form.elements.files?.files ?? [];
    if (files.length) {
        const data = new FormData();
        for (const file of files) data.append("images", file);
        return data;
    }
    return form.elements.json?.value || undefined;
}

// A stream of events has no end, so the page shows its beginning.
async function readFirstChunk(response) {
    const reader = response.body.getReader();
    const { value } = await reader.read();
    await reader.cancel();
    return new TextDecoder().decode(value);
}

function show(form, status, milliseconds, response, body) {
    const output = form.querySelector("output");
    const requestId = response?.headers.get("X-Request-Id");
    output.hidden = false;
    const facts = `${status} · ${milliseconds.toFixed(0)} ms${requestId ? ` · request ${requestId}` : ""}`;
    output.querySelector(".status-line").textContent = facts;
    output.querySelector("code").textContent = formatBody(body, response?.headers.get("Content-Type") ?? "");
}

function formatBody(body, contentType) {
    let text = body;
    if (contentType.includes("json") && !contentType.includes("ndjson")) {
        try {
            text = JSON.stringify(JSON.parse(body), null, 2);
        } catch {
            // Invalid JSON is shown unchanged.
        }
    }
    const excess = text.length - MAX_SHOWN_CHARACTERS;
    return excess > 0 ? `${text.slice(0, MAX_SHOWN_CHARACTERS)}\n… ${excess} more characters` : text;
}
