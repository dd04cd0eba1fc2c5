// Searches lists while the user types. Without JavaScript, a form asks the server for the matching entries, or is hidden.
//
// The form names its lists in `data-searches`. Entries are the elements with `data-words` in a list, or else its
// children. A part with `data-group` is hidden without entries; `data-none`, beside the first list, says that nothing
// matches.

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
    const lists = form.dataset.searches.split(" ").map((id) => document.getElementById(id));
    const field = form.querySelector("[type=search]");
    const none = lists[0].parentElement.querySelector("[data-none]");
    field.addEventListener("input", () => {
        none.hidden = lists.map((list) => search(list, field.value)).includes(true);
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    form.querySelector("button")?.remove();
}
