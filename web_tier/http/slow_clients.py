"""Clients that are slow, idle or break off: bounds for connections, and for the head, body and response of a request.

gunicorn would give each new connection a thread for some seconds, and then read the head of its request without a
limit. `BoundedThreadWorker` reads heads in its main loop, so only a whole head costs a thread; it bounds the
connections that wait, and responses. `TimeoutStream` bounds bodies and refuses those that break off: behind nginx a
body is complete before it arrives here; on one machine nothing else checks it.
"""

import errno
import json
import math
import selectors
import socket
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from contextvars import copy_context
from functools import cache, partial
from http import HTTPStatus
from typing import IO, Any, Final

from gunicorn.http import errors
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker
from werkzeug.exceptions import BadRequest, HTTPException, RequestTimeout
from werkzeug.http import HTTP_STATUS_CODES
from werkzeug.wsgi import get_content_length

from core.ids import new_id
from core.tracing import new_traceparent, trace_id
from services.clock import CLOCK, Clock
from web_tier.http.rate_limits import network_of

HEAD_SECONDS = 10.0
"""Seconds that the head of a request may take, as in nginx."""

MAX_HEAD_BYTES: Final = 32 * 1024
"""Bytes of a head, as in nginx: while it is incomplete it is in memory."""

WAITING_OF_ONE_ADDRESS: Final = 0.5
"""Share of the connections of a process which may wait for the head of a request for one address."""

LEFT_THREADS: Final = 1 / 8
"""Share of the threads of a process that one address leaves to others: slow bodies and answers hold theirs."""

ANSWER_SECONDS = 60.0
"""Seconds that a client may take to receive a piece of its response."""

LINGER_SECONDS = 5.0
"""Seconds for which the rest of a body is received and dropped after its response."""

MAX_UNREAD_BYTES: Final = 64 * 1024
"""Bytes of a body that may be unread when its response begins. If there are more, the response says that the
connection is closed."""

STALL_SECONDS: Final = 20.0
"""Seconds without a byte after which a body is given up."""

READ_SECONDS: Final = 60.0
"""Seconds that a client may take to fill one read of a body of unknown length: gunicorn returns when it is full."""

READ_BYTES: Final = 64 * 1024
"""Bytes of one read of a body of unknown length, or of all of a body."""

GRACE_SECONDS: Final = 30.0
MIN_BYTES_PER_SECOND: Final = 1024
"""Minimum average rate of a body after the grace; only the time that is spent waiting for the client counts."""

MIN_BYTES_PER_CPU_SECOND: Final = 4 * 2**20
"""Minimum bytes of a body of unknown length for a second of CPU time. Chunks of one byte take 400 times as long to
parse as chunks of 8 KB."""

_ACCEPTED_AT_ONCE: Final = 100
"""Connections that are accepted before others are read."""

_READ_BYTES: Final = 8192
"""Bytes that are read at once, as by gunicorn."""


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

_STATUS_OF: Final[dict[type[Exception], HTTPStatus]] = {
    errors.LimitRequestLine: HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: HTTPStatus.NOT_IMPLEMENTED,
}
"""Status of a request with a head that gunicorn's parser refuses; others get 400."""


class _Connection(TConn):  # type: ignore[misc]
    """A connection.

    Attributes:
        network: the address under which it is counted.
        head: what has arrived of a head that is not complete.
        since: when it became idle or its head began, by the monotonic clock.
    """

    since: float

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.network, self.head = network_of(self.client[0]), b""

    def has_whole_head(self) -> bool:
        """Whether gunicorn's parser accepts or refuses the head without reading more: a bare LF is refused."""
        head = self.head.removeprefix(b"\r\n")
        return b"\r\n\r\n" in head or head.count(b"\n") != head.count(b"\r\n")


class BoundedThreadWorker(ThreadWorker):  # type: ignore[misc]
    """A threaded gunicorn worker that disconnects slow and idle clients.

    A connection waits, watched by the main loop, until it has the head of a request: in gunicorn's `keepalived_conns`
    while it is idle, and then in `_begun`. Both have the oldest first. Then it gets a thread. If its address has as
    many as it may have, it is in `_queued` until one of them ends.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: dict[_Connection, None] = {}
        self._waiting_of, self._served_of = Counter[str](), Counter[str]()
        self._queued: dict[str, deque[_Connection]] = {}

    def accept(self, listener: socket.socket) -> None:
        """Accept new connections; close the oldest ones that wait if there are too many, of one address or in all."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                client, address = listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._disconnect_oldest()
                elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    raise
                return
            self.nr_conns += 1
            conn = _Connection(self.cfg, client, address, listener.getsockname())
            self._await_head(conn)
            if self._waiting_of[conn.network] > WAITING_OF_ONE_ADDRESS * self.worker_connections:
                self._disconnect_oldest(conn.network)
            elif self.nr_conns >= self.worker_connections:
                self._disconnect_oldest()

    def _await_head(self, conn: _Connection) -> None:
        """Watch a connection that has sent nothing of its next request."""
        conn.sock.setblocking(False)
        conn.since = time.monotonic()
        conn.timeout = conn.since + (self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.append(conn)
        self._waiting_of[conn.network] += 1
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def on_client_socket_readable(self, conn: _Connection, client: socket.socket) -> None:
        """Read what a connection that waits has sent."""
        if client.fileno() < 0:
            return  # it has just been closed for a new one
        try:
            received = client.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if received:
            self._continue_head(conn, received)
        else:
            self._disconnect(conn)

    def _continue_head(self, conn: _Connection, received: bytes) -> None:
        """Give a connection a thread if what it has sent so far contains the head of a request."""
        if not conn.head:
            self.keepalived_conns.remove(conn)
            self._begun[conn] = None
            conn.since = time.monotonic()
            conn.timeout = conn.since + HEAD_SECONDS
        conn.head += received
        if conn.has_whole_head():
            self._forget(conn)
            conn.init()
            conn.parser.unreader.unread(conn.head)
            conn.head, conn.data_ready = b"", True
            self._queued.setdefault(conn.network, deque()).append(conn)
            self._serve_next(conn.network)
        elif len(conn.head) > MAX_HEAD_BYTES:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self._disconnect(
                conn, self._refusal(status, f"the head of the request exceeds {MAX_HEAD_BYTES} bytes", conn.client)
            )

    def _serve_next(self, network: str) -> None:
        """Give the next connection of an address a thread, unless there is none or the address has enough threads."""
        most = self.cfg.threads - int(LEFT_THREADS * self.cfg.threads)
        if network in self._queued and self._served_of[network] < most:
            self._served_of[network] += 1
            self.enqueue_req(self._queued[network].popleft())
            if not self._queued[network]:
                del self._queued[network]

    def _forget(self, conn: _Connection) -> None:
        self.poller.unregister(conn.sock)
        _decrease(self._waiting_of, conn.network)
        if conn.head:
            del self._begun[conn]
        else:
            self.keepalived_conns.remove(conn)

    def _disconnect(self, conn: _Connection, answer: bytes = b"") -> None:
        """Close a connection that waits, without waiting for its client."""
        self._forget(conn)
        self.nr_conns -= 1
        with suppress(OSError):
            conn.sock.send(answer)
        conn.close()

    def _disconnect_oldest(self, network: str = "") -> None:
        """Close the connection that has waited longest, of a network or of all."""
        oldest = [
            next((conn for conn in waiting if network in ("", conn.network)), None)
            for waiting in (self.keepalived_conns, self._begun)
        ]
        if found := [conn for conn in oldest if conn is not None]:
            self._disconnect(min(found, key=lambda conn: conn.since))

    def handle(self, conn: _Connection) -> Any:
        """Answer a request, in its own thread, which also closes the connection unless it is kept."""
        # In a context of its own, so that the trace of this request is not that of the thread's next one.
        is_kept = copy_context().run(super().handle, conn)
        if not is_kept:
            close_graceful(conn.sock)
        return is_kept

    def finish_request(self, conn: _Connection, fs: Any) -> None:
        """Continue with a connection, in the main loop.

        gunicorn would close it here, and wait for the client to close it, too: for seconds without service.
        """
        _decrease(self._served_of, conn.network)
        self._serve_next(conn.network)
        if fs.cancelled() or fs.exception() is not None:
            self.nr_conns -= 1
            conn.close()
        elif not fs.result():
            self.nr_conns -= 1
        else:
            self._await_head(conn)
            if received := conn.parser.unreader.take_buffered():
                self._continue_head(conn, received)

    def handle_request(self, req: Any, conn: _Connection) -> Any:
        """Answer a request after its head has been read; return whether its connection may be used again."""
        conn.sock.settimeout(ANSWER_SECONDS)
        # `TimeoutStream` sends 100 when the body is first read. So a request that is refused by its head gets none,
        # and its client may send the body or leave it out: the next request has no known start.
        expects_continue, req._expected_100_continue = req._expected_100_continue, False
        max_unread, should_close = 0 if expects_continue else MAX_UNREAD_BYTES, req.should_close
        # gunicorn calls it before it sends the head of the response, and once more after the response.
        req.should_close = cache(lambda: should_close() or _unread_bytes(req.body) > max_unread)
        try:
            is_kept = super().handle_request(req, conn)
        except TimeoutError as error:
            self.log.info("a response was cut off because its client did not receive it: %s", error)
            return False
        return is_kept and not _unread_bytes(req.body)

    def murder_keepalived(self, force: bool = False) -> None:
        """Disconnect clients that were idle for too long, or all; the main loop calls this at least once a second."""
        now = time.monotonic()
        while self.keepalived_conns and (force or self.keepalived_conns[0].timeout <= now):
            self._disconnect(self.keepalived_conns[0])

    def murder_pending(self) -> None:
        """Disconnect clients that take too long to send a head; the main loop calls this at least once a second."""
        now = time.monotonic()
        for conn in [conn for conn in self._begun if conn.timeout <= now]:
            reason = f"the head of the request had {len(conn.head)} bytes after {HEAD_SECONDS:g} s; send it again"
            self._disconnect(conn, self._refusal(HTTPStatus.REQUEST_TIMEOUT, reason, conn.client))

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer a head that is not valid HTTP with a problem; gunicorn would send a page."""
        if req is not None or not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status = _STATUS_OF.get(type(exc), HTTPStatus.BAD_REQUEST)
        with suppress(OSError):
            client.sendall(self._refusal(status, f"the head of the request is not accepted: {str(exc)[:200]}", addr))

    def _refusal(self, status: HTTPStatus, detail: str, client: Any) -> bytes:
        """Return the problem JSON (RFC 9457) for a request that reaches no application, and log it."""
        name, ids = HTTP_STATUS_CODES[status], {"request_id": new_id(), "trace_id": trace_id(new_traceparent())}
        self.log.info("%s", detail, extra=ids | {"address": client[0]})
        problem = {"type": "about:blank", "title": name, "status": status, "detail": detail} | ids
        body = json.dumps(problem | {"code": problem_code(name)})
        return (
            f"HTTP/1.1 {status} {name}\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def problem_code(name: str) -> str:
    """Return the `code` of a problem with the name of its HTTP status, such as `not_found`."""
    return name.lower().replace(" ", "_")


def _unread_bytes(body: Any) -> float:
    """Return the bytes of a body of gunicorn's that are still on its connection; infinite if that is not known."""
    if body.failed:
        return math.inf
    if (length := getattr(body.reader, "length", None)) is not None:
        return float(length)
    return math.inf if getattr(body.reader, "parser", None) else 0


def _decrease(counter: Counter[str], network: str) -> None:
    counter[network] -= 1
    if not counter[network]:
        del counter[network]


class TimeoutStream:
    """A request's body that is refused if the client is too slow, or breaks off before the end.

    Args:
        length: bytes of the body, or None if the client does not say.
        read_seconds: bound of one read of a body of unknown length; that of the connection bounds others.
        expects_continue: whether the client waits for a response 100 before it sends the body (RFC 9110, 10.1.1).
    """

    def __init__(
        self,
        stream: IO[bytes],
        connection: socket.socket,
        length: int | None = None,
        clock: Clock = CLOCK,
        read_seconds: float = READ_SECONDS,
        *,
        expects_continue: bool = False,
    ) -> None:
        self._stream: Any = stream
        reader = getattr(stream, "reader", None)  # gunicorn's; a body of unknown length has another one
        self._length_reader = reader if isinstance(reader, LengthReader) else None
        self._connection, self._clock = connection, clock
        self._length, self._read_seconds = length or 0, read_seconds
        self._bytes, self._waited, self._cpu_seconds = 0, 0.0, 0.0
        self._expects_continue = expects_continue

    def read(self, size: int = -1, /) -> bytes:
        """Return `size` bytes, or all for -1; less at the end, and up to `READ_BYTES` of a body of unknown length.

        Raises:
            BadRequest: the body ends early, is not valid chunked encoding, or comes in very small chunks.
            RequestTimeout: the client stalls, or has been too slow on average.
        """
        if size < 0:
            return b"".join(iter(partial(self.read, READ_BYTES), b""))
        reader = self._length_reader
        room = bytearray(min(size, READ_BYTES if reader is None else reader.length))
        return bytes(memoryview(room)[: self.readinto(room)])

    def readinto(self, room: bytearray) -> int:
        """Fill `room`, as `read`; return the number of bytes.

        Raises:
            BadRequest, RequestTimeout: as `read`.
        """
        reader = self._length_reader
        try:
            if self._expects_continue:
                self._expects_continue = False
                self._connection.sendall(CONTINUE)
            if reader is None:
                data = self._read_watched(min(len(room), READ_BYTES))
                count, room[: len(data)] = len(data), data
            else:
                count = self._receive_into(room, reader)
        except TimeoutError as error:
            raise self._timed_out() from error
        except (ParseException, NoMoreData) as error:
            self._disconnect()  # the start of the next request is unknown
            raise BadRequest("the body is not valid chunked encoding, or ended early; send it again") from error
        if count < len(room) and self._bytes < self._length:
            self._disconnect()
            raise BadRequest(f"the body ended after {self._bytes} of {self._length} bytes; send it again")
        return count

    def drain(self, max_bytes: int) -> None:
        """Receive and drop what was not read of a body that has its response, up to `max_bytes` of it.

        A connection that is closed with unread bytes is reset. Then a client that sends all of its body before it
        reads anything finds no response (RFC 9112, 9.6). A client that awaits a response 100 sends no body.
        """
        if self._expects_continue or getattr(self._stream, "failed", False) or not _unread_bytes(self._stream):
            return
        watchdog = threading.Timer(LINGER_SECONDS, self._disconnect)
        watchdog.daemon = True
        watchdog.start()
        room = bytearray(READ_BYTES)
        try:
            while self._bytes < max_bytes and self.readinto(room):
                pass
        except (HTTPException, OSError):
            return
        finally:
            watchdog.cancel()

    def _receive_into(self, room: bytearray, reader: LengthReader) -> int:
        """Read of a body of known length; gunicorn copies all that has arrived beyond the read at each read."""
        begun = reader.unreader.take_buffered()  # what came with the head
        with memoryview(room)[: reader.length] as wanted:
            filled = min(len(begun), len(wanted))
            wanted[:filled] = begun[:filled]
            reader.unreader.unread(begun[filled:])
            self._bytes, reader.length = self._bytes + filled, reader.length - filled
            while filled < len(wanted):
                before = self._clock.monotonic()
                if not (count := reader.unreader.sock.recv_into(wanted[filled:])):
                    break
                filled, reader.length = filled + count, reader.length - count
                self._add(count, before)
        return filled

    def _read_watched(self, size: int) -> bytes:
        """Read of a body of unknown length, which gunicorn's parser waits for as long as bytes come."""
        before, cpu_before, expired = self._clock.monotonic(), time.thread_time(), threading.Event()
        watchdog = threading.Timer(self._read_seconds, self._expire, [expired])
        watchdog.daemon = True
        watchdog.start()
        try:
            data: bytes = self._stream.read(size)
        except (ParseException, NoMoreData):
            if expired.is_set():
                raise TimeoutError from None
            raise
        finally:
            watchdog.cancel()
        self._add(len(data), before)
        if expired.is_set():
            raise TimeoutError
        self._cpu_seconds += time.thread_time() - cpu_before
        if self._bytes < MIN_BYTES_PER_CPU_SECOND * (self._cpu_seconds - 1):
            self._disconnect()
            raise BadRequest("the body comes in chunks of a few bytes; send it in larger ones, or with its length")
        return data

    def _add(self, count: int, before: float) -> None:
        """Count bytes that the client was waited for since `before`; raise `TimeoutError` if it is too slow."""
        self._bytes += count
        self._waited += self._clock.monotonic() - before
        if self._waited > GRACE_SECONDS and self._bytes < MIN_BYTES_PER_SECOND * self._waited:
            raise TimeoutError

    def _expire(self, expired: threading.Event) -> None:
        expired.set()
        self._disconnect()

    def _timed_out(self) -> RequestTimeout:
        # Otherwise gunicorn would wait for the rest of the body before it closes the connection.
        self._disconnect()
        of_all = f" of {self._length}" if self._length else ""
        return RequestTimeout(
            f"the upload stalled after {self._bytes}{of_all} bytes; send it again, or in smaller requests to the "
            "same job"
        )

    def _disconnect(self) -> None:
        """Read no more from the client; it can still be answered, and the response says that it is the last one."""
        self._stream.failed = True  # as gunicorn notes it
        with suppress(OSError):  # the client may have disconnected
            self._connection.shutdown(socket.SHUT_RD)


def bound_body(environ: dict[str, Any]) -> TimeoutStream | None:
    """Refuse this request's body if it is slow or incomplete; return it, or None if its connection is not exposed."""
    connection = environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STALL_SECONDS)
        stream, length = environ["wsgi.input"], get_content_length(environ)
        expects = (environ.get("SERVER_PROTOCOL"), environ.get("HTTP_EXPECT", "").lower())
        is_expected = expects == ("HTTP/1.1", "100-continue")
        environ["wsgi.input"] = body = TimeoutStream(stream, connection, length, expects_continue=is_expected)
        return body
    return None
