"""Devices on which an account has signed in before, so that other people's guesses do not lock its owner out there.

The protocol is OWASP's device cookies: a signed cookie names a device and one account. Attempts from a device that
the account knows have a limit of their own, and so do attempts from all others
(https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies). The cookie signs no user in.
It says whether that sign-in took a code of an authenticator app: only such a device has a limit of its own for codes.
"""

from datetime import timedelta
from typing import Final

from flask import request
from werkzeug.wrappers import Response

from services.users import email_of
from web_tier.access.keys import SessionKeys

DEVICE_COOKIE: Final = "__Host-fleetsight-device"
DEVICE_LIFETIME: Final = timedelta(days=90)
MAX_COOKIE_CHARACTERS: Final = 200
"""Of a cookie that is looked at; ours have 87."""

_DEVICE, _DEVICE_WITH_CODE = "device", "device with a code"


def remember_device(keys: SessionKeys, email: str, answer: Response, *, second_factor: bool = False) -> None:
    """Let the browser of the current request be a known device of the account `email`, and of no other one."""
    device = keys.random_id()
    value = f"{device}.{keys.token(_DEVICE_WITH_CODE if second_factor else _DEVICE, email_of(email) or '', device)}"
    answer.set_cookie(DEVICE_COOKIE, value, max_age=DEVICE_LIFETIME, secure=True, httponly=True, samesite="Lax")


def known_device(keys: SessionKeys, email: str, *, second_factor: bool = False) -> str | None:
    """Return the id of the device that sent the current request; None if the account `email` does not know it.

    With `second_factor` it must have signed in with a code.
    """
    cookie, name = request.cookies.get(DEVICE_COOKIE, ""), email_of(email)
    if name is None or len(cookie) > MAX_COOKIE_CHARACTERS:
        return None
    device, _, code = cookie.partition(".")
    purposes = (_DEVICE_WITH_CODE,) if second_factor else (_DEVICE_WITH_CODE, _DEVICE)
    return device if any(keys.knows(code, purpose, name, device) for purpose in purposes) else None
