"""Sign-in pages: sign-in and sign-out, sign-up, and passwords.

Besides the password, the user pool may ask for a new password or for a code of an authenticator app. No page shows
whether an address has an account. Sign-up mails a code. The password that is chosen there waits in the form,
encrypted, until the code is entered: otherwise it would count before the address is verified.
"""

import logging
from http import HTTPStatus
from typing import Final

from flask import Response, request, url_for
from flask.views import MethodView
from werkzeug.exceptions import NotFound

from services.table import CLOUD_ERRORS
from services.user_errors import UserPoolError
from services.users import CodeRequired, NewPasswordRequired, PoolTokens, check_new_password, required_email
from web_tier.auth.audit import CODE_ASKED_FOR, PASSWORD_RESET, SIGN_IN, audit_as
from web_tier.auth.context import current_auth
from web_tier.auth.devices import remember_device
from web_tier.auth.guard import FIRST_PAGE
from web_tier.auth.identity import current_identity, known_identity
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.routes import Attempt, Routes
from web_tier.pages.account import NOT_ENDED, form_field, next_path, redirect_to, render_error, render_page

MESSAGES: Final = {
    "out": "You are signed out.",
    "ended": "You were signed out meanwhile. Sign in to continue where you were.",
    "changed": "Your new password is set. All sessions and personal tokens of your account have ended. Sign in.",
    "deleted": "Your account and your jobs are deleted.",
    "everywhere": "All sessions and personal tokens of your account have ended.",
}
"""Message of the page by the query parameter `told`."""

TO_GO_ON: Final = "Sign in to see the page that you asked for."

TOO_LATE: Final = "That took too long. Sign in with the code of the mail or the temporary password, or start again."

CODE_CHALLENGE, PASSWORD_CHALLENGE, SIGN_UP_CHALLENGE = "code challenge", "new password", "sign-up"
"""Purposes of the sealed value in a form: the account, and what it has shown, or chosen at the sign-up.

So only a person who knows the password can try codes of an account, or exhaust its attempts, and an answer counts for
that account alone.
"""

CHALLENGE_SECONDS: Final = 15 * 60
"""Longest validity of such a session in Cognito (`AuthSessionValidity`)."""

SIGN_UP_SECONDS: Final = 60 * 60
"""Validity of the form in which the chosen password waits for the code."""

ANOTHER_CODE: Final = "The mail is sent once more. Only its new code is good."

CODE_MAILED: Final = "If this address has an account, a code is on its way. It holds for an hour."

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
        return continue_sign_in(outcome, form_field("email"), form_field("password"))


@sign_in_pages.view("/new-password", "new_password", right=Right.PUBLIC, attempt=Attempt.PASSWORD)
class FirstPasswordPage(MethodView):
    """The page on which a new user enters the mailed code, or a password in place of a temporary one."""

    def get(self) -> Response:
        """Redirect to the sign-in: this page follows it, or the sign-up."""
        return redirect_to(url_for("sign_in.sign_in"))

    def post(self) -> Response:
        """Set the first password, and sign in with it."""
        chosen, temporary = open_challenge(SIGN_UP_CHALLENGE, SIGN_UP_SECONDS), open_challenge(PASSWORD_CHALLENGE)
        email, sealed = chosen or temporary or ("", "")
        if not email or email != form_field("email"):  # attempts are counted by that
            return render_page("sign_in", status=HTTPStatus.UNAUTHORIZED, fault=TOO_LATE)
        code, password = (form_field("code"), sealed) if chosen else (sealed, form_field("password"))
        try:
            outcome = current_auth().pool.accept(email, code, password)
        except UserPoolError as error:
            return render_error(
                "new_password", error, email=email, challenge=form_field("challenge"), by_code=bool(chosen)
            )
        return continue_sign_in(outcome, email, password)


def open_challenge(purpose: str, seconds: int = CHALLENGE_SECONDS) -> list[str] | None:
    """Return what is sealed in the form's challenge for a purpose; None if it is not valid."""
    return current_auth().sessions.keys.unseal(form_field("challenge"), purpose, seconds=seconds)


def continue_sign_in(outcome: PoolTokens | NewPasswordRequired | CodeRequired, email: str, password: str) -> Response:
    """Sign in, or show the form for what the pool requires besides the password of `email`, which it has accepted."""
    keys = current_auth().sessions.keys
    match outcome:
        case NewPasswordRequired():
            challenge = keys.seal(PASSWORD_CHALLENGE, email, password)
            return render_page("new_password", email=email, challenge=challenge)
        case CodeRequired():
            audit_as(CODE_ASKED_FOR, email)
            return render_page("code", challenge=keys.seal(CODE_CHALLENGE, email, outcome.session, password))
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
    """The page that creates an account: address and password; 404 if `auth.sign_up` is false."""

    def get(self) -> Response:
        """Show the form."""
        _require_sign_up()
        return render_page("sign_up")

    def post(self) -> Response:
        """Let the pool mail a code, or another one, and show its form, whether or not the address has an account."""
        _require_sign_up()
        access, chosen = current_auth(), open_challenge(SIGN_UP_CHALLENGE, SIGN_UP_SECONDS)
        try:
            email = required_email(form_field("email"))
            password = chosen[1] if chosen and chosen[0] == email else form_field("password")
            check_new_password(password, email)
            access.pool.invite(email)
        except UserPoolError as error:
            return render_error("sign_up", error)
        challenge = access.sessions.keys.seal(SIGN_UP_CHALLENGE, email, password)
        message = ANOTHER_CODE if chosen else None
        return render_page("new_password", email=email, challenge=challenge, by_code=True, message=message)


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
