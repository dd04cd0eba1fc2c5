// Searches a list while the user types. Without JavaScript, the form asks the server for the matching entries.
// The form names its list in `data-searches`; an element with `data-none` beside it says that nothing matches.

function search(list, text) {
    const wanted = text.trim().toLowerCase();
    let isEmpty = true;
    for (const entry of list.children) {
        entry.hidden = !(entry.dataset.words ?? entry.textContent).toLowerCase().includes(wanted);
        isEmpty &&= entry.hidden;
    }
    list.parentElement.querySelector("[data-none]").hidden = !isEmpty;
}

for (const form of document.querySelectorAll("[data-searches]")) {
    const list = document.getElementById(form.dataset.searches);
    const field = form.querySelector("[type=search]");
    field.addEventListener("input", () => search(list, field.value));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.hidden = false;
    form.querySelector("button")?.remove();
}
