// ruleid: script-writes-html
row.innerHTML = name;
// ruleid: script-writes-html
row.insertAdjacentHTML("beforeend", name);
// ok: script-writes-html
row.textContent = name;
// ok: script-writes-html
if (row.innerHTML !== fresh.innerHTML) row.replaceWith(fresh);
