// Turns each operation of the API's page into a form that calls it. Everything shown is text, never markup.

import { needsSignIn, signInAddress } from "./sign_in.js";

const MAX_SHOWN_CHARACTERS = 20_000; // characters

for (const form of document.querySelectorAll("form.try")) {
  form.querySelector("button").hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send(form);
  });
}
document.getElementById("needs-script").hidden = true;
openTarget();
window.addEventListener("hashchange", openTarget);

// A link to a model or an operation opens it.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) target.open = true;
}

async function send(form) {
  const button = form.querySelector("button");
  button.disabled = true;
  const began = performance.now();
  try {
    const answer = await fetch(address(form), request(form));
    const body = form.dataset.stream === undefined ? await answer.text() : await firstPart(answer);
    show(form, `${answer.status} ${answer.statusText}`, performance.now() - began, answer, body);
  } catch (error) {
    show(form, `No answer: ${error.message}`, performance.now() - began, null, "");
  } finally {
    button.disabled = false;
  }
}

function address(form) {
  const query = new URLSearchParams();
  let path = form.dataset.path;
  for (const field of form.querySelectorAll("[data-in]")) {
    if (field.dataset.in === "path") path = path.replace(`{${field.name}}`, encodeURIComponent(field.value.trim()));
    else if (field.dataset.in === "query" && field.value !== "") query.append(field.name, field.value);
  }
  return query.size ? `${path}?${query}` : path;
}

function request(form) {
  const headers = new Headers();
  for (const field of form.querySelectorAll('[data-in="header"]')) {
    if (field.value !== "") headers.set(field.name, field.value);
  }
  const body = bodyOf(form);
  if (typeof body === "string") headers.set("Content-Type", "application/json");
  return { method: form.dataset.method.toUpperCase(), headers, body };
}

// Chosen files go as a form, else what is written goes as JSON.
function bodyOf(form) {
  const files = form.elements.files?.files ?? [];
  if (files.length) {
    const data = new FormData();
    for (const file of files) data.append("images", file);
    return data;
  }
  return form.elements.json?.value || undefined;
}

async function firstPart(answer) {
  const reader = answer.body.getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return new TextDecoder().decode(value);
}

function show(form, told, milliseconds, answer, body) {
  const output = form.querySelector("output");
  const id = answer?.headers.get("X-Request-Id");
  output.hidden = false;
  const line = output.querySelector(".told");
  line.textContent = `${told} · ${milliseconds.toFixed(0)} ms${id ? ` · request ${id}` : ""}`;
  if (answer && needsSignIn(answer)) line.append(" · you are not signed in: ", signInLink());
  output.querySelector("code").textContent = pretty(body, answer?.headers.get("Content-Type") ?? "");
}

// In a tab of its own: what was written into the forms stays.
function signInLink() {
  return Object.assign(document.createElement("a"), {
    href: signInAddress(),
    target: "_blank",
    rel: "noopener",
    textContent: "sign in",
  });
}

function pretty(body, type) {
  let text = body;
  if (type.includes("json") && !type.includes("ndjson")) {
    try {
      text = JSON.stringify(JSON.parse(body), null, 2);
    } catch {
      // shown as it came
    }
  }
  return text.length > MAX_SHOWN_CHARACTERS ? `${text.slice(0, MAX_SHOWN_CHARACTERS)}\n… ${text.length - MAX_SHOWN_CHARACTERS} more characters` : text;
}
