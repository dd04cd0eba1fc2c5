"""What every page's header says of whoever looks at it."""

from dataclasses import dataclass

from web_tier.access.access import current_access
from web_tier.access.identity import known_identity
from web_tier.backend import current_backend


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever looks at a page.

    Attributes:
        signs_in: whether there is a sign-in at all.
        signed_in: whether they have.
        email: what they are called.
        operates: whether they may see and steer the fleet.
        may_sign_up: whether they may make an account.
    """

    signs_in: bool
    signed_in: bool
    email: str = ""
    operates: bool = False
    may_sign_up: bool = False


def visitor() -> Visitor:
    """Return who looks at the page that the current request is for."""
    identity, signs_in = known_identity(), current_access().signs_in
    may_sign_up = signs_in and current_backend().config.auth.sign_up
    if identity is None:
        return Visitor(signs_in, False, may_sign_up=may_sign_up)
    return Visitor(signs_in, not identity.is_local, identity.email, identity.operates, may_sign_up)
