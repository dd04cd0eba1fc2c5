"""A forgotten password: a code by mail, and a new one. Nothing here tells whether an address has an account."""

from typing import Final

from flask import Response
from flask.views import MethodView

from services.user_errors import UserPoolError
from services.users import required_email
from web_tier.access.access import current_access
from web_tier.pages.accounts.show import refuse, show, typed

CODE_MAILED: Final = "If this address has an account, a code is on its way. It holds for an hour."
CHANGED: Final = "Your new password is set. Sign in with it."


class Forgot(MethodView):
    """The page that asks for a code."""

    def get(self) -> Response:
        """Show it."""
        return show("forgot")

    def post(self) -> Response:
        """Have a code mailed, and go on to where it is asked for, whether or not there is such an account."""
        try:
            current_access().pool.forget_password(required_email(typed("email")))
        except UserPoolError as error:
            return refuse("forgot", error)
        return show("reset", told=CODE_MAILED)


class Reset(MethodView):
    """The page that takes the code and the new password."""

    def get(self) -> Response:
        """Show it."""
        return show("reset")

    def post(self) -> Response:
        """Set the password, and go on to the sign-in."""
        try:
            current_access().pool.reset_password(typed("email"), typed("code"), typed("password"))
        except UserPoolError as error:
            return refuse("reset", error)
        return show("sign_in", told=CHANGED)
