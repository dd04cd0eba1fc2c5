"""Refuses requests that web pages send to the local cloud.

Any page that the user visits can send requests to the ports of this machine, and EC2 here starts programs. AWS's own
clients send neither `Origin` nor `Sec-Fetch-Site`. A browser sends `Sec-Fetch-Site` with every request to loopback
(https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header), and `Origin` with every one that is more than a read
(https://fetch.spec.whatwg.org/#origin-header). A page that reaches this machine by DNS rebinding has another `Host`.

Pages may only send forms that POST Object checks, from an origin that the bucket's CORS rules allow
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/cors.html).
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from werkzeug.http import parse_options_header

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]
"""A WSGI application."""

Header = tuple[str, str]

LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
"""Names of this machine that no name server decides. All names below `localhost` count, too (RFC 6761)."""

_BUCKET = re.compile(r"/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/?")

_PREFLIGHT_SECONDS = "3600"


class PageGuard:
    """WSGI middleware that answers the requests of web pages with 403; `cloud` answers all others.

    `may_post` returns True if the CORS rules of a bucket let pages of an origin POST, by bucket and origin.
    """

    def __init__(self, cloud: WsgiApp, may_post: Callable[[str, str], bool]) -> None:
        self._cloud, self._may_post = cloud, may_post

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        host = environ.get("HTTP_HOST", "")
        if not is_local_host(host):
            return _refuse(start_response, f"the host {host!r} is not this machine: use 127.0.0.1 or localhost")
        if not is_from_a_page(environ.get("HTTP_ORIGIN"), environ.get("HTTP_SEC_FETCH_SITE")):
            return self._cloud(environ, start_response)
        return self._answer_page(environ, start_response)

    def _answer_page(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        origin, method = environ.get("HTTP_ORIGIN", ""), environ["REQUEST_METHOD"]
        bucket = bucket_at(environ)
        if not bucket or not (is_form(environ) or method == "OPTIONS") or not self._may_post(bucket, origin):
            return _refuse(start_response, "web pages may not use this cloud")
        allowed = [("Access-Control-Allow-Origin", origin), ("Vary", "Origin")]
        if method == "OPTIONS":
            more = [("Access-Control-Allow-Methods", "POST"), ("Access-Control-Max-Age", _PREFLIGHT_SECONDS)]
            if requested := environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS"):
                more.append(("Access-Control-Allow-Headers", requested))
            start_response("200 OK", [*allowed, *more, ("Content-Length", "0")])
            return ()

        def start(status: str, headers: list[Header], *error: Any) -> Any:
            return start_response(status, [*headers, *allowed], *error)

        return self._cloud(environ, start)


@functools.lru_cache(100)
def is_local_host(host: str) -> bool:
    """Return True if a `Host` header names this machine, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in LOCAL_HOSTS or name.endswith(".localhost")


def is_from_a_page(origin: str | None, site: str | None) -> bool:
    """Return True if the headers `Origin` and `Sec-Fetch-Site` show that a web page sent the request."""
    return origin is not None or site not in {None, "none"}


def bucket_at(environ: dict[str, Any]) -> str | None:
    """Return the bucket that the path of a request names, or None if the path is not that of a bucket."""
    found = _BUCKET.fullmatch(environ.get("PATH_INFO", ""))
    return found[1] if found else None


def is_form(environ: dict[str, Any]) -> bool:
    """Return True if a request is POST Object."""
    if environ["REQUEST_METHOD"] != "POST" or bucket_at(environ) is None:
        return False
    return parse_options_header(environ.get("CONTENT_TYPE"))[0] == "multipart/form-data"


def bucket_allows_post(bucket: str, origin: str) -> bool:
    """Return True if a CORS rule of a bucket lets pages of `origin` POST."""
    from moto.s3.models import s3_backends

    backends = [backend for account in list(s3_backends.values()) for backend in list(account.values())]
    rules = [rule for backend in backends if (found := backend.buckets.get(bucket)) for rule in found.cors]
    return any("POST" in rule.allowed_methods and {origin, "*"} & set(rule.allowed_origins) for rule in rules)


def _refuse(start_response: Any, reason: str) -> Iterable[bytes]:
    body = reason.encode()
    start_response("403 Forbidden", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return (body,)
