// Light or dark: as the machine says, until a person chooses. Loaded before the page is drawn, so that nothing flashes.

const KEY = "fleetsight-theme";
const root = document.documentElement;
const machine = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // storage is switched off
  }
}

function choose(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // It holds for this page then.
  }
  root.dataset.bsTheme = theme;
}

function apply() {
  root.dataset.bsTheme = chosen() ?? (machine.matches ? "dark" : "light");
}

root.classList.add("js");
apply();
machine.addEventListener("change", apply);
document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => choose(root.dataset.bsTheme === "dark" ? "light" : "dark"));
});
