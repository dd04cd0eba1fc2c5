// What a page does when its calls are answered that the user is not signed in any more.

const SIGN_IN = "/sign-in";

/** Tell whether an answer says so: to a program's call by its status, to a page's with the page that signs people in. */
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
