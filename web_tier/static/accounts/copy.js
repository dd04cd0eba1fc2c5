// The button that copies a new token. Without access to the clipboard it selects the token.

const field = document.getElementById("made");
const button = document.getElementById("copy");

async function copy() {
    field.select();
    try {
        await navigator.clipboard.writeText(field.value);
        button.textContent = "Copied";
    } catch {
        button.textContent = "Press Ctrl+C"; // no TLS, or no permission
    }
}

if (field) {
    button.hidden = false;
    button.addEventListener("click", copy);
    field.addEventListener("focus", () => field.select());
}
