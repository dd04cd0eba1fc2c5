"""The checks and headers of every request: ids and log line, names, cross-origin rules, security headers, proxy.

**Ids.** A request has an id of its own, which no client chooses, and belongs to a trace (`core/tracing.py`), which
the client may have started by a `traceparent` header. The response names both.

**Names.** An attacker can point a DNS name at this server (DNS rebinding), and a request header can claim any name.
Only configured names may become the origin of the pages. IP addresses are accepted: an attacker cannot redirect them.

**Cross-origin requests** (https://fetch.spec.whatwg.org/#http-cors-protocol). Pages of the configured origins may
call the addresses for programs. They send no cookies, so a page can do no more than a program that its visitor runs:
where people sign in, it needs its own token.

**Compression.** Pages, scripts, styles and JSON are sent as gzip where the client accepts it. The length of a
compressed body can reveal a secret in it to a network observer who makes a browser request pages with guesses
(https://breachattack.com). Such requests come from pages of other sites: their responses stay uncompressed. Streams
stay so, too: each part must arrive when it is sent.

**Proxy.** nginx on the same machine reports the client's address and whether it used TLS.
"""

import gzip
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from flask import Flask, Response, g, request
from werkzeug.exceptions import Forbidden, MisdirectedRequest, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

from core.config import WebSettings
from core.embedded_metrics import WEB_METRICS, embedded_metrics
from core.ids import new_id
from core.telemetry import SPANS
from core.tracing import child_of, new_traceparent, parse_traceparent, set_traceparent
from core.tracing import trace_id as trace_id_of
from services.clock import epoch_seconds
from web_tier.auth.identity import known_identity
from web_tier.http.metrics import METHODS, WebMetrics
from web_tier.http.routes import NO_ROUTE, current_route
from web_tier.http.slow_clients import bound_connection

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_log = logging.getLogger(__name__)

_FOR_PROGRAMS = (
    "/api/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/inference/",
    "/predictions/",
    "/classify",
    "/file-upload",
)

_AUTHORITY: Final = re.compile(r"(?:([a-z0-9.-]+)|\[([a-f0-9:.]+)\])(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
_MAX_SHOWN = 80

COMPRESSED_TYPES: Final = frozenset(
    {"application/json", "image/svg+xml", "text/css", "text/html", "text/javascript", "text/plain"}
)

MIN_BYTES: Final = 1_000
"""Smaller bodies fit into the first packet in any case."""

LEVEL: Final = 5
"""Of zlib: level 9 takes two to three times as long for 2% less."""

ANY_ORIGIN = "*"

PROXY: Final = "127.0.0.1"
"""The address from which nginx connects; X-Forwarded-For and X-Forwarded-Proto from others are ignored."""

PREFLIGHT: Mapping[str, str] = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, traceparent",
    "Access-Control-Max-Age": "600",
}
EXPOSED_HEADERS = "Content-Disposition, Link, Location, Retry-After, traceresponse, X-Request-Id"

MAX_LOGGED_PATH: Final = 256
"""Characters of a path in the log; a client that asks for long ones would push other lines out of it."""

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})

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

CONTENT_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        # blob: a thumbnail of a file that is not sent yet; data: the arrow of a menu in fleetsight.css.
        "img-src 'self' blob: data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "connect-src 'self'",
    ]
)

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_POLICY,
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


def request_id() -> str:
    """Return the id of the current request."""
    return str(g.get("request_id", ""))


def trace_id() -> str:
    """Return the id of the current request's trace."""
    return trace_id_of(g.get("traceparent", ""))


def is_own_name(authority: str, names: Collection[str]) -> bool:
    """Return whether `authority`, a host with or without a port, is an IP address or one of `names` (lower case).

    A name that ends with a dot is another name: browsers treat it as another origin.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return False
    name, address = found.groups()
    if name is not None and name.lower() in names:
        return True
    try:
        return ipaddress.ip_address(name or address).version == (6 if name is None else 4)
    except ValueError:
        return False


def claimed_authority(target: str) -> str | None:
    """Return the authority in a request's target in absolute form (RFC 9112, 3.2.2), None in any other form."""
    if target.startswith(("/", "*")) or "://" not in target:
        return None
    try:
        return urlsplit(target).netloc
    except ValueError:
        return ""


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


class Middleware:
    """The checks and headers that the configuration `web` requires for each request to an application.

    Args:
        namespace: of the metrics in CloudWatch; None for log lines without metrics.
        uploads_to: returns the origin to which pages also send images, if there is one.
    """

    def __init__(
        self,
        web: WebSettings,
        metrics: WebMetrics,
        namespace: str | None = None,
        uploads_to: Callable[[], str] = str,
    ) -> None:
        self._metrics, self._namespace, self._uploads_to = metrics, namespace, uploads_to
        self._names = {name.lower() for name in (*web.hosts, web.host, "localhost")}
        self._origins, self._max_drained_bytes = web.cors_origins, web.max_request_bytes

    def install(self, app: Flask) -> None:
        """Check each request to `app` before all others do, and complete and log each response after all others."""
        app.before_request(self._check_request)
        app.after_request(self._complete_response)

    def _check_request(self) -> Response | None:
        """Give the request its ids, check where it is sent and comes from, and answer a preflight request."""
        headers, host = request.headers, request.headers.get("Host", "")
        g.request_id, g.began = new_id(), time.monotonic()
        g.parent = parse_traceparent(headers.get("traceparent"))
        # Not as the client says: its flag could cause the export of every request.
        is_sampled = SPANS.samples()
        g.traceparent = (
            new_traceparent(is_sampled=is_sampled) if g.parent is None else child_of(g.parent, is_sampled=is_sampled)
        )
        set_traceparent(g.traceparent)
        has_body = bool(request.content_length) or "Transfer-Encoding" in headers
        g.body = bound_connection(request.environ, has_body=has_body)
        claimed = claimed_authority(str(request.environ.get("RAW_URI", "/")))
        if not is_own_name(host, self._names) or (claimed is not None and claimed.lower() != host.lower()):
            name = (claimed or host)[:_MAX_SHOWN]
            raise MisdirectedRequest(f"this server is not called {name!r}; its operator can add a name (web.hosts)")
        coding = headers.get("Content-Encoding", "").strip().lower()
        if has_body and coding not in {"", "identity"}:
            raise UnsupportedMediaType(
                f"the body is compressed ({coding[:_MAX_SHOWN]}): send it as it is, without Content-Encoding"
            )
        origin = headers.get("Origin")
        if origin is not None and self._allows(origin):
            is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in headers
            return Response(status=204, headers=dict(PREFLIGHT)) if is_preflight else None
        if request.method in SAFE_METHODS:
            return None
        if is_cross_site(headers.get("Sec-Fetch-Site"), origin, request.host_url.rstrip("/")):
            raise Forbidden("this form was sent from another site; open Fleetsight itself and try again")
        return None

    def _complete_response(self, response: Response) -> Response:
        """Add the headers for browsers and allowed origins, and the request's ids; write the line of the log."""
        headers = response.headers
        if g.body is not None:
            response.call_on_close(partial(g.body.drain, self._max_drained_bytes))
        if bucket := self._uploads_to():
            headers.setdefault("Content-Security-Policy", f"{CONTENT_POLICY} {bucket}")
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if request.is_secure:
            headers.setdefault("Strict-Transport-Security", TLS_ONLY)
        headers.setdefault("Cache-Control", "no-store")
        if self._origins and is_for_programs(request.path):
            response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin is not None and self._allows(origin):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        headers["X-Request-Id"] = request_id()
        headers["traceresponse"] = g.traceparent  # https://w3c.github.io/trace-context/#traceresponse-header
        identity, seconds, route = known_identity(), time.monotonic() - g.began, current_route()
        path = None if route is NO_ROUTE else route.rule
        self._metrics.count_request(request.method, path, response.status_code, seconds)
        if SPANS.wants(g.traceparent):
            export_request(path, response.status_code, seconds)
        is_refusal = HTTPStatus.BAD_REQUEST <= response.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
        level = logging.DEBUG if route.is_quiet and not is_refusal else logging.INFO
        errors: dict[str, object] = {}
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            level = logging.WARNING  # which every configuration writes: CloudWatch makes a metric of it
            errors = {"web_errors": 1} | embedded_metrics(self._namespace, WEB_METRICS)
        _log.log(
            level,
            "%s %s",
            request.method,
            response.status_code,
            extra={
                "status": response.status_code,
                "path": request.path[:MAX_LOGGED_PATH],
                "milliseconds": round(seconds * 1000, 1),
                "request_id": request_id(),
            }
            | ({"user": identity.owner} if identity and not identity.is_local else {})
            | ({"address": request.remote_addr} if is_refusal else {})
            | errors,
        )
        return response

    def _allows(self, origin: str) -> bool:
        """Return whether a page of `origin` may send the current request from another site."""
        return (origin in self._origins or ANY_ORIGIN in self._origins) and is_for_programs(request.path)


def export_request(route: str | None, status: int, seconds: float) -> None:
    """Export the span of the current request: https://opentelemetry.io/docs/specs/semconv/http/http-spans/."""
    method, now = request.method if request.method in METHODS else "_OTHER", epoch_seconds()
    SPANS.export(
        f"{method} {route}" if route else method,
        g.traceparent,
        g.parent,
        now - seconds,
        now,
        kind="SERVER",
        attributes={
            "http.request.method": method,
            "http.response.status_code": status,
            "request_id": request_id(),
            **({"http.route": route} if route else {}),
        },
        is_error=status >= HTTPStatus.INTERNAL_SERVER_ERROR,
    )


def install_compression(app: Flask) -> None:
    """Compress the responses of `app`."""
    app.after_request(_compress)


def _compress(response: Response) -> Response:
    if (
        response.status_code == HTTPStatus.PARTIAL_CONTENT
        or response.mimetype not in COMPRESSED_TYPES
        or (response.content_length or 0) < MIN_BYTES  # the length of a stream is not known
    ):
        return response
    response.vary.add("Accept-Encoding")
    headers = request.headers
    if not request.accept_encodings["gzip"] or is_cross_site(headers.get("Sec-Fetch-Site"), None, ""):
        return response
    response.direct_passthrough = False  # of a file
    response.set_data(gzip.compress(response.get_data(), LEVEL, mtime=0))
    response.headers["Content-Encoding"] = "gzip"
    response.headers.pop("Accept-Ranges", None)
    etag, _ = response.get_etag()
    if etag is not None:
        response.set_etag(etag, weak=True)  # the uncompressed file has the same one
    return response


class BehindProxy:
    """WSGI middleware that applies nginx's X-Forwarded-For and X-Forwarded-Proto and ignores the other headers."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._forwarded = ProxyFix(app, x_for=1, x_proto=1, x_host=0, x_port=0, x_prefix=0)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Call the application."""
        app = self._forwarded if environ.get("REMOTE_ADDR") == PROXY else self._app
        return app(environ, start_response)
