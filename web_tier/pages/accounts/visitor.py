"""What every page's header says of the visitor."""

from dataclasses import dataclass

from flask import Response, jsonify

from web_tier.auth.browser import csrf_token
from web_tier.auth.context import current_auth
from web_tier.auth.identity import known_identity
from web_tier.backend import current_backend


@dataclass(frozen=True, slots=True)
class Visitor:
    """The user who looks at a page.

    Attributes:
        signs_in: whether there is a sign-in at all.
        signed_in: whether they have.
        email: what they are called.
        operates: whether they may see and steer the fleet.
        may_sign_up: whether they may make an account.
        is_known: False on a page that is a file: its script asks who looks at it.
    """

    signs_in: bool
    signed_in: bool
    email: str = ""
    operates: bool = False
    may_sign_up: bool = False
    is_known: bool = True


UNKNOWN = Visitor(signs_in=True, signed_in=False, is_known=False)
"""The visitor of a page that is a file, where people sign in: the page's script finds out who it is."""


def visitor() -> Visitor:
    """Return who looks at the page that the current request is for."""
    identity, signs_in = known_identity(), current_auth().signs_in
    may_sign_up = signs_in and current_backend().config.auth.sign_up
    if identity is None:
        return Visitor(signs_in, False, may_sign_up=may_sign_up)
    return Visitor(signs_in, not identity.is_local, identity.email, identity.operates, may_sign_up)


def visitor_now() -> Response:
    """Return who looks at a page that is a file, for its script; the token lets its form end the session."""
    found = visitor()
    return jsonify(signed_in=found.signed_in, email=found.email, operates=found.operates, csrf_token=csrf_token())
