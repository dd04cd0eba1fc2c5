"""Personal tokens by the API: signed-in users list, make and revoke their own; a personal token cannot."""

from flask import Blueprint, Response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden, UnprocessableEntity

from core.credentials import TokenNotMadeError
from web_tier.api.exchange import from_body, json_answer
from web_tier.api.models import ROOT, CreateToken, NewTokenBody, TokenBody, TokensBody
from web_tier.audit import audit_details
from web_tier.auth.context import current_auth
from web_tier.auth.identity import Scope, current_identity
from web_tier.parameters import known_id

EXAMPLE = '{"name": "nightly", "scopes": ["classify", "read"], "days": 90}'

tokens_api = Blueprint("tokens_api", __name__)


@tokens_api.get("/tokens")
def list_tokens() -> Response:
    """List one's tokens, newest first."""
    tokens = current_auth().personal_tokens.list(current_identity().owner)
    return json_answer(TokensBody(tokens=tuple(TokenBody.of(token) for token in tokens)))


@tokens_api.post("/tokens")
def make_token() -> ResponseReturnValue:
    """Make a token, and tell its text, this once."""
    who, wanted = current_identity(), from_body(CreateToken, EXAMPLE, may_be_empty=False)
    if Scope.OPERATE in wanted.scopes and not who.operates:
        raise Forbidden("only operators can make a token with the scope operate; leave it out")
    try:
        text, token = current_auth().personal_tokens.make(
            who.owner, who.email, wanted.name, wanted.scopes, wanted.days
        )
    except TokenNotMadeError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return json_answer(NewTokenBody.of_new(token, text), 201), {"Location": f"{ROOT}/tokens/{token.token_id}"}


@tokens_api.delete("/tokens/<token_id>")
def revoke_token(token_id: str) -> ResponseReturnValue:
    """Let a token never be taken again."""
    current_auth().personal_tokens.revoke(current_identity().owner, known_id("token", token_id))
    return "", 204
