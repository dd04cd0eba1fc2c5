"""A forgotten password: a code by mail, and a new one. Nothing here tells whether an address has an account."""

import logging
from http import HTTPStatus
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError
from flask import Response
from flask.views import MethodView

from services.table import TableBusyError
from services.user_errors import UserPoolError
from services.users import required_email
from web_tier.auth.context import current_auth
from web_tier.auth.session_keys import remember_device
from web_tier.pages.accounts.show import refuse, show, typed

CODE_MAILED: Final = "If this address has an account, a code is on its way. It holds for an hour."
CHANGED: Final = "Your new password is set. All sessions and personal tokens of your account have ended. Sign in."
NOT_ENDED: Final = (
    "Your new password is set, but sessions and personal tokens of your account could not be ended. "
    "Ask for another code, and set the password once more."
)

_log = logging.getLogger(__name__)


class Forgot(MethodView):
    """The page that asks for a code."""

    def get(self) -> Response:
        """Show it."""
        return show("forgot")

    def post(self) -> Response:
        """Have a code mailed, and go on to where it is asked for, whether or not there is such an account."""
        try:
            current_auth().pool.forget_password(required_email(typed("email")))
        except UserPoolError as error:
            return refuse("forgot", error)
        return show("reset", told=CODE_MAILED)


class Reset(MethodView):
    """The page that takes the code and the new password."""

    def get(self) -> Response:
        """Show it."""
        return show("reset")

    def post(self) -> Response:
        """Set the password, end what the old one has opened, and go on to the sign-in."""
        access = current_auth()
        try:
            owner = access.pool.reset_password(typed("email"), typed("code"), typed("password"))
        except UserPoolError as error:
            return refuse("reset", error)
        try:
            access.end_all_of(owner)
        except (BotoCoreError, ClientError, TableBusyError) as error:
            _log.error("sessions and personal tokens of %s were not ended after a new password: %s", owner, error)
            return show("forgot", status=HTTPStatus.SERVICE_UNAVAILABLE, fault=NOT_ENDED)
        answer = show("sign_in", told=CHANGED)
        remember_device(access.sessions.keys, typed("email"), answer)
        return answer
