"""Cross-site request forgery: a request that changes something must show that a page of ours made it.

A browser adds the cookie by itself, so what is known by its cookie alone needs more: the browser's own word on where
the request comes from, and a token of the session that only our pages hold
(https://cheatsheetseries.owasp.org/cheatsheets/Cross-Site_Request_Forgery_Prevention_Cheat_Sheet.html).
"""

from typing import Final

from flask import request
from markupsafe import Markup
from werkzeug.exceptions import Forbidden

from web_tier.access.access import current_access
from web_tier.access.current_session import known_session
from web_tier.access.rights import RIGHTS, Right
from web_tier.audience import is_for_programs

CSRF_FIELD: Final = "csrf_token"
CSRF_HEADER: Final = "X-CSRF-Token"

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

CHECKED_BY_THEIR_ROUTE: Final = frozenset({"pages.upload"})
"""Routes that read their form as it arrives, so that only they can find the token in it: they call `check_csrf`."""


def csrf_token() -> str:
    """Return a token for a form or header of the current session; empty where there is no session to misuse."""
    session = known_session()
    return "" if session is None else current_access().sessions.csrf_token(session)


def csrf_field() -> Markup:
    """Return the hidden field that holds the token, or nothing where there is no session."""
    token = csrf_token()
    return Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, token) if token else Markup("")


def check_csrf(given: str | None) -> None:
    """Check that the current request was made by a page of ours, if a cookie is all that it is known by.

    Args:
        given: the form's field `csrf_token`; the header `X-CSRF-Token` does as well.

    Raises:
        Forbidden: when neither holds a token of this session.
    """
    session = known_session()
    if session is None:
        return
    if not current_access().sessions.csrf_matches(session, request.headers.get(CSRF_HEADER) or given or ""):
        raise Forbidden("this form is not from a page of your session; open the page again and send it from there")


def check_request() -> None:
    """Check all of that which can be told before the body is read, and the token unless the route does it.

    Raises:
        Forbidden: when something is missing.
    """
    if known_session() is None or request.method in SAFE_METHODS:
        return
    if not ({"Sec-Fetch-Site", "Origin"} & set(request.headers.keys())):
        raise Forbidden("a request known by its cookie needs Sec-Fetch-Site or Origin; programs send a token instead")
    if is_for_programs(request.path) or request.endpoint in CHECKED_BY_THEIR_ROUTE or _is_for_strangers():
        return
    check_csrf(None if CSRF_HEADER in request.headers else request.form.get(CSRF_FIELD))


def _is_for_strangers() -> bool:
    """Return whether a form acts on no session: it may stand open while its reader signs in by another tab."""
    return RIGHTS.get(request.endpoint or "") is Right.PUBLIC and request.endpoint != "accounts.sign_out"
