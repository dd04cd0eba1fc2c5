"""For nginx: whether the sender of a request is known, asked before nginx reads the request's body."""

from flask import Blueprint
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden, Unauthorized

from web_tier.auth.identity import known_identity
from web_tier.auth.permissions import lacks_second_factor

admission = Blueprint("admission", __name__)


@admission.get("/internal/admission")
def may_send() -> ResponseReturnValue:
    """Answer 204 if the sender is signed in, or if there is no sign-in; else 401, or 403 without a second factor."""
    identity = known_identity()
    if identity is None:
        raise Unauthorized("sign in, or send a token in the Authorization header (Bearer TOKEN)")
    if lacks_second_factor(identity):
        raise Forbidden("this site requires a second factor of you")
    return "", 204
