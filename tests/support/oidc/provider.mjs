// An OpenID provider that we did not write: npm's oidc-provider, which the OpenID Foundation has certified.
// node provider.mjs PORT SITE: users are `user` and `operator`; any password is right.

import Provider from "oidc-provider";

const [port, site] = process.argv.slice(2);
const users = { user: [], operator: ["operators"] };

const provider = new Provider(`http://127.0.0.1:${port}`, {
    claims: { openid: ["sub", "groups"], email: ["email", "email_verified"] },
    clients: [{
        client_id: "fleetsight",
        client_secret: "the secret of the site",
        grant_types: ["authorization_code", "refresh_token"],
        post_logout_redirect_uris: [`${site}/signed-out`],
        redirect_uris: [`${site}/sign-in/callback`],
    }],
    conformIdTokenClaims: false, // e-mail and groups are in the ID token
    cookies: { keys: ["a key of a test"] },
    findAccount: (context, id) => users[id] && {
        accountId: id,
        claims: () => ({ sub: id, email: `${id}@example.org`, email_verified: true, groups: users[id] }),
    },
    issueRefreshToken: () => true,
    pkce: { required: () => true },
});
provider.listen(Number(port), "127.0.0.1");
