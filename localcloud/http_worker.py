"""gunicorn's threaded worker: its main thread answers most calls, and has a fast parser for plain requests.

Stock gthread answers each request in a thread. Threads that are busy at the same time pass the interpreter's lock to
each other at each system call, which took more CPU time than the calls. So the main thread answers direct calls (see
`dispatch`) itself, which take less than a millisecond. A thread answers each other request, each receive that waits,
and each large body.

gunicorn's parser, which is Python, takes longer to read a request than a direct call takes to answer it. This module
parses a plain head with a few string operations, and passes any other head to gunicorn.
"""

import errno
import io
import re
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from gunicorn.workers.gthread import TConn, ThreadWorker

from localcloud.clock import wall_seconds
from localcloud.dispatch import INLINE, WouldWaitError, is_direct
from localcloud.page_guard import WsgiApp
from localcloud.s3.contents import Body, JoinedContent, pieces_of
from localcloud.store import data

_T = TypeVar("_T")

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


Answer = tuple[bytes, Body]
"""A whole answer in HTTP: head and body, so that no large body is copied."""


def answer_of(application: WsgiApp, environ: dict[str, Any], *, keep_alive: bool) -> Answer:
    """Call an application and return its whole answer.

    Raises:
        ValueError: a header field contains a line end.
    """
    begun: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], None]:
        begun[:] = [(status, headers)]
        return written.append

    chunks = application(environ, start_response)
    body: Body
    try:
        if isinstance(chunks, JoinedContent):
            body = chunks  # it is read as it is sent
        else:
            written.extend(chunks)
            body = b"".join(written)
    finally:
        if hasattr(chunks, "close"):
            chunks.close()
    status, headers = begun[0]
    bodiless = environ["REQUEST_METHOD"] == "HEAD" or status.startswith(_BODILESS)
    return _head_of_answer(status, headers, None if bodiless else len(body), keep_alive), b"" if bodiless else body


def _head_of_answer(status: str, headers: list[tuple[str, str]], length: int | None, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Server: local-cloud", f"Date: {_date(int(wall_seconds()))}"]
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


STALL_SECONDS = 30.0
"""Longest pause in seconds of a client in the middle of a request or an answer."""

MAX_INLINE_BYTES = 1024 * 1024
"""Largest request in bytes that the main thread answers."""

_RECEIVE_BYTES = 128 * 1024


class InlineWorker(ThreadWorker):  # type: ignore[misc]
    """A worker. Its main thread reads all connections, and answers the calls that cannot block."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watched: dict[Any, float] = {}
        """Connections that the main thread reads, each with the time of its last request."""
        self._held: list[tuple[Any, Answer]] = []
        """With a state: answers of this round of events, which are sent when the disk has what they confirm."""

    def notify(self) -> None:
        """Do nothing: without a timeout gunicorn checks no heartbeat, and writing one took a tenth of the CPU."""

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Answer the requests that have come; with a state make their changes durable together."""
        super().wait_for_and_dispatch_events(timeout)
        if data().is_durable:
            self._send_held()

    def _send_held(self) -> None:
        data().commit()
        while self._held:
            held, self._held = self._held, []
            for conn, answer in held:
                conn.is_held = False
                if conn in self._watched and self._send(conn, answer):
                    self._answer_begun(conn)
            data().commit()  # of the next requests that the same clients had sent already

    def accept(self, listener: Any) -> None:
        """Accept a connection, and read it in the main thread."""
        try:
            sock, address = listener.accept()
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK}:
                return
            raise
        self.nr_conns += 1
        conn = TConn(self.cfg, sock, address, listener.getsockname())
        _limit(sock, socket.SO_SNDTIMEO, STALL_SECONDS)
        _limit(sock, socket.SO_RCVTIMEO, STALL_SECONDS)
        conn.connection_environ = connection_environ(conn.server, conn.client)
        self._watch(conn, b"")

    def _watch(self, conn: Any, begun: bytes) -> None:
        """Read a connection in the main thread; `begun` are bytes of its next request."""
        conn.sock.setblocking(False)
        conn.begun, conn.needed, conn.is_held = begun, 0, False
        self._watched[conn] = time.monotonic()
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        if begun:
            self._answer_begun(conn)

    def _unwatch(self, conn: Any) -> bytes:
        del self._watched[conn]
        self.poller.unregister(conn.sock)
        return bytes(conn.begun)

    def _drop(self, conn: Any) -> None:
        self._unwatch(conn)
        self.nr_conns -= 1
        conn.close()

    def _on_readable(self, conn: Any, sock: socket.socket) -> None:
        try:
            received = sock.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._drop(conn)
            return
        conn.begun += received
        self._watched[conn] = time.monotonic()
        if len(conn.begun) >= conn.needed:
            self._answer_begun(conn)

    def _answer_begun(self, conn: Any) -> None:
        """Answer each whole request that a connection has begun, here or in a thread."""
        while conn.begun and not conn.is_held and (environ := self._whole_request(conn)) is not None:
            try:
                answer = answer_of(self.wsgi, environ, keep_alive=self.alive)
            except WouldWaitError:
                self._hand_over(conn)
                return
            except Exception as error:  # noqa: BLE001 - the edge of the server: other requests must be answered
                conn.sock.setblocking(True)
                self.handle_error(None, conn.sock, conn.client, error)
                self._drop(conn)
                return
            conn.begun, conn.needed = conn.begun[conn.needed :], 0
            if data().is_durable:
                conn.is_held = True
                self._held.append((conn, answer))
            elif not self._send(conn, answer):
                return

    def _whole_request(self, conn: Any) -> dict[str, Any] | None:
        """Return the next request of a connection; None if it is incomplete, or a thread answers it."""
        end = conn.begun.find(END_OF_HEAD)
        if end < 0 and len(conn.begun) < MAX_HEAD_BYTES:
            return None
        environ = environ_of(conn.begun[:end]) if end >= 0 else None
        start = end + len(END_OF_HEAD)
        conn.needed = start if environ is None else start + int(environ.get("CONTENT_LENGTH") or 0)
        is_inline = environ is not None and is_direct(environ) and "HTTP_EXPECT" not in environ
        if environ is None or not is_inline or conn.needed > MAX_INLINE_BYTES:
            self._hand_over(conn)
            return None
        if len(conn.begun) < conn.needed:
            return None
        environ |= conn.connection_environ
        environ["wsgi.input"], environ[INLINE] = io.BytesIO(conn.begun[start : conn.needed]), True
        return environ

    def _send(self, conn: Any, answer: Answer) -> bool:
        """Send an answer; return False if a thread sends the rest, or the connection has ended."""
        head, body = answer
        if not isinstance(body, bytes):
            self._submit(conn, self._send_rest, chain((head,), pieces_of(body)), self._unwatch(conn))
            return False
        try:
            sent = conn.sock.sendmsg((head, body))
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(conn)
            return False
        if sent == len(head) + len(body):
            if not self.alive:
                self._drop(conn)
            return bool(self.alive)
        begun = self._unwatch(conn)
        self._submit(conn, self._send_rest, (head[sent:], memoryview(body)[max(0, sent - len(head)) :]), begun)
        return False

    def _send_rest(self, conn: Any, rest: Iterable[bytes | memoryview], begun: bytes) -> bool:
        conn.sock.setblocking(True)
        for part in rest:
            conn.sock.sendall(part)
        conn.begun = begun
        return True

    def _hand_over(self, conn: Any) -> None:
        """Let a thread answer the request that a connection has begun."""
        self._submit(conn, self._answer_all, self._unwatch(conn))

    def _submit(self, conn: Any, work: Callable[..., bool], *arguments: Any) -> None:
        def run() -> bool:
            is_kept = False
            try:
                with suppress(OSError):  # the client disconnected or stalls
                    is_kept = work(conn, *arguments) and self.alive
            finally:
                if not is_kept:
                    conn.close(graceful=True)  # in this thread, since it waits for the client
            return is_kept

        done = self.tpool.submit(run)
        done.add_done_callback(lambda future: self.method_queue.defer(self.finish_request, conn, future))

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Read a connection again once a thread has answered its requests, or forget it."""
        if fs.exception() is None and fs.result():
            self._watch(conn, conn.begun)
        else:
            self.nr_conns -= 1

    def _answer_all(self, conn: Any, begun: bytes) -> bool:
        """Answer the request that begins with `begun`, and those sent with it; return False to end the connection."""
        conn.sock.setblocking(True)
        conn.init()
        while begun:
            if not self._answer(conn, begun):
                return False
            begun = bytes(conn.parser.unreader.take_buffered())
        conn.begun = b""
        return True

    def _answer(self, conn: Any, begun: bytes) -> bool:
        while (end := begun.find(END_OF_HEAD)) < 0 and len(begun) < MAX_HEAD_BYTES:
            if not (more := _received(conn.sock.recv, _RECEIVE_BYTES)):
                break
            begun += more
        environ = environ_of(begun[:end]) if end >= 0 else None
        if environ is None:
            conn.parser.unreader.unread(begun)
            return super().handle(conn) is True
        begun, length = begun[end + len(END_OF_HEAD) :], int(environ.get("CONTENT_LENGTH") or 0)
        body, beyond = _read_body(conn.sock, begun, length, "HTTP_EXPECT" in environ)
        if beyond:
            conn.parser.unreader.unread(beyond)
        environ.update(conn.connection_environ)
        environ["wsgi.input"] = body
        try:
            head, content = answer_of(self.wsgi, environ, keep_alive=self.alive)
        except ConnectionResetError:  # raised for the switch `faults`; the kernel resets the connection at its close
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            conn.close()
            return False
        except Exception as error:  # noqa: BLE001 - the edge of the server: other requests must be answered; this logs
            self.handle_error(None, conn.sock, conn.client, error)
            return False
        for piece in chain((head,), pieces_of(content)):
            conn.sock.sendall(piece)
        return True

    def murder_keepalived(self, force: bool = False) -> None:
        """Close connections that were idle for too long, or all."""
        oldest = time.monotonic() - self.cfg.keepalive
        for conn in [conn for conn, since in self._watched.items() if force or since < oldest]:
            self._drop(conn)

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Close connections once the server stops."""
        return bool(super()._keepalive_after(conn, keepalive)) and self.alive

    def _cap_keepalive(self, _deadline: float) -> None:
        """Close idle connections at once when the server stops; gunicorn waits two seconds for more requests."""
        self.murder_keepalived(force=True)


def _limit(sock: socket.socket, option: int, seconds: float) -> None:
    """Let each receive or send fail after `seconds` without progress; the kernel's limit costs no call each time."""
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


def _received(receive: Callable[..., _T], *arguments: Any) -> _T:
    """Return what a receive of the next bytes of a request returns: nothing, or 0, if the client closed.

    Raises:
        TimeoutError: the client sent nothing for `STALL_SECONDS`.
    """
    ends = time.monotonic() + STALL_SECONDS
    while time.monotonic() < ends:
        with suppress(BlockingIOError):
            return receive(*arguments)
    raise TimeoutError(f"a client paused for {STALL_SECONDS} s in the middle of a request")


def _read_body(sock: socket.socket, begun: bytes, length: int, expected: bool) -> tuple[io.BytesIO, bytes]:
    """Return a body, which begins with `begun`, and the bytes after it; it is too short if the client closed.

    If `expected`, the client waits for ``100 Continue`` before it sends the body.
    """
    if len(begun) >= length:
        return io.BytesIO(begun[:length]), begun[length:]
    if expected:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    # The kernel writes to where the application reads: photos of some megabytes are not copied.
    body, filled = io.BytesIO(bytes(length)), len(begun)
    with body.getbuffer() as room:
        room[:filled] = begun
        while filled < length and (count := _received(sock.recv_into, room[filled:], 0, socket.MSG_WAITALL)):
            filled += count
    body.truncate(filled)
    return body, b""
