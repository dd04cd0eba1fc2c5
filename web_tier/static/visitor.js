// A page that is a file asks who looks at it, and shows that in its header as the web tier's own pages do.

const ASK_MS = 10_000;

const part = (id) => document.getElementById(id);

const visitor = await ask();
if (visitor?.signed_in) show(visitor);

async function ask() {
    try {
        const answer = await fetch("/account/visitor", { cache: "no-store", signal: AbortSignal.timeout(ASK_MS) });
        return answer.ok ? await answer.json() : null;
    } catch {
        return null;
    }
}

function show({ email, operates, csrf_token }) {
    part("account").querySelector("bdi").textContent = email;
    const token = { type: "hidden", name: "csrf_token", value: csrf_token };
    part("signOut").append(Object.assign(document.createElement("input"), token));
    part("account").hidden = part("signOut").hidden = false;
    part("headerSignIn").hidden = true;
    part("fleetLink").hidden = !operates;
}
