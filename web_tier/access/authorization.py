"""The `Authorization` header (RFC 6750, section 2.1): a token of the user pool, or a personal one."""

import re
from typing import Final

from core.personal_tokens import PREFIX
from core.tokens import TokenRefusedError, TokenUncheckedError
from web_tier.access.access import Access
from web_tier.access.identity import Identity, scopes_named

MAX_CHARACTERS: Final = 8_192
"""Of a header that is looked at; a token of the pool has some 1,100, and more with many groups."""

# The form of a token as RFC 6750 has it, alone or after the scheme. Two headers of the name reach us as one with a
# comma, which no token has.
_FORM = re.compile(r"(?:bearer +)?([a-z0-9._~+/-]+=*)", re.ASCII | re.IGNORECASE)


class RefusedError(Exception):
    """Raised when a header does not sign a user in; the message is for the log and holds nothing of the token."""


def token_in(header: str) -> str:
    """Return the token in the header `Bearer TOKEN`, or `TOKEN` alone.

    Raises:
        RefusedError: when it is neither.
    """
    found = _FORM.fullmatch(header) if len(header) <= MAX_CHARACTERS else None
    if found is None:
        raise RefusedError("the header is not of the form Bearer TOKEN")
    return found[1]


def identity_by(header: str, access: Access) -> Identity:
    """Return who comes with this header.

    Raises:
        RefusedError: when the token is forged, expired, revoked, or of an account that may not come in.
        TokenUncheckedError: when the pool's keys cannot be had, so that the token cannot be checked.
    """
    token = token_in(header)
    return _by_personal_token(token, access) if token.startswith(PREFIX) else _by_pool_token(token, access)


def _by_pool_token(text: str, access: Access) -> Identity:
    try:
        claims = access.verifier.verify(text)
    except TokenUncheckedError:
        raise
    except TokenRefusedError as error:
        raise RefusedError(str(error)) from error
    return Identity(claims.sub, claims.email, claims.groups, by="pool_token")


def _by_personal_token(text: str, access: Access) -> Identity:
    token = access.personal_tokens.find(text)
    if token is None:
        raise RefusedError("there is no such personal token, or no longer")
    account = access.accounts.find(token.owner)
    if account is None:
        raise RefusedError(f"the account of the personal token {token.token_id} is disabled or deleted")
    return Identity(token.owner, account.email, account.groups, scopes_named(token.scopes), "personal_token")
