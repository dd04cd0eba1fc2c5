"""An id for every request, in its answer and in its line of the log, which also names the user by their id."""

import logging
import time

from flask import Flask, Response, g, request

from core.ids import new_id
from web_tier.auth.identity import known_identity

_QUIET_ENDPOINTS = frozenset({"static", "health.alive", "health.ready"})
_log = logging.getLogger(__name__)


def log_requests(app: Flask) -> None:
    """Give each request an id, send it as `X-Request-Id`, and log each request when it is answered."""
    app.before_request(_begin)
    app.after_request(_end)


def request_id() -> str:
    """Return the id of the current request."""
    return str(g.get("request_id", ""))


def _begin() -> None:
    g.request_id = new_id()
    g.began = time.monotonic()


def _end(response: Response) -> Response:
    response.headers["X-Request-Id"] = request_id()
    identity = known_identity()
    _log.log(
        logging.DEBUG if request.endpoint in _QUIET_ENDPOINTS else logging.INFO,
        "%s %s",
        request.method,
        response.status_code,
        extra={
            "status": response.status_code,
            "path": request.path,
            "milliseconds": round((time.monotonic() - g.began) * 1000, 1),
            "request_id": request_id(),
        }
        | ({"user": identity.owner} if identity and not identity.is_local else {}),
    )
    return response
