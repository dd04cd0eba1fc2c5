// Searches a list while the user types. Without JavaScript, a form asks the server for the matching entries, or is hidden.
//
// The form names its list in `data-searches`. Entries are the elements with `data-words` in the list, or else its
// children. A part with `data-group` is hidden without entries; `data-none`, beside the list, says that nothing matches.

function search(list, text) {
    const marked = [...list.querySelectorAll("[data-words]")];
    const entries = marked.length ? marked : [...list.children];
    const wanted = text.trim().toLowerCase();
    for (const entry of entries) {
        entry.hidden = !(entry.dataset.words ?? entry.textContent).toLowerCase().includes(wanted);
    }
    for (const group of list.querySelectorAll("[data-group]")) {
        group.hidden = !group.querySelector("[data-words]:not([hidden])");
    }
    return entries.some((entry) => !entry.hidden);
}

for (const form of document.querySelectorAll("[data-searches]")) {
    const list = document.getElementById(form.dataset.searches);
    const field = form.querySelector("[type=search]");
    const none = list.parentElement.querySelector("[data-none]");
    field.addEventListener("input", () => {
        none.hidden = search(list, field.value);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    form.querySelector("button")?.remove();
}
