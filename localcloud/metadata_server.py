"""Serves an instance's metadata where the instance looks: on a loopback port of its own, or in its own network."""

import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from localcloud.clients import CloudUnreachableError, ControlClient, NotLaunchedError
from localcloud.machines.network import METADATA_ADDRESS
from localcloud.metadata import NOT_FOUND, Answer, MetadataService, Tokens
from localcloud.page_guard import is_from_a_page, is_local_host

HOST = "127.0.0.1"
RETRY_SECONDS = 0.05
REFRESH_BEFORE_SECONDS = 900  # an SDK asks for new credentials a quarter of an hour before they expire


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    service: MetadataService

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60  # an idle connection gives its thread back
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        host = headers.get("host", "")
        if not (is_local_host(host) or host == METADATA_ADDRESS):
            self._write(Answer(HTTPStatus.FORBIDDEN, f"the host {host!r} is not the metadata service"))
            return
        if is_from_a_page(headers.get("origin"), headers.get("sec-fetch-site")):
            self._write(Answer(HTTPStatus.FORBIDDEN, "web pages may not read metadata"))
            return
        try:
            answer = self.server.service.answer(self.command, unquote(self.path.partition("?")[0]), headers)
        except NotLaunchedError:
            answer = NOT_FOUND
        except CloudUnreachableError as error:
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        body = answer.body.encode("latin-1", "replace")
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing: requests are routine."""


def loopback_listener(directory: Path) -> socket.socket:
    """Listen on a loopback port that is kept in the instance's directory: a hypervisor that takes over has it too.

    Raises:
        OSError: the port of an earlier run is taken.
    """
    listener = socket.create_server((HOST, int(_kept(directory / "port", lambda: "0"))))
    (directory / "port").write_text(str(listener.getsockname()[1]))
    return listener


class MetadataServer:
    """The running metadata service of one instance.

    The key of its tokens is kept in the instance's directory: those of a hypervisor before this one stay valid.

    Args:
        endpoint_url: of the cloud.
        instance_id: of the metadata.
        directory: of the instance.
        listener: listens where the instance looks; closed with the service.
    """

    def __init__(self, endpoint_url: str, instance_id: str, directory: Path, listener: socket.socket) -> None:
        self._endpoint_url, self._path = endpoint_url, f"instances/{instance_id}"
        key = _kept(directory / "metadata-key", lambda: secrets.token_hex(32))
        credentials = RefreshedCredentials(lambda: self._ask("/credentials"))
        self._server = _Server(listener)
        self._server.service = MetadataService(lambda: self._ask(""), credentials, Tokens(key.encode()))
        self._closed = False
        threading.Thread(target=self._accept, name=instance_id, daemon=True).start()

    @property
    def url(self) -> str:
        """The endpoint as an SDK wants it."""
        host, port = self._server.socket.getsockname()
        return f"http://{host}:{port}/"

    def close(self) -> None:
        """Stop serving; the port is free when this returns."""
        self._closed = True
        self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._server.server_close()

    def _accept(self) -> None:
        """Serve each connection in a thread of its own; unlike `serve_forever`, sleep without waking up."""
        while not self._closed:
            try:
                self._server.process_request(*self._server.get_request())
            except OSError:
                time.sleep(0 if self._closed else RETRY_SECONDS)  # aborted by its peer, or no descriptors left

    def _ask(self, what: str) -> dict[str, Any]:
        client = ControlClient(self._endpoint_url)
        try:
            return client.get(self._path + what)
        finally:
            client.close()


class RefreshedCredentials:
    """Credentials that are asked for once and again before they expire.

    Args:
        ask: returns new ones.
        clock: seconds since the epoch.
    """

    def __init__(self, ask: Callable[[], Mapping[str, Any]], clock: Callable[[], float] = time.time) -> None:
        self._ask, self._clock = ask, clock
        self._lock = threading.Lock()
        self._current: Mapping[str, Any] | None = None

    def __call__(self) -> Mapping[str, Any]:
        """Return credentials that are valid for a while."""
        with self._lock:
            if self._current is None or self._expires() - self._clock() < REFRESH_BEFORE_SECONDS:
                self._current = self._ask()
            return self._current

    def _expires(self) -> float:
        text = self._current["Expiration"] if self._current else "1970-01-01T00:00:00Z"
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def _kept(path: Path, new: Callable[[], str]) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        value = new()
        path.touch(mode=0o600)
        path.write_text(value)
        return value
