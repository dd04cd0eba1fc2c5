// The light or dark theme: the system's, until the user chooses one. A classic script, so that it runs before the page
// is drawn and the theme does not flash.

const STORAGE_KEY = "fleetsight-theme";
const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function storedTheme() {
    try {
        return localStorage.getItem(STORAGE_KEY);
    } catch {
        return null; // the browser's storage is off
    }
}

function chooseTheme(theme) {
    try {
        localStorage.setItem(STORAGE_KEY, theme);
    } catch {
        // The browser's storage is off: the theme applies to this page only.
    }
    root.dataset.theme = theme;
}

function applyTheme() {
    root.dataset.theme = storedTheme() ?? (systemDark.matches ? "dark" : "light");
}

root.classList.add("js");
applyTheme();
systemDark.addEventListener("change", applyTheme);
document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => chooseTheme(root.dataset.theme === "dark" ? "light" : "dark"));
});
