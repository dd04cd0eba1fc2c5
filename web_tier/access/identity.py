"""Who the current request is from, once `web_tier.access.guard` has found out."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, cast

from flask import g

from services.accounts import OPERATORS


class Scope(StrEnum):
    """What a token may be used for."""

    CLASSIFY = "classify"
    READ = "read"
    OPERATE = "operate"


By = Literal["nothing", "session", "pool_token", "personal_token"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks.

    Attributes:
        owner: id of the user (the pool's `sub`), who owns jobs; empty where there is no sign-in.
        email: what the user is called on pages; may be empty.
        groups: of the user; every account of the pool is one of the users, in a group or not.
        scopes: of what they came with.
        by: what they came with.
    """

    owner: str
    email: str = ""
    groups: frozenset[str] = frozenset()
    scopes: frozenset[Scope] = frozenset(Scope)
    by: By = "nothing"

    @property
    def operates(self) -> bool:
        """Whether they may see and steer the fleet."""
        return OPERATORS in self.groups and Scope.OPERATE in self.scopes

    @property
    def is_local(self) -> bool:
        """Whether there is no sign-in, so that this is any client that reaches the page."""
        return not self.owner


LOCAL: Final = Identity("", groups=frozenset({OPERATORS}))
"""Everybody, where there is no sign-in."""


def set_identity(identity: Identity | None) -> None:
    """Let the current request be from `identity`; None is a stranger."""
    g.identity = identity


def known_identity() -> Identity | None:
    """Return who the current request is from, None for a stranger."""
    return cast(Identity | None, g.get("identity"))


def current_identity() -> Identity:
    """Return who the current request is from; only where `web_tier.access.rights` lets no stranger in."""
    identity = known_identity()
    if identity is None:
        raise LookupError("a stranger came to a route that is for users: correct web_tier/access/rights.py")
    return identity


def scopes_named(names: Collection[str]) -> frozenset[Scope]:
    """Return the scopes of these names.

    Raises:
        ValueError: when there is none of a name.
    """
    return frozenset(Scope(name) for name in names)
