"""Rate limits: they count each request but those for static files and health, for its user or else its address.

The sender is known before the request is counted, so a flood from an address, also one of invalid tokens, does not
stop the address's signed-in users. Attempts to sign in have lower limits. Wrong guesses of other people do not lock
an account's owner out:

- a device on which the account has signed in before has a limit of its own (`web_tier.access.known_device`);
- once an account's limit is reached, each address has one more attempt in the minute;
- each form has its own limit for an account, so guessed passwords do not block the mailed codes;
- codes of a second factor have a low limit in an hour, from everywhere, and count only after the right password;
- an attempt that succeeds is taken off again.
"""

from typing import Final

from flask import Flask, Response, g, request
from werkzeug.exceptions import TooManyRequests

from web_tier.access.access import current_access
from web_tier.access.identity import known_identity
from web_tier.access.known_device import known_device
from web_tier.limits.callers import account_called, address, caller
from web_tier.limits.current import Limiting, current_limiting
from web_tier.limits.rates import Kind

FREE: Final = frozenset(
    {
        "static",
        "bootstrap.static",
        "health.alive",
        "health.ready",
        "health_v1.alive",
        "health_v1.ready",
        "admission.may_send",  # nginx asks it about a request that is counted itself
    }
)
"""Endpoints with requests that are not counted."""

_BY_USER: Final = frozenset(
    f"accounts.{name}"
    for name in ("second_factor", "confirm_second_factor", "turn_off_second_factor", "new_recovery_codes")
)
"""Endpoints at which signed-in users prove once more who they are."""

_TRIES_WHAT: Final = {"accounts.recovery": "accounts.sign_in"}
"""Endpoints that try the same as another one, a password: they share its attempts."""

PROOFS: Final = _BY_USER | {f"accounts.{name}" for name in ("sign_in", "new_password", "code", "recovery", "reset")}
"""Endpoints at which passwords and codes are tried."""

ATTEMPTS: Final = PROOFS | {"accounts.sign_up", "accounts.forgot"}
"""These, and the endpoints that have a mail sent."""


def limit_requests(app: Flask, limiting: Limiting) -> None:
    """Refuse, with 429, the requests that are more than `limiting` allows in a minute."""
    if limiting.holds:
        app.before_request(lambda: _count_request(limiting))
        app.after_request(lambda response: _forgive_success(limiting, response))


def _count_request(limiting: Limiting) -> None:
    if request.endpoint in FREE:
        return
    if request.endpoint in ATTEMPTS and request.method == "POST":
        _count_attempt(limiting, request.endpoint)
    _count(limiting, "request", caller(), limiting.requests)


def _count_attempt(limiting: Limiting, endpoint: str) -> None:
    identity = known_identity() if endpoint in _BY_USER else None
    email = request.form.get("email", "") if identity is None else identity.email
    account = f"{_TRIES_WHAT.get(endpoint, endpoint)} {account_called(email)}"
    device = known_device(current_access().sessions.keys, email) if current_access().signs_in else None
    if device is not None:
        _count(limiting, "attempt", f"{account} device {device}", limiting.attempts_on_an_account)
        return
    _count(limiting, "attempt", address(), limiting.attempts)
    if limiting.rates.count("attempt", account, limiting.attempts_on_an_account):
        _count(limiting, "attempt", f"{account} {address()}", 1)
    else:
        _remember("attempt", account, limiting.attempts_on_an_account)


def count_code(email: str) -> None:
    """Count a code of a second factor, before it is tried on an account, after the right password.

    Raises:
        TooManyRequests: there were too many in this hour.
    """
    limiting = current_limiting()
    if limiting.holds:
        device = known_device(current_access().sessions.keys, email, second_factor=True)
        account = account_called(email) if device is None else f"{account_called(email)} device {device}"
        _count(limiting, "code", account, limiting.attempts_on_an_account)


def _count(limiting: Limiting, kind: Kind, counted_for: str, limit: int) -> None:
    if seconds := limiting.rates.count(kind, counted_for, limit):
        raise TooManyRequests(
            f"more than {limit:,} {kind}s came in {'an hour' if kind == 'code' else 'a minute'}; "
            f"wait for {seconds} s, then go on slower",
            retry_after=seconds,
        )
    if kind != "request":
        _remember(kind, counted_for, limit)


def _remember(kind: Kind, counted_for: str, limit: int) -> None:
    g.setdefault("attempts", []).append((kind, counted_for, limit))


def _forgive_success(limiting: Limiting, response: Response) -> Response:
    """Take an attempt off again that proved who made it."""
    if request.endpoint in PROOFS and response.status_code < 400:
        for kind, counted_for, limit in g.get("attempts", []):
            limiting.rates.forgive(kind, counted_for, limit)
    return response
