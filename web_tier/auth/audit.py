"""The audit trail: log lines of who did what and when, for operators.

A request that signs in or out, or changes what others rely on, is one event. Its route names it (`audit`), or its
view. The web tier logs an event when it has answered the request. Without sign-in there are no users, and no trail.
"""

import json
import logging
from typing import Final

from flask import Flask, Response, g, request

from core.logs import AUDIT_LOGGER
from web_tier.auth.identity import known_identity
from web_tier.http.middleware import request_id
from web_tier.http.routes import current_route

MAX_DETAIL_CHARACTERS: Final = 200
"""Maximum characters of the value of a detail; the rest is cut."""

SIGN_IN, FAILED_SIGN_IN, REJECTED_TOKEN = "sign-in", "failed sign-in", "rejected token"
ACCOUNT_DELETED = "account deleted"


def log_audit_events(app: Flask) -> None:
    """Log what requests to `app` do; only where people sign in."""
    app.after_request(_log_event)


def audit_as(action: str, user: str) -> None:
    """Let the current request be the event `action` of `user`, with any answer."""
    g.audit_event = action, user


def audit_details(**details: object) -> None:
    """Add to the event of the current request, such as the limits that it sets."""
    g.setdefault("audit_details", {}).update({name: str(value) for name, value in details.items()})


def _log_event(response: Response) -> Response:
    event = _event(response.status_code)
    if event is not None:
        action, user = event
        details = {**(request.view_args or {}), **g.get("audit_details", {})}
        cut = {name: value[:MAX_DETAIL_CHARACTERS] for name, value in details.items()}
        extra = {
            "action": action,
            "user": user.strip().lower(),
            "details": json.dumps(cut, sort_keys=True),
            "address": request.remote_addr or "",
            "request_id": request_id(),
        }
        logging.getLogger(AUDIT_LOGGER).info("audit", extra=extra)
    return response


def _event(status: int) -> tuple[str, str] | None:
    """Return action and user of the current request, which is answered with `status`, or None if it is no event.

    The user is an e-mail address, or an id if the address is unknown; empty if nothing shows who it is.
    """
    route, identity = current_route(), known_identity()
    if "audit_event" in g:
        action, user = g.audit_event
        return action, user
    if request.method not in {"POST", "PUT", "DELETE"}:
        return None
    if route.audit is not None and identity is not None and status < 400:
        audit_details(by=identity.by)
        return route.audit, identity.name
    return None
