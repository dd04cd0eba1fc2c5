"""gunicorn's threaded worker, with a thread for each connection and a fast parser for plain requests.

Stock gthread returns a connection to its main thread after each answer, which costs a pipe, a selector and a thread
switch per request. Here a thread serves its connection while enough threads are free, and reads and answers a plain
request with one system call each.

gunicorn's parser, which is Python, takes longer to read a request than a direct call takes to answer it. This module
parses a plain head with a few string operations, and passes any other head to gunicorn.
"""

import io
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_to_bytes

from gunicorn.workers.gthread import ThreadWorker

from localcloud.page_guard import WsgiApp

END_OF_HEAD = b"\r\n\r\n"

MAX_HEAD_BYTES = 32 * 1024

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Largest body in bytes that is read into memory at once; gunicorn reads a larger one."""

_REQUEST_LINE = re.compile(r"([A-Z]{3,7}) (/[!-~]*) HTTP/1\.1")

_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab; the line ends were split off before

_NOT_PLAIN = frozenset({"HTTP_TRANSFER_ENCODING", "HTTP_UPGRADE", "HTTP_TE", "HTTP_TRAILER"})

_BODILESS = ("1", "204", "304")


def environ_of(head: bytes) -> dict[str, Any] | None:
    """Return the part of the WSGI environ that a request's head describes, or None if the head is not plain."""
    lines = head.split(b"\r\n")
    if any(map(_CONTROLS.search, lines)):
        return None
    request_line, *fields = head.decode("latin-1").split("\r\n")
    parsed = _REQUEST_LINE.fullmatch(request_line)
    if parsed is None or "#" in request_line:
        return None
    method, target = parsed.groups()
    path, _, query = target.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "RAW_URI": target,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1") if "%" in path else path,
        "QUERY_STRING": query,
    }
    for field in fields:
        name, colon, value = field.partition(":")
        key = _variable(name)
        if not colon or key is None or key in environ:  # a field twice, or folded, or not a name
            return None
        environ[key] = value.strip(" \t")
    return environ if _is_plain(environ) else None


@lru_cache(maxsize=512)
def _variable(name: str) -> str | None:
    """Return the environ variable of a header field, or None if another field's name could yield the same."""
    if not name.isascii() or not name.replace("-", "").isalnum():
        return None
    key = name.upper().replace("-", "_")
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"


def _is_plain(environ: dict[str, Any]) -> bool:
    length = environ.get("CONTENT_LENGTH", "0")
    return (
        "HTTP_HOST" in environ
        and not _NOT_PLAIN.intersection(environ)
        and environ.get("HTTP_CONNECTION", "keep-alive").lower() == "keep-alive"
        and environ.get("HTTP_EXPECT", "100-continue").lower() == "100-continue"
        and (length.isascii() and length.isdigit() and int(length) <= MAX_BODY_BYTES)
    )


def connection_environ(server: tuple[str, int], client: tuple[str, int]) -> dict[str, Any]:
    """Return the part of the WSGI environ that all requests of a connection share."""
    return {
        "SCRIPT_NAME": "",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


def answer_of(application: WsgiApp, environ: dict[str, Any], *, keep_alive: bool) -> bytes:
    """Call an application and return its whole answer as HTTP.

    Raises:
        ValueError: a header field contains a line end.
    """
    begun: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], None]:
        begun[:] = [(status, headers)]
        return written.append

    chunks = application(environ, start_response)
    try:
        written.extend(chunks)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = begun[0]
    bodiless = environ["REQUEST_METHOD"] == "HEAD" or status.startswith(_BODILESS)
    body = b"".join(written)
    return _head_of_answer(status, headers, None if bodiless else len(body), keep_alive) + (b"" if bodiless else body)


def _head_of_answer(status: str, headers: list[tuple[str, str]], length: int | None, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Server: local-cloud", f"Date: {_date(int(time.time()))}"]
    lines.append("Connection: keep-alive" if keep_alive else "Connection: close")
    lines += [f"{name}: {value}" for name, value in headers if name.lower() != "connection"]
    if length is not None and all(name.lower() != "content-length" for name, _ in headers):
        lines.append(f"Content-Length: {length}")
    head = "\r\n".join(lines)
    if head.count("\n") != len(lines) - 1 or head.count("\r") != len(lines) - 1:
        raise ValueError(f"a header field of the answer to be sent has a line end in it: {headers}")
    return head.encode("latin-1") + END_OF_HEAD


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


LINGER_MILLISECONDS = 20
"""Milliseconds that a thread waits for the next request when there are more connections than threads."""

IDLE_WAIT_SECONDS = 2.0
"""Seconds that one receive waits for the next request when there are threads for all connections."""

STALL_SECONDS = 30.0
"""Longest pause in seconds of a client in the middle of a request or an answer."""

_FIRST, _LATER = 64 * 1024, 1024 * 1024  # bytes of one receive


class LingeringWorker(ThreadWorker):  # type: ignore[misc]
    """A worker with threads that keep a connection while requests follow, or while all connections have threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: set[Any] = set()
        self._threads, self._idle_seconds = self.cfg.threads, self.cfg.keepalive

    def handle(self, conn: Any) -> Any:
        """Answer the requests of a connection; return true if it can be used again, as gunicorn's ``handle`` does."""
        conn.sock.setblocking(True)
        conn.init()
        _limit(conn.sock, socket.SO_SNDTIMEO, STALL_SECONDS)
        _limit(conn.sock, socket.SO_RCVTIMEO, IDLE_WAIT_SECONDS)
        conn.connection_environ = connection_environ(conn.server, conn.client)
        try:
            while begun := self._next_bytes(conn):
                if (result := self._answer(conn, begun)) is not True or not self.alive:
                    return result
        except OSError:  # the client disconnected or stalls
            return False
        return begun is None

    def _next_bytes(self, conn: Any) -> bytes | None:
        """Return the first bytes of the next request: empty if the client closed, None if none came in time."""
        if buffered := conn.parser.unreader.take_buffered():
            return bytes(buffered)
        ends = time.monotonic() + self._idle_seconds
        while self.alive and self.nr_conns <= self._threads and time.monotonic() < ends:
            self._idle.add(conn)
            try:
                return bytes(conn.sock.recv(_FIRST))
            except BlockingIOError:
                continue
            finally:
                self._idle.discard(conn)
        poll = select.poll()
        poll.register(conn.sock, select.POLLIN)
        return _receive(conn.sock) if poll.poll(LINGER_MILLISECONDS) else None

    def _answer(self, conn: Any, begun: bytes) -> Any:
        while (end := begun.find(END_OF_HEAD)) < 0 and len(begun) < MAX_HEAD_BYTES and (more := _receive(conn.sock)):
            begun += more
        environ = environ_of(begun[:end]) if end >= 0 else None
        if environ is None:
            _limit(conn.sock, socket.SO_RCVTIMEO, STALL_SECONDS)
            conn.parser.unreader.unread(begun)
            result = super().handle(conn)
            if result is True:
                _limit(conn.sock, socket.SO_RCVTIMEO, IDLE_WAIT_SECONDS)
            return result
        begun, length = begun[end + len(END_OF_HEAD) :], int(environ.get("CONTENT_LENGTH") or 0)
        body, beyond = _read_body(conn.sock, begun, length, "HTTP_EXPECT" in environ)
        if beyond:
            conn.parser.unreader.unread(beyond)
        environ.update(conn.connection_environ)
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            answer = answer_of(self.wsgi, environ, keep_alive=self.alive)
        except ConnectionResetError:  # raised for the switch `faults`; the kernel resets the connection at its close
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        except Exception as error:  # noqa: BLE001 - the edge of the server: other requests must be answered; this logs
            self.handle_error(None, conn.sock, conn.client, error)
            return False
        conn.sock.sendall(answer)
        return self.alive

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Close connections once the server stops."""
        return bool(super()._keepalive_after(conn, keepalive)) and self.alive

    def _cap_keepalive(self, _deadline: float) -> None:
        """Close idle connections at once when the server stops; gunicorn waits two seconds for more requests."""
        super()._cap_keepalive(time.monotonic())
        for conn in list(self._idle):
            with suppress(OSError):  # closed meanwhile
                conn.sock.shutdown(socket.SHUT_RD)


def _limit(sock: socket.socket, option: int, seconds: float) -> None:
    """Let each receive or send fail after `seconds` without progress; the kernel's limit costs no call each time."""
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


def _receive(sock: socket.socket, size: int = _FIRST) -> bytes:
    """Return the next bytes of a request, empty if the client closed.

    Raises:
        TimeoutError: the client sent nothing for `STALL_SECONDS`.
    """
    ends = time.monotonic() + STALL_SECONDS
    while time.monotonic() < ends:
        with suppress(BlockingIOError):
            return sock.recv(size)
    raise TimeoutError(f"a client paused for {STALL_SECONDS} s in the middle of a request")


def _read_body(sock: socket.socket, begun: bytes, length: int, expected: bool) -> tuple[bytes, bytes]:
    """Return a body, which begins with `begun`, and the bytes after it; it is too short if the client closed.

    If `expected`, the client waits for ``100 Continue`` before it sends the body.
    """
    if len(begun) >= length:
        return begun[:length], begun[length:]
    if expected:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    chunks, missing = [begun], length - len(begun)
    while missing and (chunk := _receive(sock, min(missing, _LATER))):
        chunks.append(chunk)
        missing -= len(chunk)
    return b"".join(chunks), b""
