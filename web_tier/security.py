"""What every answer tells the browser about trust, and which requests are refused for where they come from."""

from collections.abc import Mapping

from flask import Flask, Response, request
from werkzeug.exceptions import Forbidden

from web_tier.cors import CrossOrigin

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_STATIC_ENDPOINTS = frozenset({"static", "bootstrap.static"})

UNUSED_FEATURES = (
    "accelerometer",
    "autoplay",
    "camera",
    "clipboard-read",
    "cross-origin-isolated",
    "display-capture",
    "encrypted-media",
    "fullscreen",
    "gamepad",
    "geolocation",
    "gyroscope",
    "hid",
    "idle-detection",
    "keyboard-map",
    "local-fonts",
    "magnetometer",
    "microphone",
    "midi",
    "payment",
    "picture-in-picture",
    "publickey-credentials-create",
    "publickey-credentials-get",
    "screen-wake-lock",
    "serial",
    "storage-access",
    "sync-xhr",
    "usb",
    "window-management",
    "xr-spatial-tracking",
)
"""Of a browser, as Chromium knows them; it complains of others."""

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            # blob: a thumbnail of a file that is not sent yet; data: the icons in Bootstrap's style sheet.
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Permitted-Cross-Domain-Policies": "none",
    "Permissions-Policy": ", ".join(
        [
            # A job's page copies its own address.
            "clipboard-write=(self)",
            *(f"{feature}=()" for feature in UNUSED_FEATURES),
        ]
    ),
}
"""OWASP's list (https://owasp.org/www-project-secure-headers/), but for those that are no longer read."""

TLS_ONLY = "max-age=31536000"
"""Strict-Transport-Security, which a browser takes by TLS alone. Names below ours may be others': no subdomains."""


def secure(app: Flask, friends: CrossOrigin | None = None) -> None:
    """Refuse cross-site requests that change something, but for `friends`; send `HEADERS` with every answer."""
    known = friends or CrossOrigin(())
    app.before_request(lambda: _refuse_cross_site(known))
    app.after_request(_with_headers)


def is_cross_site(site: str | None, origin: str | None, address: str) -> bool:
    """Return True if a browser sent this request from a page of another site; programs send neither header.

    Args:
        site: the request's `Sec-Fetch-Site` header, which the browser writes; trusted before `origin`. Behind
            CloudFront the request has another host than the page.
        origin: its `Origin` header.
        address: scheme, host and port that the request was sent to, such as ``https://photos.example.org``.
    """
    if site is not None:
        return site not in {"same-origin", "none"}
    return origin not in {None, address}


def _refuse_cross_site(friends: CrossOrigin) -> None:
    headers = request.headers
    if request.method in _SAFE_METHODS or friends.lets_in(headers.get("Origin"), request.path):
        return
    if is_cross_site(headers.get("Sec-Fetch-Site"), headers.get("Origin"), request.host_url.rstrip("/")):
        raise Forbidden("this form was sent from another site; open Fleetsight itself and try again")


def _with_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", TLS_ONLY)
    if request.endpoint not in _STATIC_ENDPOINTS:
        response.headers.setdefault("Cache-Control", "no-store")
    return response
