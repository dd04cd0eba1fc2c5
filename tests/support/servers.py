"""Servers for tests: a Flask application or a metadata service (IMDSv2) in a thread."""

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any, Self

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
            yield f"http://127.0.0.1:{server.server_address[1]}"  # werkzeug sets no port where it is given a socket
        finally:
            server.shutdown()
            thread.join(DEADLINE_SECONDS)


class QuietHandler(BaseHTTPRequestHandler):
    """Logs nothing."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


ScriptedAnswer = tuple[int | str, str]
"""Status and body; `cut` in place of a status ends the connection within the answer, `last` after it."""


class ScriptedServer(ThreadingHTTPServer):
    """Gives each of `answers` once, and otherwise `default`.

    Attributes:
        received: method, path, headers and body of each request.
        connections: addresses of the clients.
        closed: whether an answer has ended its connection.
        date: in the answers, in place of the present.
    """

    daemon_threads = True

    def __init__(self, default: ScriptedAnswer = (200, "")) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptedHandler)
        self.default, self.answers = default, list[ScriptedAnswer]()
        self.received: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections, self.closed, self.date = set[Any](), threading.Event(), ""


class _ScriptedHandler(QuietHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.received.append((self.command, self.path, headers, body))
        self.server.connections.add(self.client_address)
        status, text = self.server.answers.pop(0) if self.server.answers else self.server.default
        sent = text.encode()
        self.send_response(status if isinstance(status, int) else 200)
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("ETag", '"e"')
        self.end_headers()
        self.wfile.write(sent[:5] if status == "cut" else sent)
        self.close_connection = status in {"cut", "last"}

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 (the names that http.server calls)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return self.server.date or super().date_time_string(timestamp)

    def finish(self) -> None:
        super().finish()
        if self.close_connection:
            self.connection.close()
            self.server.closed.set()


INSTANCE_ID = "i-0123456789abcdef0"
SPOT_ACTION = "spot/instance-action"
SPOT_NOTICE = json.dumps({"action": "terminate", "time": "2026-01-01T00:00:00Z"})

Answer = tuple[int, str]
"""Status and body."""


class MetadataService(ThreadingHTTPServer):
    """Serves clients that show the last token.

    Attributes:
        url: of the service.
        answers: by path below `/latest/meta-data/`, given in turn, the last one for good; other paths get 404.
        tokens: how many were given.
        token_status: of the next tokens.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers: dict[str, list[Answer]] = {"instance-id": [(200, INSTANCE_ID)]}
        self.tokens = 0
        self.token_status = 200

    @classmethod
    @contextmanager
    def serve(cls) -> Iterator[Self]:
        """Serve in a thread."""
        service = cls()
        with serving(service):
            yield service


class _Handler(QuietHandler):
    server: MetadataService

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert 0 < int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
        self.server.tokens += 1
        self._answer(self.server.token_status, f"token-{self.server.tokens}")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != f"token-{self.server.tokens}":
            self._answer(401, "")
            return
        answers = self.server.answers.get(self.path.removeprefix("/latest/meta-data/"), [(404, "")])
        self._answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
