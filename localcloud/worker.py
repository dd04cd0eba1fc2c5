"""gunicorn's threaded worker, with a thread for each connection and a short way for plain requests.

Stock gthread hands a connection back to its main thread after each answer and gets it again for the next request:
a pipe, a selector and a thread change for each. Here a thread stays with its connection while there are threads
enough, and reads and answers a plain request in one call of the kernel each.
"""

import io
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from localcloud.plain_http import END_OF_HEAD, MAX_HEAD_BYTES, answer_of, environ_of, surroundings

LINGER_MILLISECONDS = 20
"""How long a thread waits for the next request when there are more connections than threads."""

REST_SECONDS = 2.0
"""How long a thread waits at a time when it has a connection to itself."""

STALL_SECONDS = 30.0
"""How long a client may pause in the middle of a request or an answer."""

_FIRST, _LATER = 64 * 1024, 1024 * 1024  # bytes asked for at a time


class LingeringWorker(ThreadWorker):  # type: ignore[misc]
    """A thread keeps its connection for as long as requests follow, or as there are threads for all connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._resting: set[Any] = set()
        self._threads, self._idle_seconds = self.cfg.threads, self.cfg.keepalive

    def handle(self, conn: Any) -> Any:
        """Answer the requests of a connection.

        Returns:
            What gunicorn's own ``handle`` does: true when the connection can be used again.
        """
        conn.sock.setblocking(True)
        conn.init()
        _limit(conn.sock, socket.SO_SNDTIMEO, STALL_SECONDS)
        _limit(conn.sock, socket.SO_RCVTIMEO, REST_SECONDS)
        conn.surroundings = surroundings(conn.server, conn.client)
        try:
            while begun := self._next_bytes(conn):
                if (result := self._answer(conn, begun)) is not True or not self.alive:
                    return result
        except OSError:  # the client has gone, or stalls
            return False
        return begun is None

    def _next_bytes(self, conn: Any) -> bytes | None:
        """Wait for the next request: its first bytes, none when the client has closed, None when it is too early."""
        if buffered := conn.parser.unreader.take_buffered():
            return bytes(buffered)
        ends = time.monotonic() + self._idle_seconds
        while self.alive and self.nr_conns <= self._threads and time.monotonic() < ends:
            if (received := self._rest(conn)) is not None:
                return received
        return _receive(conn.sock) if _readable(conn.sock) else None

    def _rest(self, conn: Any) -> bytes | None:
        self._resting.add(conn)
        try:
            return bytes(conn.sock.recv(_FIRST))
        except BlockingIOError:
            return None
        finally:
            self._resting.discard(conn)

    def _answer(self, conn: Any, begun: bytes) -> Any:
        head, rest = _read_head(conn.sock, begun)
        environ = environ_of(head) if rest is not None else None
        if environ is None or rest is None:
            return self._answer_as_gunicorn(conn, head if rest is None else head + END_OF_HEAD + rest)
        body, beyond = _read_body(conn.sock, rest, int(environ.get("CONTENT_LENGTH") or 0), "HTTP_EXPECT" in environ)
        if beyond:
            conn.parser.unreader.unread(beyond)
        environ.update(conn.surroundings)
        environ["wsgi.input"] = io.BytesIO(body)
        try:
            answer = answer_of(self.wsgi, environ, keep_alive=self.alive)
        except ConnectionResetError:  # by the switch `faults`
            _set_to_reset(conn.sock)
            return False
        except Exception as error:  # noqa: BLE001 - the edge of the server: other requests must be answered; this logs
            self.handle_error(None, conn.sock, conn.client, error)
            return False
        conn.sock.sendall(answer)
        return self.alive

    def _answer_as_gunicorn(self, conn: Any, begun: bytes) -> Any:
        _limit(conn.sock, socket.SO_RCVTIMEO, STALL_SECONDS)
        conn.parser.unreader.unread(begun)
        result = super().handle(conn)
        if result is True:
            _limit(conn.sock, socket.SO_RCVTIMEO, REST_SECONDS)
        return result

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Keep no connection once the server stops."""
        return bool(super()._keepalive_after(conn, keepalive)) and self.alive

    def _cap_keepalive(self, _deadline: float) -> None:
        """Close idle connections at once when the server stops; gunicorn waits two seconds for more requests."""
        super()._cap_keepalive(time.monotonic())
        for conn in list(self._resting):
            with suppress(OSError):  # closed in this moment
                conn.sock.shutdown(socket.SHUT_RD)


def _limit(sock: socket.socket, option: int, seconds: float) -> None:
    """Let each receive or send end after so long without progress; the kernel's limit costs no call for each."""
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))


def _set_to_reset(sock: socket.socket) -> None:
    """Let the end of a connection be a reset, and not a close in good order."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(LINGER_MILLISECONDS))


def _receive(sock: socket.socket, size: int = _FIRST) -> bytes:
    """Return what comes next of a request, nothing when the client has closed.

    Raises:
        TimeoutError: nothing came for `STALL_SECONDS`.
    """
    ends = time.monotonic() + STALL_SECONDS
    while time.monotonic() < ends:
        with suppress(BlockingIOError):
            return sock.recv(size)
    raise TimeoutError(f"a client paused for {STALL_SECONDS} s in the middle of a request")


def _read_head(sock: socket.socket, begun: bytes) -> tuple[bytes, bytes | None]:
    """Return a request's head and what came behind it; None behind one that does not end within `MAX_HEAD_BYTES`."""
    while (end := begun.find(END_OF_HEAD)) < 0:
        more = _receive(sock) if len(begun) < MAX_HEAD_BYTES else b""
        if not more:
            return begun, None
        begun += more
    return begun[:end], begun[end + len(END_OF_HEAD) :]


def _read_body(sock: socket.socket, begun: bytes, length: int, expected: bool) -> tuple[bytes, bytes]:
    """Return a body and what came behind it; shorter than its length when the client has closed.

    Args:
        sock: where the rest is to be read.
        begun: what came with the head.
        length: bytes that the head promised.
        expected: the client waits for a word before it sends the body.
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
