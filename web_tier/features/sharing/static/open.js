// Opens a link to a shared job. Its token is behind the `#` of the address, which no log and no other site gets.

function open() {
    const form = document.getElementById("open");
    form.elements.link.value = location.hash.slice(1);
    if (!form.elements.link.value) return;
    history.replaceState(null, "", location.pathname);
    form.submit();
}

addEventListener("hashchange", open);
open();
