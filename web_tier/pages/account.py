"""The account page with personal tokens, and the visitor, shown on every page."""

import json
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from flask import Response, jsonify, make_response, render_template, request, url_for
from werkzeug.exceptions import Forbidden

from core.credentials import Scope, TokenNotMadeError
from web_tier.api.schemas import JobBody
from web_tier.auth.audit import ACCOUNT_DELETED, audit_as, audit_details
from web_tier.auth.context import current_auth, signs_in
from web_tier.auth.guard import csrf_token
from web_tier.auth.identity import Identity, current_family, current_identity, known_identity, known_session
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.rate_limits import remaining_quota
from web_tier.http.routes import Routes
from web_tier.pages.sign_in import redirect_to, sentence, signed_out

account_pages = Routes("accounts", needs_sign_in=True)


SCOPE_TEXTS: Final = {
    Scope.CLASSIFY: "send images, and change or delete jobs",
    Scope.READ: "see jobs and results",
    Scope.OPERATE: "view and manage the fleet",
}
"""What a token with a scope may be used for."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The user who requests a page.

    Attributes:
        signs_in: whether the deployment has sign-in.
        signed_in: whether the user has signed in.
        name: the user's address, or else their id.
        operates: whether the user may view and manage the fleet.
        is_known: False on a static page: its script requests the visitor.
    """

    signs_in: bool
    signed_in: bool
    name: str = ""
    operates: bool = False
    is_known: bool = True


UNKNOWN = Visitor(signs_in=True, signed_in=False, is_known=False)
"""The visitor of a static page in a deployment with sign-in: the page's script requests the visitor."""


def visitor() -> Visitor:
    """Return the visitor of the current request."""
    identity, has_sign_in = known_identity(), signs_in()
    has_just_ended = identity is not None and identity.by == "session" and known_session() is None
    if identity is None or identity.by == "link" or has_just_ended:
        return Visitor(has_sign_in, False)
    return Visitor(has_sign_in, not identity.is_local, identity.name, identity.operates)


@account_pages.get("/account/visitor", right=Right.PUBLIC)
def visitor_now() -> Response:
    """Return the visitor of a static page for its script, with the CSRF token of the sign-out form."""
    who = visitor()
    return jsonify(signed_in=who.signed_in, name=who.name, operates=who.operates, csrf_token=csrf_token())


@account_pages.get("/account", right=Right.ACCOUNT)
def account() -> Response:
    """Show the account of the user and their personal tokens."""
    return _account_page()


def _account_page(status: HTTPStatus = HTTPStatus.OK, **context: Any) -> Response:
    identity = current_identity()
    context |= {
        "identity": identity,
        "is_fresh": identity.has_just_signed_in(current_auth().sessions.clock.epoch_seconds()),
        "tokens": current_auth().personal_tokens.list(identity.owner),
        "scopes": _grantable_scopes(identity),
        "left": remaining_quota(identity.owner),
    }
    return make_response(render_template("accounts/account.html", **context), status)


def _fresh_identity() -> Identity:
    """Return the current user, who has signed in within the last minutes: a session may be that of an open browser.

    Raises:
        Forbidden: the sign-in was earlier.
    """
    identity = current_identity()
    if not identity.has_just_signed_in(current_auth().sessions.clock.epoch_seconds()):
        raise Forbidden("this needs a fresh sign-in: sign in again on your account page, then repeat it")
    return identity


@account_pages.get("/account/data", right=Right.ACCOUNT)
def export() -> Response:
    """Return the user's data as a file: account, tokens, and jobs with links to images and results."""
    who, access = current_identity(), current_auth()
    data = {
        "account": {"id": who.owner, "email": who.email, "is_operator": who.is_operator},
        "tokens": [
            {"name": each.name, "scopes": sorted(each.scopes), "created": each.created_at, "expires": each.expires_at}
            for each in access.personal_tokens.list(who.owner)
        ],
        "jobs": [JobBody.from_job(job).model_dump(mode="json") for jobs in user_jobs().pages() for job in jobs],
    }
    answer = Response(json.dumps(data, default=datetime.isoformat, indent=1), mimetype="application/json")
    answer.headers.set("Content-Disposition", "attachment", filename="fleetsight-data.json")
    return answer


@account_pages.post("/account/delete", right=Right.CREDENTIALS)
def delete() -> Response:
    """Delete the user's credentials here, and then their jobs, so that a failed deletion can be repeated."""
    who = _fresh_identity()
    current_auth().revocations.delete_all_of(who.owner)
    user_jobs().delete_all()
    audit_as(ACCOUNT_DELETED, who.name)
    return signed_out("deleted")


@account_pages.post("/account/sessions/end", right=Right.CREDENTIALS, audit="sign-out everywhere")
def sign_out_everywhere() -> Response:
    """End all sessions and tokens of the user, this session too."""
    current_auth().revocations.revoke_all_of(current_identity().owner)
    return signed_out("everywhere")


@account_pages.post("/account/tokens", right=Right.CREDENTIALS, audit="token created")
def make_token() -> Response:
    """Create a token and show it once; the sign-in is fresh, since a token outlives a session by months."""
    who = _fresh_identity()
    scopes = [scope for scope in _grantable_scopes(who) if scope in request.form.getlist("scopes")]
    days = request.form.get("days", type=int) or 0
    try:
        text, token = current_auth().personal_tokens.make(
            who.owner, who.email, request.form.get("name", ""), scopes, days, who.signed_in, current_family()
        )
    except TokenNotMadeError as error:
        return _account_page(HTTPStatus.UNPROCESSABLE_ENTITY, fault=sentence(str(error)))
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return _account_page(HTTPStatus.CREATED, made=text)


@account_pages.post("/account/tokens/<token_id>/revoke", right=Right.ACCOUNT, audit="token revoked")
def revoke_token(token_id: str) -> Response:
    """Revoke a token and redirect to the list."""
    current_auth().personal_tokens.revoke(current_identity().owner, token_id)
    return redirect_to(url_for("accounts.account"))


def _grantable_scopes(identity: Identity) -> dict[Scope, str]:
    return {scope: text for scope, text in SCOPE_TEXTS.items() if scope is not Scope.OPERATE or identity.operates}
