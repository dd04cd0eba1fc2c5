"""What happens to every request: its id and log line, the names of this server, cross-origin rules, security headers.

**Names.** An attacker can point a DNS name at this server (DNS rebinding), and a request header can claim any name.
Only configured names may become the origin of the pages. IP addresses are accepted: an attacker cannot redirect them.

**Cross-origin requests** (https://fetch.spec.whatwg.org/#http-cors-protocol). Pages of the configured origins may
call the addresses for programs. They send no cookies, so a page can do no more than a program that its visitor runs:
where people sign in, it needs its own token.
"""

import ipaddress
import logging
import re
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from werkzeug.exceptions import Forbidden, MisdirectedRequest

from core.ids import new_id
from web_tier.auth.identity import known_identity

_log = logging.getLogger(__name__)

_FOR_PROGRAMS = ("/api/", "/healthz", "/readyz", "/inference/", "/predictions/", "/classify", "/file-upload")
_QUIET_ENDPOINTS = frozenset({"static", "health.alive", "health.ready"})

_AUTHORITY: Final = re.compile(r"(?:([a-z0-9.-]+)|\[([a-f0-9:.]+)\])(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
_MAX_SHOWN = 80

ANY_ORIGIN = "*"

PREFLIGHT: Mapping[str, str] = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}
EXPOSED_HEADERS = "Content-Disposition, Location, Retry-After, X-Request-Id"

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
"""Features of browsers that no page uses, by Chromium's names; it warns of unknown ones."""

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
"""OWASP's list (https://owasp.org/www-project-secure-headers/) without headers that browsers no longer read."""

TLS_ONLY = "max-age=31536000"
"""Strict-Transport-Security, sent by TLS only. Subdomains may belong to others, so it does not include them."""


def is_for_programs(path: str) -> bool:
    """Return whether programs call `path`, also if nothing is there. Errors there are problem JSON, not pages."""
    return path.startswith(_FOR_PROGRAMS)


def log_requests(app: Flask) -> None:
    """Give each request an id, send it as `X-Request-Id`, and log each request when it is answered."""
    app.before_request(_begin_request)
    app.after_request(_log_response)


def request_id() -> str:
    """Return the id of the current request."""
    return str(g.get("request_id", ""))


def _begin_request() -> None:
    g.request_id = new_id()
    g.began = time.monotonic()


def _log_response(response: Response) -> Response:
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


def reject_other_hosts(app: Flask, hosts: Collection[str], bound_to: str) -> None:
    """Reject each request to `app` that is not for one of `hosts`, `bound_to`, localhost or an IP address."""
    names = {name.lower() for name in (*hosts, bound_to, "localhost")}
    app.before_request(lambda: _reject_other_hosts(names))


def is_own_name(authority: str, names: Collection[str]) -> bool:
    """Return whether `authority`, a host with or without a port, is an IP address or one of `names` (lower case).

    A name that ends with a dot is another name: browsers treat it as another origin.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return False
    name, address = found.groups()
    if address is not None:
        return _is_address(address, 6)
    return name.lower() in names or _is_address(name, 4)


def claimed_authority(target: str) -> str | None:
    """Return the authority in a request's target in absolute form (RFC 9112, 3.2.2), None in any other form."""
    if target.startswith(("/", "*")) or "://" not in target:
        return None
    try:
        return urlsplit(target).netloc
    except ValueError:
        return ""


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _reject_other_hosts(names: Collection[str]) -> None:
    host = request.headers.get("Host", "")
    claimed = claimed_authority(str(request.environ.get("RAW_URI", "/")))
    if not is_own_name(host, names) or (claimed is not None and claimed.lower() != host.lower()):
        name = (claimed or host)[:_MAX_SHOWN]
        raise MisdirectedRequest(f"this server is not called {name!r}; its operator can add a name (web.hosts)")


@dataclass(frozen=True)
class CrossOrigin:
    """The origins `allowed` to call the API; `*` allows all."""

    allowed: Collection[str]

    def install(self, app: Flask) -> None:
        """Answer the preflight requests of `app`, and let allowed origins read its answers, errors included."""
        if self.allowed:
            app.before_request(self._answer_preflight)
            app.after_request(self._with_headers)

    def allows(self, origin: str | None, path: str) -> bool:
        """Return whether a page of `origin` (the request's header) may call `path`."""
        return origin is not None and is_for_programs(path) and (origin in self.allowed or ANY_ORIGIN in self.allowed)

    def _answer_preflight(self) -> Response | None:
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if is_preflight and self.allows(request.headers.get("Origin"), request.path):
            return Response(status=204, headers=dict(PREFLIGHT))
        return None

    def _with_headers(self, response: Response) -> Response:
        if is_for_programs(request.path):
            response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin is not None and self.allows(origin, request.path):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        return response


def secure(app: Flask, cross_origin: CrossOrigin | None = None) -> None:
    """Reject cross-site requests that change something; send `HEADERS` with every response.

    Args:
        app: the application.
        cross_origin: the cross-site requests that are allowed.
    """
    allowed = cross_origin or CrossOrigin(())
    app.before_request(lambda: _reject_cross_site(allowed))
    app.after_request(_with_security_headers)


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


def _reject_cross_site(allowed: CrossOrigin) -> None:
    headers = request.headers
    if request.method in _SAFE_METHODS or allowed.allows(headers.get("Origin"), request.path):
        return
    if is_cross_site(headers.get("Sec-Fetch-Site"), headers.get("Origin"), request.host_url.rstrip("/")):
        raise Forbidden("this form was sent from another site; open Fleetsight itself and try again")


def _with_security_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", TLS_ONLY)
    if request.endpoint not in _STATIC_ENDPOINTS:
        response.headers.setdefault("Cache-Control", "no-store")
    return response
