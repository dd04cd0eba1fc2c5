"""The account page with personal tokens, and what all account pages share: rendering, redirects, and the visitor."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from flask import Response, jsonify, make_response, redirect, render_template, request, url_for

from core.credentials import MAX_DAYS, Scope, TokenNotMadeError
from services.errors import FleetsightError
from services.user_errors import TooManyAttemptsError, WrongCredentialsError
from web_tier.audit import audit_details
from web_tier.auth.context import current_auth, signs_in
from web_tier.auth.guard import FIRST_PAGE, csrf_token, safe_redirect
from web_tier.auth.identity import Identity, current_identity, known_identity
from web_tier.backend import current_backend
from web_tier.rate_limits import remaining_quota

RETRY_AFTER_SECONDS: Final = 60
"""The user pool does not report how long it rejects attempts: a second at first, up to 15 minutes."""


SCOPE_TEXTS: Final = {
    Scope.CLASSIFY: "send images, and change or delete jobs",
    Scope.READ: "see jobs and results",
    Scope.OPERATE: "view and manage the fleet",
}
"""What a token with a scope may be used for."""

MAX_DAYS_DIGITS: Final = 6


def render_page(page: str, *, status: int = HTTPStatus.OK, **context: object) -> Response:
    """Return the rendered page `page`."""
    return make_response(render_template(f"accounts/{page}.html", next=next_path(), **context), status)


def render_error(page: str, error: FleetsightError, **context: object) -> Response:
    """Return the page `page` with the message of `error` beside the form."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, WrongCredentialsError):
        status = HTTPStatus.UNAUTHORIZED
    elif isinstance(error, TooManyAttemptsError):
        status = HTTPStatus.TOO_MANY_REQUESTS
    answer = render_page(page, status=status, fault=sentence(str(error)), **context)
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def redirect_to(address: str) -> Response:
    """Redirect the browser to another page, which it requests by GET."""
    return make_response(redirect(address, 303))


def next_path() -> str:
    """Return the path to continue with after the form: a path of this site."""
    return safe_redirect(request.values.get("next", FIRST_PAGE))


def form_field(field: str) -> str:
    """Return a field of the form that was sent; templates show it again, except for passwords."""
    return request.form.get(field, "")


def sentence(text: str) -> str:
    """Return an error message with a capital letter and a full stop."""
    closed = text if text.endswith((".", "!", "?")) else f"{text}."
    return closed[:1].upper() + closed[1:]


@dataclass(frozen=True, slots=True)
class Visitor:
    """The user who requests a page.

    Attributes:
        signs_in: whether the deployment has sign-in.
        signed_in: whether the user has signed in.
        email: e-mail address of the user.
        operates: whether the user may view and manage the fleet.
        may_sign_up: whether the visitor may create an account.
        is_known: False on a static page: its script requests the visitor.
    """

    signs_in: bool
    signed_in: bool
    email: str = ""
    operates: bool = False
    may_sign_up: bool = False
    is_known: bool = True


UNKNOWN = Visitor(signs_in=True, signed_in=False, is_known=False)
"""The visitor of a static page in a deployment with sign-in: the page's script requests the visitor."""


def visitor() -> Visitor:
    """Return the visitor of the current request."""
    identity, has_sign_in = known_identity(), signs_in()
    may_sign_up = has_sign_in and current_backend().config.auth.sign_up
    if identity is None:
        return Visitor(has_sign_in, False, may_sign_up=may_sign_up)
    return Visitor(has_sign_in, not identity.is_local, identity.email, identity.operates, may_sign_up)


def visitor_now() -> Response:
    """Return the visitor of a static page for its script, with the CSRF token of the sign-out form."""
    who = visitor()
    return jsonify(signed_in=who.signed_in, email=who.email, operates=who.operates, csrf_token=csrf_token())


def account() -> Response:
    """Show the account of the user, and their personal tokens."""
    return render_page("account", **_context())


def make_token() -> Response:
    """Create a token and show it once."""
    who = current_identity()
    scopes = [scope for scope in _grantable_scopes(who) if scope in request.form.getlist("scopes")]
    days, tokens = form_field("days").strip(), current_auth().personal_tokens
    if not (days.isascii() and days.isdigit() and len(days) <= MAX_DAYS_DIGITS):
        fault = TokenNotMadeError(f"write after how many days the token expires: a whole number from 1 to {MAX_DAYS}")
        return render_error("account", fault, **_context())
    try:
        text, token = tokens.make(who.owner, who.email, form_field("name"), scopes, int(days))
    except TokenNotMadeError as error:
        return render_error("account", error, **_context())
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return render_page("account", status=HTTPStatus.CREATED, made=text, **_context())


def revoke_token(token_id: str) -> Response:
    """Revoke a token and redirect to the list."""
    current_auth().personal_tokens.revoke(current_identity().owner, token_id)
    return redirect_to(url_for("accounts.account"))


def _context() -> dict[str, Any]:
    identity = current_identity()
    account = current_auth().accounts.find(identity.owner)
    return {
        "identity": identity,
        "second_factor": account is not None and account.second_factor,
        "tokens": current_auth().personal_tokens.list(identity.owner),
        "scopes": _grantable_scopes(identity),
        "left": remaining_quota(identity.owner),
    }


def _grantable_scopes(identity: Identity) -> dict[Scope, str]:
    return {scope: text for scope, text in SCOPE_TEXTS.items() if scope is not Scope.OPERATE or identity.operates}
