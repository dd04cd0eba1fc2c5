// The button that shows the password in a form.

for (const button of document.querySelectorAll("button[data-shows]")) {
    const field = document.getElementById(button.dataset.shows);
    const setVisible = (isVisible) => {
        field.type = isVisible ? "text" : "password";
        button.setAttribute("aria-pressed", String(isVisible));
    };
    button.hidden = false;
    button.addEventListener("click", () => setVisible(field.type === "password"));
    field.form.addEventListener("submit", () => setVisible(false)); // browsers save password fields only as passwords
}
