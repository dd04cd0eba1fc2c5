// The light or dark theme: the system's, until the user chooses one. A classic script, so that it runs before the page
// is drawn and the theme does not flash.

const STORAGE_KEY = "fleetsight-theme";
const root = document.documentElement;

root.classList.add("js");
try {
    root.dataset.theme = localStorage.getItem(STORAGE_KEY) ?? "";
} catch {
    // The browser's storage is off.
}
document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    button.hidden = false;
    button.addEventListener("click", () => {
        const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
        root.dataset.theme = isDark ? "light" : "dark";
        try {
            localStorage.setItem(STORAGE_KEY, root.dataset.theme);
        } catch {
            // The theme applies to this page only.
        }
    });
});
