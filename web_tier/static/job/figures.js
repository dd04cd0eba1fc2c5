// The figures at the top of the page.

const slot = (name) => document.querySelector(`[data-slot="${name}"]`);
const number = new Intl.NumberFormat("en-US");

function put(name, text) {
  const element = slot(name);
  if (element.textContent !== text) element.textContent = text;
}

function putOrHide(name, text) {
  put(name, text ?? "");
  slot(name).closest("div, p").hidden = !text;
}

export function showProgress(progress) {
  for (const name of ["accepted", "done", "failed", "waiting", "workers"]) put(name, number.format(progress[name]));
  putOrHide("rate", progress.rate);
  for (const name of ["left", "cost", "repeats", "system_retries", "price"]) putOrHide(name, progress[name]);
  document.getElementById("file").hidden = !progress.file;
  slot("problem").hidden = !progress.problem;
  put("problem", progress.problem ?? "");
  put("sentence", progress.sentence);
  slot("workers").previousElementSibling.textContent = progress.workers === 1 ? "worker" : "workers";
  const state = document.getElementById("state");
  state.textContent = progress.state;
  state.classList.toggle("on", progress.state === "running");
  document.getElementById("retry").hidden = progress.failed === 0;
  showBar(progress);
  showCounts(progress);
}

function showBar({ accepted, done, failed, waiting }) {
  const bar = document.getElementById("bar");
  const share = (images) => `${(100 * images) / Math.max(1, accepted)}%`;
  bar.querySelector(".done").setAttribute("width", share(done));
  bar.querySelector(".failed").setAttribute("x", share(done));
  bar.querySelector(".failed").setAttribute("width", share(failed));
  bar.setAttribute("aria-label", `${done} done, ${failed} failed, ${waiting} waiting`);
}

function showCounts(progress) {
  const counts = { "": progress.accepted, done: progress.done, failed: progress.failed, waiting: progress.waiting };
  for (const [state, count] of Object.entries(counts)) showCount(state, count);
}

export function showCount(state, count) {
  const place = document.querySelector(`.chip[data-state="${state}"] .count`);
  const text = number.format(count);
  if (place.textContent !== text) place.textContent = text;
}
