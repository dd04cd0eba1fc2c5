"""The account page with personal tokens, and what all account pages share: rendering, redirects, and the visitor."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

from flask import Response, jsonify, make_response, redirect, render_template, request, url_for
from flask.views import MethodView

from core.credentials import MAX_DAYS, Scope, TokenNotMadeError
from core.format import capitalised
from services.errors import FleetsightError
from services.table import CLOUD_ERRORS
from services.user_errors import PasswordResetError, TooManyAttemptsError, UserPoolError, WrongCredentialsError
from services.users import CodeRequired, PoolTokens
from web_tier.api.schemas import JobBody
from web_tier.auth.audit import ACCOUNT_DELETED, PASSWORD_CHANGED, audit_as, audit_details
from web_tier.auth.context import current_auth, signs_in
from web_tier.auth.guard import FIRST_PAGE, csrf_token, safe_redirect
from web_tier.auth.identity import Identity, current_identity, known_identity, known_session
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.rate_limits import count_code, remaining_quota
from web_tier.http.routes import Attempt, Routes

account_pages = Routes("accounts", needs_sign_in=True)


RETRY_AFTER_SECONDS: Final = 60
"""The user pool does not report how long it rejects attempts: a second at first, up to 15 minutes."""


SCOPE_TEXTS: Final = {
    Scope.CLASSIFY: "send images, and change or delete jobs",
    Scope.READ: "see jobs and results",
    Scope.OPERATE: "view and manage the fleet",
}
"""What a token with a scope may be used for."""

MAX_DAYS_DIGITS: Final = 6

NOT_ENDED: Final = (
    "Your new password is set, but sessions and personal tokens of your account could not be ended. "
    "Set a new password once more in a minute."
)

_log = logging.getLogger(__name__)


def render_page(page: str, *, status: int = HTTPStatus.OK, **context: object) -> Response:
    """Return the rendered page `page`."""
    return make_response(render_template(f"accounts/{page}.html", next=next_path(), **context), status)


def render_error(page: str, error: FleetsightError, **context: object) -> Response:
    """Return the page `page` with the message of `error` beside the form."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if isinstance(error, WrongCredentialsError):
        status = HTTPStatus.UNAUTHORIZED
    elif isinstance(error, TooManyAttemptsError):
        status = HTTPStatus.TOO_MANY_REQUESTS
    answer = render_page(page, status=status, fault=sentence(str(error)), **context)
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        answer.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return answer


def redirect_to(address: str) -> Response:
    """Redirect the browser to another page, which it requests by GET."""
    return make_response(redirect(address, 303))


def next_path() -> str:
    """Return the path to continue with after the form: a path of this site."""
    return safe_redirect(request.values.get("next", FIRST_PAGE))


def form_field(field: str) -> str:
    """Return a field of the form that was sent; templates show it again, except for passwords."""
    return request.form.get(field, "")


def sentence(text: str) -> str:
    """Return an error message with a capital letter and a full stop."""
    closed = text if text.endswith((".", "!", "?")) else f"{text}."
    return capitalised(closed)


@dataclass(frozen=True, slots=True)
class Visitor:
    """The user who requests a page.

    Attributes:
        signs_in: whether the deployment has sign-in.
        signed_in: whether the user has signed in.
        operates: whether the user may view and manage the fleet.
        is_known: False on a static page: its script requests the visitor.
    """

    signs_in: bool
    signed_in: bool
    email: str = ""
    operates: bool = False
    may_sign_up: bool = False
    is_known: bool = True


UNKNOWN = Visitor(signs_in=True, signed_in=False, is_known=False)
"""The visitor of a static page in a deployment with sign-in: the page's script requests the visitor."""


def visitor() -> Visitor:
    """Return the visitor of the current request."""
    identity, has_sign_in = known_identity(), signs_in()
    may_sign_up = has_sign_in and current_backend().config.auth.sign_up
    if identity is None or identity.by == "link":
        return Visitor(has_sign_in, False, may_sign_up=may_sign_up)
    return Visitor(has_sign_in, not identity.is_local, identity.email, identity.operates, may_sign_up)


@account_pages.get("/account/visitor", right=Right.PUBLIC)
def visitor_now() -> Response:
    """Return the visitor of a static page for its script, with the CSRF token of the sign-out form."""
    who = visitor()
    return jsonify(signed_in=who.signed_in, email=who.email, operates=who.operates, csrf_token=csrf_token())


@dataclass(frozen=True, slots=True)
class Proof:
    """The sign-in by which the current user has proven who they are once more.

    Attributes:
        access_token: of the pool, for calls on behalf of the user.
        signed_in: its time in epoch seconds.
        by_code: whether it included a code of an authenticator app.
    """

    access_token: str = field(repr=False)
    signed_in: int
    by_code: bool


@contextmanager
def proven_identity() -> Iterator[Proof]:
    """Check the password of the current user, and the code if the account has a second factor, as the form has them.

    The pool's tokens end with the context: revoking the refresh token ends the access token as well
    (https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/API_RevokeToken.html).

    Raises:
        UserPoolError: the password or the code is wrong, or the pool accepts no more attempts.
    """
    access, email = current_auth(), current_identity().email
    outcome = access.pool.sign_in(email, form_field("password"))
    by_code = isinstance(outcome, CodeRequired)
    if isinstance(outcome, CodeRequired):
        count_code(email)
        outcome = access.pool.answer_code(email, outcome.session, form_field("code"))
    if not isinstance(outcome, PoolTokens):  # an operator has set a temporary password meanwhile
        raise PasswordResetError
    try:
        yield Proof(outcome.access_token, access.verifier.verify(outcome.id_token).signed_in, by_code)
    finally:
        access.revoke(outcome.refresh_token)


@account_pages.get("/account", right=Right.ACCOUNT)
def account() -> Response:
    """Show the account of the user, their personal tokens, and their sessions."""
    return render_page("account", **_context())


@account_pages.view("/account/password", "password", right=Right.CREDENTIALS, attempt=Attempt.PASSWORD)
class ChangePasswordPage(MethodView):
    """The page on which a user changes the password."""

    def get(self) -> Response:
        """Show the form."""
        return render_page("password", **_second_factor())

    def post(self) -> Response:
        """Set the new password, and end all sessions and tokens, this session too."""
        try:
            email = current_identity().email
            with proven_identity() as proof:
                current_auth().pool.change_password(
                    email, proof.access_token, form_field("password"), form_field("new_password")
                )
        except UserPoolError as error:
            return render_error("password", error, **_second_factor())
        audit_as(PASSWORD_CHANGED, email)
        try:
            return _end_everything("changed")
        except CLOUD_ERRORS as error:
            _log.error("could not end sessions and tokens of %s: %s", current_identity().owner, error)
            return render_page("password", status=HTTPStatus.SERVICE_UNAVAILABLE, fault=NOT_ENDED, **_second_factor())


@account_pages.get("/account/data", right=Right.ACCOUNT)
def export() -> Response:
    """Return the user's data as a file: account, sessions, tokens, and jobs with links to images and results."""
    who, access = current_identity(), current_auth()
    sessions, tokens = access.sessions.list_of(who.owner), access.personal_tokens.list(who.owner)
    data = {
        "account": {"id": who.owner, "email": who.email, "groups": sorted(who.groups)},
        "sessions": [
            {"browser": each.device, "signed_in": each.begun_at, "last_used": each.seen_at} for each in sessions
        ],
        "tokens": [
            {"name": each.name, "scopes": sorted(each.scopes), "created": each.created_at, "expires": each.expires_at}
            for each in tokens
        ],
        "jobs": [JobBody.from_job(job).model_dump(mode="json") for jobs in user_jobs().pages() for job in jobs],
    }
    answer = Response(json.dumps(data, default=datetime.isoformat, indent=1), mimetype="application/json")
    answer.headers.set("Content-Disposition", "attachment", filename="fleetsight-data.json")
    return answer


@account_pages.view("/account/delete", "delete", right=Right.CREDENTIALS, attempt=Attempt.PASSWORD)
class DeleteAccountPage(MethodView):
    """The page on which a user deletes the account."""

    def get(self) -> Response:
        """Show the form."""
        return render_page("password", is_deletion=True, **_second_factor())

    def post(self) -> Response:
        """Delete the user's credentials, jobs, and last the account, so that a failed deletion can be repeated."""
        access, who = current_auth(), current_identity()
        try:
            with proven_identity() as proof:
                access.revocations.delete_all_of(who.owner)
                user_jobs().delete_all()
                access.pool.delete_account(proof.access_token)
        except UserPoolError as error:
            return render_error("password", error, is_deletion=True, **_second_factor())
        access.accounts.evict(who.owner)
        audit_as(ACCOUNT_DELETED, who.email)
        return access.end(redirect_to(url_for("sign_in.sign_in", told="deleted")))


@account_pages.post("/account/sessions/end", right=Right.CREDENTIALS, audit="sign-out everywhere")
def sign_out_everywhere() -> Response:
    """End all sessions and tokens of the user, this session too."""
    return _end_everything("everywhere")


@account_pages.post("/account/sessions/<family>/end", right=Right.CREDENTIALS, audit="session ended")
def end_session(family: str) -> Response:
    """End one session of the user, and show the others."""
    current_auth().sessions.end_family(current_identity().owner, family)
    return redirect_to(url_for("accounts.account"))


def _end_everything(told: str) -> Response:
    access = current_auth()
    access.end_all_of(current_identity().owner)
    return access.end(redirect_to(url_for("sign_in.sign_in", told=told)))


@account_pages.post("/account/tokens", right=Right.ACCOUNT, audit="token created", attempt=Attempt.PASSWORD)
def make_token() -> Response:
    """Create a token and show it once; the form has the password, since a token outlives a session by months."""
    who = current_identity()
    scopes = [scope for scope in _grantable_scopes(who) if scope in request.form.getlist("scopes")]
    days, tokens = form_field("days").strip(), current_auth().personal_tokens
    if not (days.isascii() and days.isdigit() and len(days) <= MAX_DAYS_DIGITS):
        fault = TokenNotMadeError(f"write after how many days the token expires: a whole number from 1 to {MAX_DAYS}")
        return render_error("account", fault, **_context())
    try:
        with proven_identity() as proof:
            text, token = tokens.make(
                who.owner, who.email, form_field("name"), scopes, int(days), proof.signed_in, proof.by_code
            )
    except (TokenNotMadeError, UserPoolError) as error:
        return render_error("account", error, **_context())
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return render_page("account", status=HTTPStatus.CREATED, made=text, **_context())


@account_pages.post("/account/tokens/<token_id>/revoke", right=Right.ACCOUNT, audit="token revoked")
def revoke_token(token_id: str) -> Response:
    """Revoke a token and redirect to the list."""
    current_auth().personal_tokens.revoke(current_identity().owner, token_id)
    return redirect_to(url_for("accounts.account"))


def _context() -> dict[str, Any]:
    identity, session = current_identity(), known_session()
    return {
        "identity": identity,
        **_second_factor(),
        "sessions": current_auth().sessions.list_of(identity.owner),
        "this_session": session and session.record.family,
        "tokens": current_auth().personal_tokens.list(identity.owner),
        "scopes": _grantable_scopes(identity),
        "left": remaining_quota(identity.owner),
    }


def _second_factor() -> dict[str, Any]:
    account = current_auth().accounts.find(current_identity().owner)
    return {"second_factor": account is not None and account.second_factor}


def _grantable_scopes(identity: Identity) -> dict[Scope, str]:
    return {scope: text for scope, text in SCOPE_TEXTS.items() if scope is not Scope.OPERATE or identity.operates}
