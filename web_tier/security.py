"""What every answer tells the browser about trust, and which requests are refused for where they come from."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import Forbidden

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "style-src 'self'",
            "img-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def secure(app: Flask) -> None:
    """Refuse cross-site requests that change something, and send `HEADERS` with every answer."""
    app.before_request(_refuse_cross_site)
    app.after_request(_with_headers)


def is_cross_site(site: str | None, origin: str | None, host: str) -> bool:
    """Tell whether a browser sent this request from a page of another site; programs send neither header.

    Args:
        site: the request's `Sec-Fetch-Site` header, which the browser writes; trusted before `origin`.
        origin: its `Origin` header.
        host: host and port that the request was sent to.
    """
    if site is not None:
        return site not in {"same-origin", "none"}
    return origin is not None and urlsplit(origin).netloc != host


def _refuse_cross_site() -> None:
    if request.method in _SAFE_METHODS:
        return
    headers = request.headers
    if is_cross_site(headers.get("Sec-Fetch-Site"), headers.get("Origin"), request.host):
        raise Forbidden("this form was sent from another site; open Fleetsight itself and try again")


def _with_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.endpoint != "static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response
