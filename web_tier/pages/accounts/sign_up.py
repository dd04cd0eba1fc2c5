"""Making an account, and confirming its address. Nothing here tells whether an address has an account."""

from contextlib import suppress
from typing import Final

from flask import Response
from flask.views import MethodView
from werkzeug.exceptions import NotFound

from services.user_errors import EmailTakenError, UserPoolError
from services.users import required_email
from web_tier.access.access import current_access
from web_tier.backend import current_backend
from web_tier.pages.accounts.show import refuse, show, typed

CODE_MAILED: Final = "If this address can have a new account, a code to confirm it is on its way."
CODE_MAILED_AGAIN: Final = "If this address waits to be confirmed, another code is on its way."
CONFIRMED: Final = "Your address is confirmed. Sign in with your password."


class SignUp(MethodView):
    """The page that makes an account; there is none where ops make them."""

    def get(self) -> Response:
        """Show it."""
        _check_open()
        return show("sign_up")

    def post(self) -> Response:
        """Make the account; for an address that has one, seem to."""
        _check_open()
        try:
            with suppress(EmailTakenError):
                current_access().pool.sign_up(typed("email"), typed("password"))
        except UserPoolError as error:
            return refuse("sign_up", error)
        return show("confirm", told=CODE_MAILED)


class Confirm(MethodView):
    """The page that takes the code from the mail."""

    def get(self) -> Response:
        """Show it."""
        return show("confirm")

    def post(self) -> Response:
        """Confirm the address, and go on to the sign-in."""
        try:
            current_access().pool.confirm(typed("email"), typed("code"))
        except UserPoolError as error:
            return refuse("confirm", error)
        return show("sign_in", told=CONFIRMED)


def send_code() -> Response:
    """Send the code again, and say the same whether or not there is anybody to send it to."""
    try:
        current_access().pool.send_code_again(required_email(typed("email")))
    except UserPoolError as error:
        return refuse("confirm", error)
    return show("confirm", told=CODE_MAILED_AGAIN)


def _check_open() -> None:
    if not current_backend().config.auth.sign_up:
        raise NotFound
