// Buttons that copy: what the element with the id in `data-copies` shows, such as a new token, or else the text in
// `data-copy`, or the address of the page. Without access to the clipboard the element is selected.

document.addEventListener("click", async ({ target }) => {
    const button = target.closest("button:is([data-copies], [data-copy])");
    if (!button) return;
    const source = document.getElementById(button.dataset.copies);
    const label = button.querySelector("span") ?? button;
    if (source?.select) source.select();
    else if (source) getSelection().selectAllChildren(source);
    try {
        const text = source ? (source.value ?? source.innerText) : button.dataset.copy || location.href;
        await navigator.clipboard.writeText(text);
        label.textContent = "Copied";
        button.classList.toggle("copied", !source); // of some, the label is for screen readers
    } catch {
        label.textContent = source ? "Press Ctrl+C" : "Not copied"; // no TLS, or no permission
    }
});
