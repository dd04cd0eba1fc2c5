"""Signing in and out: the password, and what the pool may ask for besides (a new password, a code of an app)."""

from http import HTTPStatus
from typing import Final

from flask import Response, request, url_for
from flask.views import MethodView

from services.user_errors import UserPoolError, WrongCredentialsError, WrongSecondFactorError
from services.users import CodeWanted, NewPasswordWanted, PoolTokens
from web_tier.audit import CODE_ASKED_FOR, FAILED_SIGN_IN, SIGN_IN, audit_as
from web_tier.auth.browser import FIRST_PAGE
from web_tier.auth.context import current_auth
from web_tier.auth.identity import known_identity
from web_tier.pages.accounts.show import asked_path, go_to, refuse, show, typed
from web_tier.rate_limits.limiter import count_code

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

CHALLENGE: Final = "challenge"
"""What is sealed for the browser once the password was right: the account, and the pool's session for its code.

So only a person who knows the password can try codes on an account, or use up its attempts.
"""

CHALLENGE_SECONDS: Final = 15 * 60
"""The longest that Cognito can be set to keep such a session (`AuthSessionValidity`)."""

CODE_TOO_LATE: Final = "That took longer than a few minutes. Sign in again."


class SignIn(MethodView):
    """The page that asks for e-mail and password."""

    def get(self) -> Response:
        """Show it; a signed-in user goes on at once."""
        if known_identity() is not None:
            return go_to(asked_path())
        on_the_way = TO_GO_ON if asked_path() != FIRST_PAGE else None
        return show("sign_in", told=TOLD.get(request.args.get("told", ""), on_the_way))

    def post(self) -> Response:
        """Sign in, or show what the pool asks for besides the password."""
        try:
            outcome = current_auth().pool.sign_in(typed("email"), typed("password"))
        except UserPoolError as error:
            return refuse("sign_in", error)
        return gone_on(outcome)


class NewPassword(MethodView):
    """The page on which a person with a temporary password chooses a password of their own."""

    def get(self) -> Response:
        """Lead to the sign-in, which alone leads here."""
        return go_to(url_for("accounts.sign_in"))

    def post(self) -> Response:
        """Set the password, and sign in with it."""
        session = typed("session")
        try:
            return gone_on(current_auth().pool.set_first_password(typed("email"), session, typed("password")))
        except WrongCredentialsError:
            return show("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=TOO_LATE)
        except UserPoolError as error:
            return refuse("new_password", error, session=session)


class Code(MethodView):
    """The page on which a user with a second factor gives a code of their authenticator app."""

    def get(self) -> Response:
        """Lead to the sign-in, which alone leads here."""
        return go_to(url_for("accounts.sign_in"))

    def post(self) -> Response:
        """Sign in with the code."""
        access = current_auth()
        challenge = access.sessions.keys.unseal(typed("challenge"), CHALLENGE, seconds=CHALLENGE_SECONDS)
        if challenge is None:
            return show("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=CODE_TOO_LATE)
        email, session = challenge
        count_code(email)
        audit_as(FAILED_SIGN_IN, email)
        try:
            tokens = access.pool.answer_code(email, session, typed("code"))
        except WrongSecondFactorError as error:
            return refuse("code", error, challenge=typed("challenge"))
        except WrongCredentialsError:
            return show("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=CODE_TOO_LATE)
        except UserPoolError as error:
            return refuse("code", error, challenge=typed("challenge"))
        audit_as(SIGN_IN, email)
        return access.begin(tokens, go_to(asked_path()), second_factor=True)


def gone_on(outcome: PoolTokens | NewPasswordWanted | CodeWanted) -> Response:
    """Sign in, or show the form for what the pool asks for besides."""
    match outcome:
        case NewPasswordWanted():
            return show("new_password", session=outcome.session)
        case CodeWanted():
            audit_as(CODE_ASKED_FOR, typed("email"))
            keys = current_auth().sessions.keys
            return show("code", challenge=keys.seal(CHALLENGE, typed("email"), outcome.session))
        case PoolTokens():
            return current_auth().begin(outcome, go_to(asked_path()))


def sign_out() -> Response:
    """Sign out, also without a user who is signed in."""
    answer = current_auth().end(go_to(url_for("accounts.sign_in", told="out")))
    # Pictures that the browser has kept are not for the next user of this browser.
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer
