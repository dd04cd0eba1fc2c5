// What a page does when the user's session has ended.

/** Return true if a response requires a sign-in. */
export function needsSignIn(response) {
    return response.status === 401;
}

/** Go to the sign-in, which returns to this page. */
export function goToSignIn() {
    location.assign(`/sign-in?next=${encodeURIComponent(location.pathname + location.search)}`);
}
