"""For nginx: whether the sender of a request is known, asked before nginx reads the request's body."""

from flask import Blueprint
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Unauthorized

from web_tier.access.identity import known_identity

admission = Blueprint("admission", __name__)


@admission.get("/internal/admission")
def may_send() -> ResponseReturnValue:
    """Answer 204 if the sender is signed in, or if there is no sign-in; else 401."""
    if known_identity() is None:
        raise Unauthorized("sign in, or send a token in the Authorization header (Bearer TOKEN)")
    return "", 204
