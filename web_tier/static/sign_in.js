// What a page does when the user's session has ended.

const SIGN_IN_PATH = "/sign-in";

/** Return true if a response requires a sign-in: an API call returns 401, a page redirects to the sign-in page. */
export function needsSignIn(response) {
    return response.status === 401 || (response.redirected && new URL(response.url).pathname === SIGN_IN_PATH);
}

/** Go to the sign-in page, which shows that the session has ended and redirects back to this page. */
export function goToSignIn() {
    location.assign(`${SIGN_IN_PATH}?told=ended&next=${encodeURIComponent(location.pathname + location.search)}`);
}
