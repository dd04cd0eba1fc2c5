"""Sign-in and sign-out: the site sends its users to the OpenID provider, and has no password of theirs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from flask import Response, make_response, redirect, render_template, request, url_for

from core.format import capitalised
from core.tokens import TokenRefusedError, TokenUncheckedError
from web_tier.auth.audit import FAILED_SIGN_IN, SIGN_IN, audit_as, audit_details
from web_tier.auth.context import current_auth
from web_tier.auth.guard import FIRST_PAGE, safe_redirect
from web_tier.auth.identity import current_identity, known_identity
from web_tier.auth.permissions import Right
from web_tier.auth.provider import ProviderUnreachableError, SignInRefusedError
from web_tier.http.backend import current_backend
from web_tier.http.routes import Routes

MESSAGES: Final = {
    "everywhere": "All your sessions and personal tokens have ended.",
    "deleted": "Your jobs, sessions and personal tokens are deleted.",
}
"""What the page of a user who is signed out says, by what has ended."""

RETRY_AFTER_SECONDS: Final = 5

NOT_AT_PROVIDER: Final = "You are signed out here, but the sign-in provider does not answer: sign out there, too."

_log = logging.getLogger(__name__)

sign_in_pages = Routes("sign_in", needs_sign_in=True)


@sign_in_pages.get("/sign-in", right=Right.PUBLIC)
def sign_in() -> Response:
    """Redirect to the provider, or a user who has signed in to the next page; `again` asks the user once more."""
    if known_identity() is not None and "again" not in request.args:
        return redirect_to(next_path())
    callback = url_for("sign_in.callback", _external=True)
    try:
        with _place():
            return make_response(
                current_auth().provider.redirect_to_sign_in(callback, next_path(), again="again" in request.args)
            )
    except ProviderUnreachableError as error:
        return _failed(error, HTTPStatus.SERVICE_UNAVAILABLE)


@sign_in_pages.get("/sign-in/callback", right=Right.PUBLIC)
def callback() -> Response:
    """Sign in the user that the provider sends back, and redirect to the page that was asked for."""
    access = current_auth()
    try:
        with _place():
            tokens, back = access.provider.tokens_of_return()
            answer = access.begin(tokens, redirect_to(safe_redirect(back)))
    except (ProviderUnreachableError, TokenUncheckedError) as error:
        return _failed(error, HTTPStatus.SERVICE_UNAVAILABLE)
    except (SignInRefusedError, TokenRefusedError) as error:
        audit_as(FAILED_SIGN_IN, "")
        audit_details(reason=error)
        return _failed(error, HTTPStatus.FORBIDDEN)
    audit_as(SIGN_IN, current_identity().name)
    return answer


@contextmanager
def _place() -> Iterator[None]:
    """Hold one of the places for requests that wait for the provider: anyone can send them, and it may not answer."""
    with current_backend().bulkheads.sign_ins.place() as may_ask:
        if not may_ask:
            raise ProviderUnreachableError("too many sign-ins wait for the provider: try again in a few seconds")
        yield


def _failed(error: Exception, status: HTTPStatus) -> Response:
    _log.warning("a sign-in failed: %s", error)
    answer = make_response(render_template("accounts/signed_out.html", fault=sentence(str(error))), status)
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


@sign_in_pages.post("/sign-out", right=Right.PUBLIC, audit="sign-out")
def sign_out() -> Response:
    """Sign out here and at the provider; without a session, too."""
    return signed_out()


def signed_out(told: str = "") -> Response:
    """End the session of the current request; show that, and let the browser go to the provider's sign-out.

    By the header Refresh, since the policy of our pages lets no form lead to another site, also by a redirect.
    """
    access, message, address = current_auth(), MESSAGES.get(told), None
    answer = access.end(make_response())  # first: the provider may take long, and the page must show no user
    try:
        address = access.provider.sign_out_address(url_for("sign_in.signed_out_page", _external=True))
    except ProviderUnreachableError as error:
        _log.warning("a user is signed out only here: %s", error)
        message = NOT_AT_PROVIDER
    answer.set_data(render_template("accounts/signed_out.html", message=message))
    if address is not None:
        answer.headers["Refresh"] = f"0; url={address}"
    # The next user of this browser must not see cached thumbnails.
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


@sign_in_pages.get("/signed-out", right=Right.PUBLIC)
def signed_out_page() -> Response:
    """Show that the user is signed out, after the provider has ended the session there."""
    return make_response(render_template("accounts/signed_out.html"))


def redirect_to(address: str) -> Response:
    """Redirect the browser to another page, which it requests by GET."""
    return make_response(redirect(address, 303))


def next_path() -> str:
    """Return the path to continue with after the sign-in: a path of this site."""
    return safe_redirect(request.values.get("next", FIRST_PAGE))


def sentence(text: str) -> str:
    """Return an error message with a capital letter and a full stop."""
    closed = text if text.endswith((".", "!", "?")) else f"{text}."
    return capitalised(closed)
