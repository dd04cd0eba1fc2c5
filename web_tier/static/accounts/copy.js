// The token that was just made can be copied with a click; where there is no clipboard it is selected.

const field = document.getElementById("made");
const button = document.getElementById("copy");

async function copy() {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Press Ctrl+C"; // without TLS, or when it is not allowed
  }
}

if (field) {
  button.hidden = false;
  button.addEventListener("click", copy);
  field.addEventListener("focus", () => field.select());
}
