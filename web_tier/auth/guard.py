"""The guard: authenticates each request and checks its permissions, by its headers, before its body is read.

A request is authenticated by the `Authorization` header (RFC 6750, section 2.1), which holds a token of the provider
or a personal token, or else by the cookie of a session.

A browser sends the cookie with every request, so a request that is authenticated by its cookie needs more to change
something: the browser's header that states where the request comes from, and a token of the session that only pages
of this site hold
(https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html). Redirects
lead to pages of this site only.
"""

import logging
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlencode

from botocore.exceptions import BotoCoreError, ClientError
from flask import Flask, Request, current_app, g, redirect, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, NotFound, Unauthorized
from werkzeug.wrappers import Response

from core.credentials import PREFIX
from core.tokens import TokenRefusedError, TokenUncheckedError
from web_tier.auth.audit import REJECTED_TOKEN, audit_as, audit_details
from web_tier.auth.context import (
    COOKIE,
    LINK_COOKIE,
    SHARING,
    AuthContext,
    AuthServices,
    current_auth,
    set_cookie,
    signs_in,
)
from web_tier.auth.identity import (
    LOCAL,
    VIEWER,
    Identity,
    known_identity,
    known_session,
    scopes_named,
    set_identity,
    set_session,
)
from web_tier.auth.permissions import Right
from web_tier.auth.provider import ProviderUnreachableError
from web_tier.http.middleware import SAFE_METHODS, is_cross_site, is_for_programs
from web_tier.http.routes import current_route

MAX_HEADER_CHARACTERS: Final = 8_192
"""Maximum characters of the header; a token of a provider has some 1,100, and more with many groups."""

# The form of a token in RFC 6750, alone or after the scheme. Two headers of the name arrive as one with a comma,
# which no token contains.
_FORM = re.compile(r"(?:bearer +)?([a-z0-9._~+/-]+=*)", re.ASCII | re.IGNORECASE)

_log = logging.getLogger(__name__)

CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "X-CSRF-Token"

FIRST_PAGE: Final = "/"
MAX_PATH_CHARACTERS: Final = 2_000
SIGN_IN: Final = "/sign-in"


class InvalidCredentialsError(Exception):
    """Raised when a header does not authenticate a user; the message, for the log, holds nothing of the token."""


def parse_authorization(header: str) -> str:
    """Return the token in the header `Bearer TOKEN`, or `TOKEN` alone.

    Raises:
        InvalidCredentialsError: it is neither.
    """
    found = _FORM.fullmatch(header) if len(header) <= MAX_HEADER_CHARACTERS else None
    if found is None:
        raise InvalidCredentialsError("the header is not of the form Bearer TOKEN")
    return found[1]


def authenticate(header: str, auth: AuthServices) -> Identity:
    """Return the identity of a request with this header.

    Raises:
        InvalidCredentialsError: the token is forged, expired or revoked.
        TokenUncheckedError: the provider's keys cannot be fetched, so the token cannot be verified.
    """
    text = parse_authorization(header)
    if text.startswith(PREFIX):
        token = auth.personal_tokens.find(text)
        if token is None:
            raise InvalidCredentialsError("there is no such personal token, or no longer")
        profile = auth.profiles.find(token.owner)
        if profile is None:
            raise InvalidCredentialsError(f"the user {token.owner} has deleted their data")
        return Identity(
            token.owner,
            profile.email,
            profile.is_operator,
            "personal_token",
            token.signed_in,
            scopes_named(token.scopes),
        )
    try:
        claims = auth.verifier.verify(text)
    except TokenUncheckedError:
        raise
    except TokenRefusedError as error:
        raise InvalidCredentialsError(str(error)) from error
    if auth.revocations.last_of(claims.owner).covers(claims.signed_in):
        raise InvalidCredentialsError("the provider's token comes from a sign-in before the last revocation")
    return Identity(claims.owner, claims.email, claims.is_operator, "provider_token", claims.signed_in)


def install_identification(app: Flask, auth: AuthContext) -> None:
    """Authenticate each request, and reject none. Install it before the rate limits, which count by user."""
    app.before_request(_identify)
    if auth.signs_in:
        app.after_request(_with_renewed_cookie)


def install_guard(app: Flask) -> None:
    """Reject each request that its sender may not send; give templates the CSRF token of forms."""
    app.before_request(_guard)
    app.jinja_env.globals.update(csrf_token=csrf_token, csrf_field=csrf_field)


def _identify() -> None:
    g.credentials_error = None
    if not signs_in():
        set_identity(LOCAL)
        return
    set_identity(None)
    if current_route().is_authenticated:
        try:
            set_identity(_authenticate_request(current_auth()))
        except InvalidCredentialsError as error:
            g.credentials_error = str(error)
        except (ProviderUnreachableError, TokenUncheckedError):
            if current_route().right is not Right.PUBLIC:  # signing in and out must stay possible
                raise


def _guard() -> ResponseReturnValue | None:
    route = current_route()
    if not signs_in():
        if route.needs_sign_in:
            raise NotFound
        return None
    if g.credentials_error is not None:
        audit_as(REJECTED_TOKEN, "")
        audit_details(reason=g.credentials_error)
        raise _unauthorized("the token is wrong, expired or revoked; get another one and try again", "invalid_token")
    identity = known_identity()
    right = route.right
    if identity is not None:
        _check_right(right, identity)
    is_page = request.method in {"GET", "HEAD"} and not is_for_programs(request.path)
    # A browser opens a page; a fetch of an open page would read the sign-in page as its answer, as a program would.
    is_opened = is_page and request.headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
    if (
        identity is None
        and route.reads_shared_jobs
        and SHARING in current_app.extensions
        and LINK_COOKIE in request.cookies
    ):
        set_identity(VIEWER)  # `UserJobs` decides by the token whether there is anything to read
        return None
    if identity is None and right is not Right.PUBLIC:
        if is_opened:
            return redirect(sign_in_for(request), 303)
        raise _unauthorized("sign in, or send a token in the Authorization header (Bearer TOKEN)")
    check_request()
    return None


def _check_right(right: Right, identity: Identity) -> None:
    """Check that a user has a right."""
    if right.is_granted_to(identity):
        return
    if right is Right.OPERATE and not identity.is_operator:
        raise Forbidden("only operators see the fleet: ask one of them for access")
    if right in {Right.ACCOUNT, Right.CREDENTIALS}:
        raise Forbidden("a personal token cannot do this; sign in and try again")
    raise Forbidden(f"this token is not for this: make one with the scope {right.value}, or sign in")


def _authenticate_request(auth: AuthServices) -> Identity | None:
    """Return the identity of the request, or None if it is anonymous; a header counts before a cookie.

    Raises:
        InvalidCredentialsError: the header's token is invalid.
    """
    header, cookie = request.headers.get("Authorization"), request.cookies.get(COOKIE)
    if header is not None:
        return authenticate(header, auth)
    if cookie is None:
        return None
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if origin is not None and is_cross_site(site, origin, request.host_url.rstrip("/")):
        # Pages of other origins may call the API (`web.cors_origins`), but not as the user who has them open. A link
        # to this page sends no Origin.
        return None
    opened = auth.sessions.open(cookie, acts=not current_route().is_automatic)
    if opened is None:
        return None
    set_session(opened)
    record = opened.record
    return Identity(record.owner, record.email, record.is_operator, "session", record.signed_in)


def credentials_check() -> Callable[[], bool]:
    """Return a function that returns whether the credentials of the current request are still valid.

    For streams, which outlive the check of their request. While that is unknown, they are valid.
    """
    if not signs_in() or known_identity() is VIEWER:
        return lambda: True
    auth, header, cookie = current_auth(), request.headers.get("Authorization"), request.cookies.get(COOKIE)

    def are_valid() -> bool:
        try:
            return auth.sessions.is_open(cookie or "") if header is None else bool(authenticate(header, auth))
        except InvalidCredentialsError:
            return False
        except (TokenUncheckedError, BotoCoreError, ClientError) as error:
            _log.warning("the credentials of a stream could not be checked again: %s", error)
            return True

    return are_valid


def _unauthorized(detail: str, code: str | None = None) -> Unauthorized:
    """Return the error for unauthenticated clients, with the challenge of RFC 6750, section 3."""
    challenge = WWWAuthenticate("bearer", {"realm": "Fleetsight API"})
    if code:
        challenge["error"] = code
    return Unauthorized(detail, www_authenticate=challenge)


def _with_renewed_cookie(answer: Response) -> Response:
    session = known_session()
    if session is not None and session.cookie is not None:
        set_cookie(answer, session.cookie)
    return answer


def csrf_token() -> str:
    """Return a token for a form or header of the current session, or an empty string without a session."""
    session = known_session()
    return "" if session is None else current_auth().sessions.csrf_token(session)


def csrf_field() -> Markup:
    """Return the hidden form field with the token, or nothing without a session."""
    token = csrf_token()
    return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, token) if token else Markup("")


def check_csrf(given: str | None) -> None:
    """Check that a page of this site made the current request, if a session authenticates it.

    Args:
        given: the form's field `csrf_token`; the header `X-CSRF-Token` is accepted, too.

    Raises:
        Forbidden: neither holds a token of this session.
    """
    session = known_session()
    if session is None:
        return
    if not current_auth().sessions.csrf_matches(session, request.headers.get(CSRF_HEADER) or given or ""):
        raise Forbidden("this form is not from a page of your session; open the page again and send it from there")


def check_request() -> None:
    """Check the headers of a request that a session authenticates, and its token unless the route does that.

    Raises:
        Forbidden: a header or the token is missing.
    """
    if known_session() is None or request.method in SAFE_METHODS:
        return
    if not ({"Sec-Fetch-Site", "Origin"} & set(request.headers.keys())):
        raise Forbidden("a request known by its cookie needs Sec-Fetch-Site or Origin; programs send a token instead")
    if is_for_programs(request.path) or current_route().checks_csrf:
        return
    check_csrf(None if CSRF_HEADER in request.headers else request.form.get(CSRF_FIELD))


def safe_redirect(text: str) -> str:
    r"""Return `text` if it is a path of this site, else the first page, so that no link redirects to another site.

    Browsers read `//host` as another host and `\` as `/`, and drop control characters first.
    """
    is_ours = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_ours and len(text) <= MAX_PATH_CHARACTERS else FIRST_PAGE


def sign_in_for(request: Request) -> str:
    """Return the address of the sign-in that redirects back to the requested page."""
    path = quote(request.path, safe="/:@!$&'()*+,;=") + "?" * bool(request.query_string)
    back = safe_redirect(path + request.query_string.decode("latin-1"))
    return SIGN_IN if back == FIRST_PAGE else f"{SIGN_IN}?{urlencode({'next': back})}"
