"""A user's own page: who they are, and the personal tokens with which their programs call the API."""

from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

from flask import Response, request, url_for

from core.credentials import MAX_DAYS, TokenNotMadeError
from services.errors import FleetsightError
from web_tier.audit import audit_details
from web_tier.auth.context import current_auth
from web_tier.auth.identity import Identity, Scope, current_identity
from web_tier.pages.accounts.show import go_to, refuse, show, typed
from web_tier.rate_limits.limiter import remaining_quota

MEANINGS: Final = {
    Scope.CLASSIFY: "send images, and change or delete jobs",
    Scope.READ: "see jobs and results",
    Scope.OPERATE: "see and steer the fleet",
}
"""What a token with a scope may do, in words."""

MAX_DIGITS: Final = 6


class FieldError(FleetsightError):
    """Raised when a field of the form holds what it cannot; the message is for the user."""


def account() -> Response:
    """Show who is signed in, and their tokens."""
    return show("account", **_facts())


def make_token() -> Response:
    """Make a token and show it, this once."""
    who = current_identity()
    try:
        scopes, days = _scopes(who), _days()
        text, token = current_auth().personal_tokens.make(who.owner, who.email, typed("name"), scopes, days)
    except (FieldError, TokenNotMadeError) as error:
        return refuse("account", error, **_facts())
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return show("account", status=HTTPStatus.CREATED, made=text, **_facts())


def revoke_token(token_id: str) -> Response:
    """Revoke a token and go back to the others."""
    current_auth().personal_tokens.revoke(current_identity().owner, token_id)
    return go_to(url_for("accounts.account"))


def _facts() -> dict[str, Any]:
    identity = current_identity()
    account = current_auth().accounts.find(identity.owner)
    return {
        "identity": identity,
        "second_factor": account is not None and account.second_factor,
        "tokens": current_auth().personal_tokens.list(identity.owner),
        "scopes": _scopes_to_give(identity),
        "left": remaining_quota(identity.owner),
    }


def _scopes_to_give(identity: Identity) -> dict[Scope, str]:
    return {scope: words for scope, words in MEANINGS.items() if scope is not Scope.OPERATE or identity.operates}


def _scopes(identity: Identity) -> Collection[Scope]:
    offered = _scopes_to_give(identity)
    return [scope for scope in offered if scope in request.form.getlist("scopes")]


def _days() -> int:
    text = typed("days").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise FieldError(f"write after how many days the token expires: a whole number from 1 to {MAX_DAYS}")
    return int(text)
