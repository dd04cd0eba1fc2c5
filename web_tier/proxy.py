"""Client addresses and TLS as reported by nginx on the same machine."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PROXY: Final = "127.0.0.1"
"""The address from which nginx connects; X-Forwarded-For and X-Forwarded-Proto from others are ignored."""


class BehindProxy:
    """WSGI middleware that applies nginx's X-Forwarded-For and X-Forwarded-Proto and ignores the other headers."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._forwarded = ProxyFix(app, x_for=1, x_proto=1, x_host=0, x_port=0, x_prefix=0)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Call the application."""
        app = self._forwarded if environ.get("REMOTE_ADDR") == PROXY else self._app
        return app(environ, start_response)
