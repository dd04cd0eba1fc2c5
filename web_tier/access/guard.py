"""The guard: finds out who sent each request, and whether they may, by its headers, before its body is read."""

import logging
from collections.abc import Callable
from typing import Final, NoReturn

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, NotFound, Unauthorized
from werkzeug.wrappers import Response

from core.tokens import TokenUncheckedError
from services.accounts import OPERATORS
from web_tier.access.access import COOKIE, Access, current_access, set_cookie
from web_tier.access.authorization import RefusedError, identity_by
from web_tier.access.csrf import check_request, csrf_field, csrf_token
from web_tier.access.current_session import known_session, set_session
from web_tier.access.identity import LOCAL, Identity, known_identity, set_identity
from web_tier.access.own_path import sign_in_for
from web_tier.access.rights import RIGHTS, Right
from web_tier.access.second_factor import lacks_second_factor
from web_tier.audience import is_for_programs
from web_tier.request_log import request_id
from web_tier.security import is_cross_site

_ONLY_WITH_SIGN_IN: Final = frozenset({"accounts", "tokens_api", "audit", "audit_api"})
"""Blueprints that do not exist without sign-in."""

_ASK_NOBODY: Final = frozenset(
    {"static", "bootstrap.static", "health.alive", "health.ready", "health_v1.alive", "health_v1.ready"}
)
"""Routes that answer everybody the same, also when nothing else answers: no account is looked up for them."""

_BY_THEMSELVES: Final = frozenset({"live.job_events", "live.job_rows", "live.job_progress", "pages.fleet_now"})
"""What open pages ask by themselves: it keeps no session alive."""

_log = logging.getLogger(__name__)


def install_identification(app: Flask) -> None:
    """Find out who sent each request; refuse none. Comes before the rate limits, which count users by name."""
    app.before_request(_identify)
    app.after_request(_with_renewed_cookie)


def install_guard(app: Flask) -> None:
    """Refuse each request that its sender may not send, and let templates make forms that are accepted."""
    app.before_request(_guard)
    app.jinja_env.globals.update(csrf_token=csrf_token, csrf_field=csrf_field)


def _identify() -> None:
    access, g.refused_because = current_access(), None
    if not access.signs_in:
        set_identity(LOCAL)
        return
    set_identity(None)
    if request.endpoint not in _ASK_NOBODY:
        try:
            set_identity(_who_asks(access))
        except RefusedError as error:
            g.refused_because = str(error)


def _guard() -> ResponseReturnValue | None:
    if not current_access().signs_in:
        if request.blueprint in _ONLY_WITH_SIGN_IN:
            raise NotFound
        return None
    if g.refused_because is not None:
        _refuse_credentials(g.refused_because)
    identity = known_identity()
    # Without an endpoint there is nothing to protect: the answer is 404 or 405, and a word on where something is.
    right = RIGHTS[request.endpoint] if request.endpoint else Right.PUBLIC
    if identity is None and right is not Right.PUBLIC:
        return _to_sign_in()
    if identity is not None and not right.is_given_to(identity):
        raise Forbidden(_refusal(right, identity))
    if identity is not None and right not in {Right.PUBLIC, Right.SECOND_FACTOR} and lacks_second_factor(identity):
        return _to_second_factor()
    check_request()
    return None


def _who_asks(access: Access) -> Identity | None:
    """Return who sent the request, or None if they are not signed in; a header counts before a cookie.

    Raises:
        RefusedError: when the header's token is not valid.
    """
    header, cookie = request.headers.get("Authorization"), request.cookies.get(COOKIE)
    if header is not None:
        return identity_by(header, access)
    if cookie is None or _is_of_another_page():
        # Pages of other origins may call the API (`web.cors_origins`), but not in the name of the person at them.
        return None
    opened = access.sessions.open(cookie, acts=request.endpoint not in _BY_THEMSELVES)
    if opened is None:
        return None
    set_session(opened)
    return Identity(opened.record.owner, opened.record.email, opened.record.groups, by="session")


def credentials_check() -> Callable[[], bool]:
    """Return a function that returns False once the credentials of the current request have ended.

    For streams, which outlive the request that was checked. While it is not known whether they have, they have not.
    """
    access, header, cookie = current_access(), request.headers.get("Authorization"), request.cookies.get(COOKIE)
    if not access.signs_in:
        return lambda: True

    def are_valid() -> bool:
        try:
            return access.sessions.is_open(cookie or "") if header is None else bool(identity_by(header, access))
        except RefusedError:
            return False
        except (TokenUncheckedError, BotoCoreError, ClientError) as error:
            _log.warning("the credentials of a stream could not be checked again: %s", error)
            return True

    return are_valid


def _is_of_another_page() -> bool:
    """Return True if a page of another origin sent the request; a link that leads here is not one."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    return origin is not None and is_cross_site(site, origin, request.host_url.rstrip("/"))


def _to_sign_in() -> Response:
    """Send a person to the sign-in; refuse a program, which would take that page for its answer."""
    if _opens_a_page():
        return redirect(sign_in_for(request), 303)
    raise _unauthorized("sign in, or send a token in the Authorization header (Bearer TOKEN)")


def _to_second_factor() -> Response:
    """Send a person to where a second factor is set up; refuse a program, which would take it for its answer."""
    page = url_for("accounts.second_factor")
    if _opens_a_page():
        return redirect(page, 303)
    raise Forbidden(
        f"this site requires a second factor of you: sign in on the page, set one up at {page}, try again"
    )


def _opens_a_page() -> bool:
    """Return True unless a program asks, or a page that is open fetches something for itself."""
    is_page = request.method in {"GET", "HEAD"} and not is_for_programs(request.path)
    return is_page and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"


def _refuse_credentials(reason: str) -> NoReturn:
    _log.info("credentials were refused: %s", reason, extra={"request_id": request_id()})
    raise _unauthorized("the token is wrong, expired or revoked; get another one and try again", "invalid_token")


def _unauthorized(detail: str, code: str | None = None) -> Unauthorized:
    """Return the one error for unknown clients; its challenge is that of RFC 6750, section 3."""
    challenge = WWWAuthenticate("bearer", {"realm": "Fleetsight API"})
    if code:
        challenge["error"] = code
    return Unauthorized(detail, www_authenticate=challenge)


def _refusal(right: Right, identity: Identity) -> str:
    if right is Right.OPERATE and OPERATORS not in identity.groups:
        return "the fleet is for operators; ask one of them"
    if right in {Right.ACCOUNT, Right.SECOND_FACTOR}:
        return "a personal token cannot do this; sign in and try again"
    return f"this token is not for this: make one with the scope {right.value}, or sign in"


def _with_renewed_cookie(answer: Response) -> Response:
    session = known_session()
    if session is not None and session.cookie is not None:
        set_cookie(answer, session.cookie)
    return answer
