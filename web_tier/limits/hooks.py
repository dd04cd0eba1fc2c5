"""Rate limits in front of every request but those for static files and health.

In two steps, with the guard between them: first what an address may, then what a user may. A request that comes with
nothing to know it by counts for its address, and so does one that is refused for what it came with: tokens that do
not hold like attempts to sign in, anything else like other requests.
"""

from typing import Final

from flask import Flask, Response, g, request
from werkzeug.exceptions import TooManyRequests

from web_tier.access.access import COOKIE
from web_tier.limits.callers import account_called, address, caller
from web_tier.limits.current import Limiting
from web_tier.limits.rates import Kind

FREE: Final = frozenset(
    {"static", "bootstrap.static", "health.alive", "health.ready", "health_v1.alive", "health_v1.ready"}
)
"""Endpoints whose requests are not counted."""

ATTEMPTS: Final = frozenset(
    f"accounts.{name}" for name in ("sign_in", "new_password", "sign_up", "confirm", "send_code", "forgot", "reset")
)
"""Endpoints at which passwords and codes are tried."""

_WORDS: Final[dict[Kind, str]] = {
    "request": "requests",
    "refused": "requests with an invalid session",
    "attempt": "attempts",
    "credential": "requests with an invalid token",
}


def limit_addresses(app: Flask, limiting: Limiting) -> None:
    """Bound what an address may, before anything is known of who asks."""
    if limiting.holds:
        app.before_request(lambda: _address_may(limiting))
        app.after_request(lambda response: _with_refusal_noted(limiting, response))


def limit_users(app: Flask, limiting: Limiting) -> None:
    """Bound what a user may, once the guard knows who asks."""
    if limiting.holds:
        app.before_request(lambda: _caller_may(limiting))


def _address_may(limiting: Limiting) -> None:
    if request.endpoint in FREE:
        return
    if request.endpoint in ATTEMPTS and request.method == "POST":
        _count_attempt(limiting)
    if "Authorization" in request.headers:
        _wait_for(limiting, "credential", limiting.attempts)
    elif COOKIE in request.cookies:
        _wait_for(limiting, "refused", limiting.requests)
    else:
        _count(limiting, "request", address(), limiting.requests)
        g.is_counted = True


def _caller_may(limiting: Limiting) -> None:
    if request.endpoint not in FREE and not g.get("is_counted"):
        _count(limiting, "request", caller(), limiting.requests)
        g.is_counted = True


def _with_refusal_noted(limiting: Limiting, response: Response) -> Response:
    """Count a request that did not get as far as being counted."""
    if request.endpoint not in FREE and not g.get("is_counted"):
        if response.status_code == 401 and "Authorization" in request.headers:
            limiting.rates.note("credential", address(), limiting.attempts)
        else:
            limiting.rates.note("refused", address(), limiting.requests)
    return response


def _count_attempt(limiting: Limiting) -> None:
    _count(limiting, "attempt", address(), limiting.attempts)
    if email := request.form.get("email"):
        _count(limiting, "attempt", account_called(email), limiting.attempts_on_an_account)


def _count(limiting: Limiting, kind: Kind, whose: str, most: int) -> None:
    _refuse(kind, most, limiting.rates.count(kind, whose, most))


def _wait_for(limiting: Limiting, kind: Kind, most: int) -> None:
    _refuse(kind, most, limiting.rates.wait(kind, address(), most))


def _refuse(kind: Kind, most: int, seconds: int) -> None:
    if seconds:
        g.is_counted = True
        raise TooManyRequests(
            f"more than {most:,} {_WORDS[kind]} came in a minute; wait for {seconds} s, then go on slower",
            retry_after=seconds,
        )
