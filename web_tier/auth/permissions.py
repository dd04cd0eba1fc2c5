"""Permissions: the rights that routes require (`web_tier.http.routes`)."""

from enum import StrEnum

from core.credentials import Scope
from web_tier.auth.identity import Identity


class Right(StrEnum):
    """The right that a route requires.

    Attributes:
        PUBLIC: none; the sender need not be signed in.
        READ: users view their own jobs; a token needs the scope `read`.
        CLASSIFY: users send images and change their own jobs; a token needs the scope `classify`.
        ACCOUNT: users manage their account; personal tokens may not.
        CREDENTIALS: users end all of their credentials, or their data, in a session.
        OPERATE: operators manage the fleet; a token needs the scope `operate`.
    """

    PUBLIC = "public"
    READ = "read"
    CLASSIFY = "classify"
    ACCOUNT = "account"
    CREDENTIALS = "credentials"
    OPERATE = "operate"

    def is_granted_to(self, identity: Identity) -> bool:
        """Return whether a user has the right."""
        match self:
            case Right.PUBLIC:
                return True
            case Right.ACCOUNT:
                return identity.by in {"session", "provider_token"}
            case Right.CREDENTIALS:
                return identity.by == "session"
            case Right.OPERATE:
                return identity.operates
            case Right.READ | Right.CLASSIFY:
                return Scope(self.value) in identity.scopes
