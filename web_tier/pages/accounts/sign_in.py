"""Signing in and out, and the first sign-in with a temporary password."""

from http import HTTPStatus
from typing import Final

from flask import Response, request, url_for
from flask.views import MethodView

from services.user_errors import UserPoolError, WrongCredentialsError
from services.users import NewPasswordWanted, PoolTokens
from web_tier.access.access import current_access
from web_tier.access.identity import known_identity
from web_tier.access.own_path import FIRST_PAGE
from web_tier.pages.accounts.show import asked_path, go_to, refuse, show, typed

TOLD: Final = {
    "out": "You are signed out.",
    "ended": "You were signed out meanwhile. Sign in to go on where you were.",
}
"""What the page may be asked to say, by the query parameter `told`."""

TO_GO_ON: Final = "Sign in to see the page that you asked for."

TOO_LATE: Final = (
    "That took longer than a few minutes. Sign in again with the temporary password. "
    "If it is refused, ask for another one."
)


class SignIn(MethodView):
    """The page that asks for e-mail and password."""

    def get(self) -> Response:
        """Show it; whoever is signed in goes on at once."""
        if known_identity() is not None:
            return go_to(asked_path())
        on_the_way = TO_GO_ON if asked_path() != FIRST_PAGE else None
        return show("sign_in", told=TOLD.get(request.args.get("told", ""), on_the_way))

    def post(self) -> Response:
        """Sign in, or ask for a new password first if the password was a temporary one."""
        try:
            outcome = current_access().pool.sign_in(typed("email"), typed("password"))
        except UserPoolError as error:
            return refuse("sign_in", error)
        if isinstance(outcome, NewPasswordWanted):
            return show("new_password", session=outcome.session)
        return _begun(outcome)


class NewPassword(MethodView):
    """The page on which a person with a temporary password chooses a password of their own."""

    def get(self) -> Response:
        """Lead to the sign-in, which alone leads here."""
        return go_to(url_for("accounts.sign_in"))

    def post(self) -> Response:
        """Set the password, and sign in with it."""
        session = typed("session")
        try:
            return _begun(current_access().pool.set_first_password(typed("email"), session, typed("password")))
        except WrongCredentialsError:
            return show("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=TOO_LATE)
        except UserPoolError as error:
            return refuse("new_password", error, session=session)


def sign_out() -> Response:
    """Sign out, also where nobody is signed in any more."""
    answer = current_access().end(go_to(url_for("accounts.sign_in", told="out")))
    # Pictures that the browser has kept are not for whoever sits down at it next.
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


def _begun(tokens: PoolTokens) -> Response:
    return current_access().begin(tokens, go_to(asked_path()))
