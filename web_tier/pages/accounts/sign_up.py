"""Sign-up: a temporary password by mail. Nothing here tells whether an address has an account.

The page asks for no password. A password that was chosen here would count before its address is proven.
"""

from typing import Final

from flask import Response
from flask.views import MethodView
from werkzeug.exceptions import NotFound

from services.user_errors import UserPoolError
from web_tier.auth.context import current_auth
from web_tier.backend import current_backend
from web_tier.pages.accounts.show import refuse, show, typed

INVITED: Final = (
    "If this address can have a new account, a temporary password is on its way to it. Sign in with that password."
)


class SignUp(MethodView):
    """The page that creates an account; absent where `auth.sign_up` is false."""

    def get(self) -> Response:
        """Show the form."""
        _check_open()
        return show("sign_up")

    def post(self) -> Response:
        """Have a temporary password mailed, and go on to the sign-in."""
        _check_open()
        try:
            current_auth().pool.invite(typed("email"))
        except UserPoolError as error:
            return refuse("sign_up", error)
        return show("sign_in", told=INVITED)


def _check_open() -> None:
    if not current_backend().config.auth.sign_up:
        raise NotFound
