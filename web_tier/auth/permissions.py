"""Permissions: the rights that routes require (`web_tier.http.routes`), and the users who need a second factor."""

from enum import StrEnum

from core.credentials import Scope
from services.accounts import OPERATORS
from web_tier.auth.identity import Identity
from web_tier.http.backend import current_backend


class Right(StrEnum):
    """The right that a route requires.

    Attributes:
        PUBLIC: none; the sender need not be signed in.
        READ: users view their own jobs; a token needs the scope `read`.
        CLASSIFY: users send images and change their own jobs; a token needs the scope `classify`.
        ACCOUNT: users manage their account; personal tokens may not.
        CREDENTIALS: users change what they sign in with, in a session, also while they lack a required second factor.
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
                return identity.by in {"session", "pool_token"}
            case Right.CREDENTIALS:
                return identity.by == "session"
            case Right.OPERATE:
                return identity.operates
            case Right.READ | Right.CLASSIFY:
                return Scope(self.value) in identity.scopes


def is_required_of(identity: Identity) -> bool:
    """Return whether the configuration requires a second factor of a user."""
    match current_backend().config.auth.require_second_factor:
        case "everyone":
            return not identity.is_local
        case "operators":
            return OPERATORS in identity.groups and not identity.is_local
        case "none":
            return False


def lacks_second_factor(identity: Identity) -> bool:
    """Return whether a second factor is required of a user, and their credential does not prove one.

    A credential proves one if the sign-in that it was made from did, and a token only while its account has one. So
    no token that was made from a password alone counts once its account has a second factor.
    """
    return is_required_of(identity) and not identity.second_factor
