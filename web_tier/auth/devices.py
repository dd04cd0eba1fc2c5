"""Device cookies: other people's guesses do not lock an account's owner out on a device that has signed in before.

The protocol is OWASP's: a signed cookie names a device and one account. Attempts from a known device have their own
limit, and so do attempts from all other devices
(https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies). The cookie signs no user in.
It states whether the sign-in included a code of an authenticator app: only such a device has its own limit for codes.
"""

from datetime import timedelta
from typing import Final

from flask import request
from werkzeug.wrappers import Response

from services.users import normalise_email
from web_tier.auth.session_keys import MAX_COOKIE_CHARACTERS, SessionKeys

DEVICE_COOKIE: Final = "__Host-fleetsight-device"

DEVICE_LIFETIME: Final = timedelta(days=90)

_BROWSERS: Final = ("Edge", "Firefox", "Chrome", "Safari")
"""Edge, which writes itself as Edg, states Chrome and Safari as well, and Chrome states Safari."""
_SYSTEMS: Final = ("Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux")
"""An Android phone states Linux as well, an iPhone Mac OS."""

_DEVICE, _DEVICE_WITH_CODE = "device", "device with a code"


def remember_device(keys: SessionKeys, email: str, answer: Response, *, second_factor: bool = False) -> None:
    """Set a cookie in `answer` that makes the browser a known device of the account `email` only."""
    device = keys.random_id()
    value = (
        f"{device}.{keys.mac(_DEVICE_WITH_CODE if second_factor else _DEVICE, normalise_email(email) or '', device)}"
    )
    answer.set_cookie(DEVICE_COOKIE, value, max_age=DEVICE_LIFETIME, secure=True, httponly=True, samesite="Lax")


def describe_device() -> str:
    """Return what the user of the current request knows its device by, such as `Firefox, Linux, 192.0.2.7`.

    The browser states the first two, and may state anything: only known names are taken.
    """
    stated = request.headers.get("User-Agent", "").replace("Edg/", "Edge/")
    browser = next((name for name in _BROWSERS if name in stated), "another browser")
    system = next((name for name in _SYSTEMS if name in stated), "another system")
    return f"{browser}, {system}, {request.remote_addr}"


def known_device(keys: SessionKeys, email: str, *, second_factor: bool = False) -> str | None:
    """Return the id of the device that sent the current request, or None if it is unknown to the account `email`.

    With `second_factor`, the device must have signed in with a code.
    """
    cookie, name = request.cookies.get(DEVICE_COOKIE, ""), normalise_email(email)
    if name is None or len(cookie) > MAX_COOKIE_CHARACTERS:
        return None
    device, _, code = cookie.partition(".")
    purposes = (_DEVICE_WITH_CODE,) if second_factor else (_DEVICE_WITH_CODE, _DEVICE)
    return device if any(keys.verify(code, purpose, name, device) for purpose in purposes) else None
