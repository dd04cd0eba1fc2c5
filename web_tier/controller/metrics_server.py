"""The controller's metrics over HTTP, at `/metrics` on a port of the loopback interface.

There is no sign-in: each program of this machine can read them. Pages that a browser of this machine shows cannot:
requests with the headers of such a page are rejected, and so are requests for another name than a loopback one (DNS
rebinding). Requests are answered one after another.
"""

import logging
from http import HTTPStatus
from http.server import HTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from core.config import is_loopback
from services.threads import DaemonThread

LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/metrics"
CLIENT_SECONDS: Final = 5.0
"""Longest wait for a client, which blocks the others."""

_log = logging.getLogger(__name__)


class _Handler(MetricsHandler):
    timeout = CLIENT_SECONDS

    def do_GET(self) -> None:  # noqa: N802 (the interface)
        if not _is_loopback_name(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif "Origin" in self.headers or self.headers.get("Sec-Fetch-Site", "none") != "none":
            self.send_error(HTTPStatus.FORBIDDEN)
        elif self.path.partition("?")[0] != PATH:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            super().do_GET()


class _Server(HTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (the interface)
        """Log that a client has not received the metrics."""
        _log.info("a client has not received the metrics", exc_info=True)


def serve_metrics(registry: CollectorRegistry, port: int) -> HTTPServer | None:
    """Serve the metrics of `registry` in a thread; port 0 serves none.

    A port that cannot be used is logged and stops nothing: the fleet needs its controller more than its metrics.
    """
    if not port:
        return None
    try:
        server = _Server((LOOPBACK, port), _Handler.factory(registry))
    except OSError as error:
        _log.error(
            "no metrics are served: cannot listen on %s:%d: %s; set metrics.controller_port to a free port, or to 0",
            LOOPBACK,
            port,
            error.strerror,
        )
        return None
    DaemonThread(server.serve_forever, name="metrics").start()
    return server


def _is_loopback_name(host: str) -> bool:
    """Return whether `host`, a name with or without a port, is loopback."""
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
