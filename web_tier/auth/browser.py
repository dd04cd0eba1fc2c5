"""Protection of browsers: against cross-site request forgery, and against redirects to other sites.

A browser sends the cookie with every request, so a request that is authenticated by its cookie needs more to change
something: the browser's header that states where the request comes from, and a token of the session that only pages
of this site hold
(https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html).
"""

from typing import Final
from urllib.parse import quote, urlencode

from flask import Request, request
from markupsafe import Markup
from werkzeug.exceptions import Forbidden

from web_tier.auth.context import current_auth
from web_tier.auth.identity import known_session
from web_tier.auth.permissions import RIGHTS, Right
from web_tier.middleware import SAFE_METHODS, is_for_programs

CSRF_FIELD: Final = "csrf_token"

CSRF_HEADER: Final = "X-CSRF-Token"

CHECKED_BY_THEIR_ROUTE: Final = frozenset({"pages.upload"})
"""Routes that read their form as it arrives, so that only they can find its token: they call `check_csrf`."""

FIRST_PAGE: Final = "/"

MAX_PATH_CHARACTERS: Final = 2_000

SIGN_IN: Final = "/sign-in"


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
    # Public forms need no session: one may be open while its user signs in in another tab.
    is_public = RIGHTS.get(request.endpoint or "") is Right.PUBLIC and request.endpoint != "accounts.sign_out"
    if is_for_programs(request.path) or request.endpoint in CHECKED_BY_THEIR_ROUTE or is_public:
        return
    check_csrf(None if CSRF_HEADER in request.headers else request.form.get(CSRF_FIELD))


def safe_redirect(text: str) -> str:
    r"""Return `text` if it is a path of this site, else the first page, so that no link redirects to another site.

    Browsers read `//host` as another host and `\` as `/`, and drop control characters first.
    """
    is_ours = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_ours and len(text) <= MAX_PATH_CHARACTERS else FIRST_PAGE


def sign_in_for(request: Request) -> str:
    """Return the address of the sign-in page that redirects back to the requested page."""
    path = quote(request.path, safe="/:@!$&'()*+,;=") + "?" * bool(request.query_string)
    back = safe_redirect(path + request.query_string.decode("latin-1"))
    return SIGN_IN if back == FIRST_PAGE else f"{SIGN_IN}?{urlencode({'next': back})}"
