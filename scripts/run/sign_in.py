"""Sign-in on one machine: the settings of a provider, a key of sessions, and a token for the commands."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from core.credentials import PersonalTokens, Profile, Profiles, Revocations, Scope
from fleetsight_client.api import TOKEN_VARIABLE
from localcloud.access_keys import write_private
from localcloud.state.folder import SESSION_KEYS_FILE
from services.clock import epoch_seconds
from services.table import Table

CLIENT_ID, GROUPS_CLAIM, OPERATORS_GROUP = "fleetsight", "groups", "operators"
"""Names at the development provider, `scripts.run.provider`."""

OPERATOR: Final = "operator"
PEOPLE: Final = ("user", OPERATOR)
"""The `sub` of each person. The address is the same name at example.org, which cannot be registered (RFC 2606)."""

TOKEN_DAYS: Final = 1


def provider_settings(issuer: str, client_id: str) -> Mapping[str, str]:
    """Return the settings that have users sign in at the provider `issuer`."""
    return {
        "FLEETSIGHT__AUTH__MODE": "oidc",
        "FLEETSIGHT__AUTH__ISSUER": issuer,
        "FLEETSIGHT__AUTH__CLIENT_ID": client_id,
    }


def development_settings(issuer: str) -> Mapping[str, str]:
    """Return the settings for the development provider, at `issuer`."""
    return {
        **provider_settings(issuer, CLIENT_ID),
        "FLEETSIGHT__AUTH__GROUPS_CLAIM": GROUPS_CLAIM,
        "FLEETSIGHT__AUTH__OPERATORS_GROUP": OPERATORS_GROUP,
    }


def session_keys(folder: Path) -> Path:
    """Return the private file in `folder` with the key of sessions, which is made unless it exists."""
    keys = folder / SESSION_KEYS_FILE
    if not keys.exists():
        write_private(keys, secrets.token_urlsafe(48) + "\n")
    return keys


def operator_token(table: Table, owner: str = OPERATOR) -> str:
    """Return a new personal token of an operator, who need not have signed in; by default the local provider's."""
    email, tokens = f"{OPERATOR}@example.org", PersonalTokens(table, Revocations(table))
    Profiles(table).put(Profile(owner, email, is_verified=True, is_operator=True))
    text, _ = tokens.make(owner, email, "scripts/run.sh", list(Scope), TOKEN_DAYS, int(epoch_seconds()))
    return text


def sign_in_instructions(issuer: str, token: str | None) -> str:
    """Return how people sign in, and with the development provider's `token` how commands act as its operator."""
    if token is None:
        return f"People sign in at {issuer}. Commands need a personal token of the page Account."
    return (
        f"People sign in at the development provider {issuer}, which asks for no password: all who use this machine "
        f"can be its user or its operator.\nCommands act as the operator with: export {TOKEN_VARIABLE}={token}"
    )
