"""The identity and the session of the current request, which `web_tier.auth.guard` sets."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Literal, cast

from flask import g

from core.credentials import Scope
from web_tier.auth.sessions import OpenSession

FRESH_SECONDS: Final = 5 * 60
"""Seconds after a sign-in during which a credential may make a personal token."""

Credential = Literal["nothing", "session", "provider_token", "personal_token", "link"]


@dataclass(frozen=True, slots=True)
class Identity:
    """The sender of a request.

    Attributes:
        owner: id of the user, who owns jobs; empty without sign-in.
        email: of the user; may be empty.
        is_operator: whether the user is in the group of operators.
        signed_in: epoch seconds of the sign-in that the credential was made from.
    """

    owner: str
    email: str = ""
    is_operator: bool = False
    by: Credential = "nothing"
    signed_in: int = 0
    scopes: frozenset[Scope] = frozenset(Scope)

    @property
    def name(self) -> str:
        """The user's address, or else their id."""
        return self.email or self.owner

    @property
    def operates(self) -> bool:
        """Whether the user may view and manage the fleet."""
        return self.is_operator and Scope.OPERATE in self.scopes

    def has_just_signed_in(self, now: float) -> bool:
        """Return whether the credential is fresh enough to make another one; `now` is in epoch seconds."""
        return abs(now - self.signed_in) < FRESH_SECONDS

    @property
    def is_local(self) -> bool:
        """Whether there is no sign-in: the sender is any client that reaches the page."""
        return not self.owner


LOCAL: Final = Identity("", is_operator=True)
"""The identity of every sender without sign-in."""


VIEWER: Final = Identity("a link", scopes=frozenset(), by="link")
"""The identity of an anonymous sender who has a link's cookie: it owns nothing, and no account can have this id."""


def set_identity(identity: Identity | None) -> None:
    """Set the identity of the current request; None is an anonymous sender."""
    g.identity = identity


def known_identity() -> Identity | None:
    """Return the identity of the current request, or None for an anonymous sender."""
    return cast(Identity | None, g.get("identity"))


def current_identity() -> Identity:
    """Return the identity of the current request; only for routes that are not public."""
    identity = known_identity()
    if identity is None:
        raise LookupError("an anonymous request reached a route for users: correct web_tier/auth/permissions.py")
    return identity


def scopes_named(names: Collection[str]) -> frozenset[Scope]:
    """Return the scopes with these names.

    Raises:
        ValueError: a scope does not exist.
    """
    return frozenset(Scope(name) for name in names)


def set_session(opened: OpenSession | None) -> None:
    """Set the session of the current request."""
    g.session = opened


def known_session() -> OpenSession | None:
    """Return the session of the current request, or None if it was not authenticated by a session."""
    return cast(OpenSession | None, g.get("session"))


def current_family() -> str:
    """Return what identifies the session of the current request under all its ids; empty without a session."""
    session = known_session()
    return session.record.family if session else ""
