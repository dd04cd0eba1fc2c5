"""What nginx on this machine says of a client, where it stands in front: its address, and that it came by TLS."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PROXY: Final = "127.0.0.1"
"""The address from which nginx connects; X-Forwarded-For and X-Forwarded-Proto of others are not believed."""


class BehindProxy:
    """An application as those see it who come through nginx; X-Forwarded-Host and the like are never believed."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app
        self._as_told = ProxyFix(app, x_for=1, x_proto=1, x_host=0, x_port=0, x_prefix=0)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        app = self._as_told if environ.get("REMOTE_ADDR") == PROXY else self._app
        return app(environ, start_response)
