// Shows the signed-in user in the header of a static page, as the web tier's own pages do.

import { fetchState } from "./fetching.js";

/** The visitor; null if the server does not respond in time. */
export const visitor = await fetchState("/account/visitor");
if (visitor?.signed_in) showVisitor(visitor);

function showVisitor({ name, operates, csrf_token }) {
    const [account, signOut, signIn, fleetLink] = ["account", "signOut", "headerSignIn", "fleetLink"].map((id) =>
        document.getElementById(id),
    );
    account.querySelector("bdi").textContent = name;
    const token = { type: "hidden", name: "csrf_token", value: csrf_token };
    signOut.append(Object.assign(document.createElement("input"), token));
    account.hidden = signOut.hidden = false;
    signIn.hidden = true;
    fleetLink.hidden = !operates;
}
