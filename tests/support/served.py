"""Servers that answer over the wire, in a thread of the test's process."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import HTTPServer

from flask import Flask
from werkzeug.serving import make_server

from tests.support.waiting import DEADLINE_SECONDS


def served(app: Flask) -> AbstractContextManager[str]:
    """Serve `app` on a free port of loopback; the context is its address."""
    return serving(make_server("127.0.0.1", 0, app, threaded=True))


@contextmanager
def serving(server: HTTPServer) -> Iterator[str]:
    """Run `server` in a thread, yield its address, and close it."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(DEADLINE_SECONDS)
