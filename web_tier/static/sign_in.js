// What a page does when its calls are answered that the user is not signed in any more.

const SIGN_IN = "/sign-in";

/** Return whether a response requires a sign-in: by its status for an API call, by a redirect to the sign-in page else. */
export function needsSignIn(answer) {
  return answer.status === 401 || (answer.redirected && new URL(answer.url).pathname === SIGN_IN);
}

/** The page that signs people in, says that they were signed out, and leads back here. */
export function signInAddress() {
  return `${SIGN_IN}?told=ended&next=${encodeURIComponent(location.pathname + location.search)}`;
}

/** Leave for it. */
export function goToSignIn() {
  location.assign(signInAddress());
}
