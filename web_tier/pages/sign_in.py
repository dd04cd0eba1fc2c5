"""Sign-in pages: sign-in and sign-out, sign-up, and passwords.

Besides the password, the user pool may ask for a new password or for a code of an authenticator app. No page shows
whether an address has an account. Sign-up sends a temporary password by mail and asks for none: a password that was
chosen here would count before the address is verified.
"""

import logging
from http import HTTPStatus
from typing import Final

from flask import Response, request, url_for
from flask.views import MethodView
from werkzeug.exceptions import NotFound

from services.table import CLOUD_ERRORS
from services.user_errors import UserPoolError, WrongCredentialsError, WrongSecondFactorError
from services.users import CodeRequired, NewPasswordRequired, PoolTokens, required_email
from web_tier.auth.audit import CODE_ASKED_FOR, FAILED_SIGN_IN, PASSWORD_RESET, SIGN_IN, audit_as
from web_tier.auth.context import current_auth
from web_tier.auth.devices import remember_device
from web_tier.auth.guard import FIRST_PAGE
from web_tier.auth.identity import current_identity, known_identity
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.rate_limits import count_code
from web_tier.http.routes import Attempt, Routes
from web_tier.pages.account import form_field, next_path, redirect_to, render_error, render_page

MESSAGES: Final = {
    "out": "You are signed out.",
    "ended": "You were signed out meanwhile. Sign in to continue where you were.",
    "changed": "Your new password is set. All sessions and personal tokens of your account have ended. Sign in.",
    "everywhere": "All sessions and personal tokens of your account have ended.",
}
"""Message of the page by the query parameter `told`."""

TO_GO_ON: Final = "Sign in to see the page that you asked for."

TOO_LATE: Final = (
    "That took longer than a few minutes. Sign in again with the temporary password. "
    "If it is refused, ask for another one."
)

CODE_CHALLENGE, PASSWORD_CHALLENGE = "challenge", "new password"
"""Purposes of the sealed value that the browser gets after the right password: account, and session of the pool.

So only a person who knows the password can try codes of an account, or exhaust its attempts, and an answer counts for
that account alone.
"""

CHALLENGE_SECONDS: Final = 15 * 60
"""Longest validity of such a session in Cognito (`AuthSessionValidity`)."""

CODE_TOO_LATE: Final = "That took longer than a few minutes. Sign in again."


INVITED: Final = (
    "Check your email for a temporary password, and sign in with it. An address with an account gets no email."
)


CODE_MAILED: Final = "If this address has an account, a code is on its way. It holds for an hour."

NOT_ENDED: Final = (
    "Your new password is set, but sessions and personal tokens of your account could not be ended. "
    "Ask for another code, and set the password once more."
)

_log = logging.getLogger(__name__)


sign_in_pages = Routes("sign_in", needs_sign_in=True)


@sign_in_pages.view("/sign-in", "sign_in", right=Right.PUBLIC, attempt=Attempt.PASSWORD)
class SignInPage(MethodView):
    """The page that asks for e-mail and password."""

    def get(self) -> Response:
        """Show the form; redirect a user who has signed in already."""
        if known_identity() is not None:
            return redirect_to(next_path())
        default = TO_GO_ON if next_path() != FIRST_PAGE else None
        return render_page("sign_in", message=MESSAGES.get(request.args.get("told", ""), default))

    def post(self) -> Response:
        """Sign in, or show the form for what the pool requires besides the password."""
        try:
            outcome = current_auth().pool.sign_in(form_field("email"), form_field("password"))
        except UserPoolError as error:
            return render_error("sign_in", error)
        return continue_sign_in(outcome, form_field("email"))


@sign_in_pages.view("/new-password", "new_password", right=Right.PUBLIC, attempt=Attempt.CODE)
class NewPasswordPage(MethodView):
    """The page on which a user with a temporary password chooses a new one."""

    def get(self) -> Response:
        """Redirect to the sign-in: this page follows it."""
        return redirect_to(url_for("sign_in.sign_in"))

    def post(self) -> Response:
        """Set the password, and sign in with it."""
        challenge = _challenge(PASSWORD_CHALLENGE)
        if challenge is None:
            return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=TOO_LATE)
        email, session = challenge
        try:
            outcome = current_auth().pool.set_first_password(email, session, form_field("password"))
        except WrongCredentialsError:
            audit_as(FAILED_SIGN_IN, email)
            return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=TOO_LATE)
        except UserPoolError as error:
            return render_error("new_password", error, email=email, challenge=form_field("challenge"))
        return continue_sign_in(outcome, email)


@sign_in_pages.view("/sign-in/code", "code", right=Right.PUBLIC, attempt=Attempt.CODE)
class CodePage(MethodView):
    """The page on which a user with a second factor enters a code of the authenticator app."""

    def get(self) -> Response:
        """Redirect to the sign-in: this page follows it."""
        return redirect_to(url_for("sign_in.sign_in"))

    def post(self) -> Response:
        """Sign in with the code."""
        access, challenge = current_auth(), _challenge(CODE_CHALLENGE)
        if challenge is None:
            return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=CODE_TOO_LATE)
        email, session = challenge
        count_code(email)
        audit_as(FAILED_SIGN_IN, email)
        try:
            tokens = access.pool.answer_code(email, session, form_field("code"))
        except WrongSecondFactorError as error:
            return render_error("code", error, challenge=form_field("challenge"))
        except WrongCredentialsError:
            return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=CODE_TOO_LATE)
        except UserPoolError as error:
            return render_error("code", error, challenge=form_field("challenge"))
        return sign_in_with(tokens, redirect_to(next_path()), second_factor=True)


def _challenge(purpose: str) -> tuple[str, str] | None:
    """Return the account and the session of the pool that the form's challenge is for; None if it is not valid."""
    keys = current_auth().sessions.keys
    sealed = keys.unseal(form_field("challenge"), purpose, seconds=CHALLENGE_SECONDS)
    return None if sealed is None else (sealed[0], sealed[1])


def continue_sign_in(outcome: PoolTokens | NewPasswordRequired | CodeRequired, email: str) -> Response:
    """Sign in, or show the form for what the pool requires besides the password of `email`, which it has accepted."""
    keys = current_auth().sessions.keys
    match outcome:
        case NewPasswordRequired():
            challenge = keys.seal(PASSWORD_CHALLENGE, email, outcome.session)
            return render_page("new_password", email=email, challenge=challenge)
        case CodeRequired():
            audit_as(CODE_ASKED_FOR, email)
            return render_page("code", challenge=keys.seal(CODE_CHALLENGE, email, outcome.session))
        case PoolTokens():
            return sign_in_with(outcome, redirect_to(next_path()))


def sign_in_with(
    tokens: PoolTokens, answer: Response, *, second_factor: bool = False, action: str = SIGN_IN
) -> Response:
    """Sign in the user of new tokens, let `answer` have the cookie, and record the `action`."""
    answer = current_auth().begin(tokens, answer, second_factor=second_factor)
    audit_as(action, current_identity().email)
    return answer


@sign_in_pages.post("/sign-out", right=Right.PUBLIC, audit="sign-out")
def sign_out() -> Response:
    """Sign out; without a session, too."""
    answer = current_auth().end(redirect_to(url_for("sign_in.sign_in", told="out")))
    # The next user of this browser must not see cached thumbnails.
    answer.headers["Clear-Site-Data"] = '"cache", "storage"'
    return answer


@sign_in_pages.view("/sign-up", "sign_up", right=Right.PUBLIC, attempt=Attempt.MAIL)
class SignUpPage(MethodView):
    """The page that creates an account; 404 if `auth.sign_up` is false."""

    def get(self) -> Response:
        """Show the form."""
        _require_sign_up()
        return render_page("sign_up")

    def post(self) -> Response:
        """Let the pool mail a temporary password, and show the sign-in."""
        _require_sign_up()
        try:
            current_auth().pool.invite(form_field("email"))
        except UserPoolError as error:
            return render_error("sign_up", error)
        return render_page("sign_in", message=INVITED)


def _require_sign_up() -> None:
    if not current_backend().config.auth.sign_up:
        raise NotFound


@sign_in_pages.view("/forgot", "forgot", right=Right.PUBLIC, attempt=Attempt.MAIL)
class ForgotPasswordPage(MethodView):
    """The page that requests a code for a new password."""

    def get(self) -> Response:
        """Show the form."""
        return render_page("forgot")

    def post(self) -> Response:
        """Let the pool mail a code, and show the form for it, whether or not the account exists."""
        try:
            current_auth().pool.send_reset_code(required_email(form_field("email")))
        except UserPoolError as error:
            return render_error("forgot", error)
        return render_page("reset", message=CODE_MAILED)


@sign_in_pages.view("/reset", "reset", right=Right.PUBLIC, attempt=Attempt.CODE)
class ResetPasswordPage(MethodView):
    """The page that sets a new password with the code."""

    def get(self) -> Response:
        """Show the form."""
        return render_page("reset")

    def post(self) -> Response:
        """Set the password, end all sessions and tokens of the account, and show the sign-in."""
        access = current_auth()
        try:
            owner = access.pool.reset_password(form_field("email"), form_field("code"), form_field("password"))
        except UserPoolError as error:
            return render_error("reset", error)
        audit_as(PASSWORD_RESET, form_field("email"))  # the pool has checked the code of this account
        try:
            access.end_all_of(owner)
        except CLOUD_ERRORS as error:
            _log.error("could not end sessions and personal tokens of %s after a password reset: %s", owner, error)
            return render_page("forgot", status=HTTPStatus.SERVICE_UNAVAILABLE, fault=NOT_ENDED)
        answer = render_page("sign_in", message=MESSAGES["changed"])
        remember_device(access.sessions.keys, form_field("email"), answer)
        return answer
