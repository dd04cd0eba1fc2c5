"""Clients that are slow or break off: bounds for the head and the body of a request, and for its response.

gunicorn gives a client some seconds for its first byte, and then reads the head without a limit: a client that sends
a byte now and then would hold a thread forever. `BoundedThreadWorker` bounds heads and responses. `TimeoutStream`
bounds bodies and refuses those that break off: behind nginx a body is complete before it arrives here; on one machine
nothing else checks it.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import IO, Any, Final

from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker
from werkzeug.exceptions import BadRequest, RequestTimeout
from werkzeug.wsgi import get_content_length

HEAD_SECONDS: Final = 10.0
"""Seconds that the head of a request may take, as in nginx."""

ANSWER_SECONDS: Final = 60.0
"""Seconds that a client may take to receive a piece of its response."""

STALL_SECONDS: Final = 20.0
"""Seconds without a byte after which a body is given up."""

READ_SECONDS: Final = 60.0
"""Seconds that a client may take to fill one read: gunicorn returns from it only when it is full."""

GRACE_SECONDS: Final = 30.0
MIN_BYTES_PER_SECOND: Final = 1024
"""Minimum average rate of a body after the grace; only the time that is spent waiting for the client counts."""

_TOO_SLOW_TEXT: Final = b"the head of the request took too long; try again"
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_TOO_SLOW_TEXT), _TOO_SLOW_TEXT)
)


class BoundedThreadWorker(ThreadWorker):  # type: ignore[misc]
    """A threaded gunicorn worker that disconnects slow clients."""

    head_seconds = HEAD_SECONDS
    answer_seconds = ANSWER_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heads: dict[Any, float] = {}

    def handle(self, conn: Any) -> Any:
        """Read a request and answer it, in its own thread, which also closes the connection unless it is kept."""
        self._heads[conn] = time.monotonic()
        try:
            # In a context of its own, so that the trace of this request is not that of the thread's next one.
            is_kept = copy_context().run(super().handle, conn)
        finally:
            self._heads.pop(conn, None)
        if not is_kept:
            close_graceful(conn.sock)
        return is_kept

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Continue with a connection, in the main loop.

        gunicorn would close it here, and wait for the client to close it, too: for seconds without service.
        """
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request after its head has been read; return whether its connection may be used again."""
        self._heads.pop(conn, None)
        conn.sock.settimeout(self.answer_seconds)
        try:
            return super().handle_request(req, conn)
        except TimeoutError as error:
            self.log.info("a response was cut off because its client did not receive it: %s", error)
            return False

    def murder_pending(self) -> None:
        """Disconnect clients that are too slow; the main loop calls this at least once a second."""
        super().murder_pending()
        latest = time.monotonic() - self.head_seconds
        for conn, since in self._heads.copy().items():
            if since < latest and self._heads.pop(conn, None) is not None:
                # Answer 408, and read no more, which ends the wait of the thread.
                with suppress(OSError):
                    conn.sock.send(_TOO_SLOW, socket.MSG_DONTWAIT)
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)


class TimeoutStream:
    """A request's body that is refused if the client is too slow, or breaks off before the end.

    Args:
        length: bytes of the body, or None if the client does not say.
        read_seconds: bound of one read.
    """

    def __init__(
        self,
        stream: IO[bytes],
        connection: socket.socket,
        length: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._stream, self._connection, self._clock = stream, connection, clock
        self._length, self._read_seconds = length or 0, read_seconds
        self._bytes, self._waited = 0, 0.0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, and none at the end.

        Raises:
            BadRequest: the body ends early, or is not valid chunked encoding.
            RequestTimeout: the client stalls, or has been too slow on average.
        """
        before, expired = self._clock(), threading.Event()
        watchdog = threading.Timer(self._read_seconds, self._expire, [expired])
        watchdog.daemon = True
        watchdog.start()
        try:
            data = self._stream.read(size)
        except TimeoutError as error:
            raise self._timed_out() from error
        except (ParseException, NoMoreData) as error:
            self._disconnect()  # the start of the next request is unknown
            raise BadRequest("the body is not valid chunked encoding, or ended early; send it again") from error
        finally:
            watchdog.cancel()
        if expired.is_set():
            raise self._timed_out()
        self._waited += self._clock() - before
        self._bytes += len(data)
        if self._waited > GRACE_SECONDS and self._bytes < MIN_BYTES_PER_SECOND * self._waited:
            raise self._timed_out()
        # gunicorn returns less than `size` only at the end of the body, or at that of the connection.
        if (size < 0 or len(data) < size) and self._bytes < self._length:
            raise BadRequest(f"the body ended after {self._bytes} of {self._length} bytes; send it again")
        return data

    def _expire(self, expired: threading.Event) -> None:
        expired.set()
        self._disconnect()

    def _timed_out(self) -> RequestTimeout:
        # Otherwise gunicorn would wait for the rest of the body before it closes the connection.
        self._disconnect()
        return RequestTimeout(
            f"the upload stalled after {self._bytes} bytes; send it again, or in smaller requests to the same job"
        )

    def _disconnect(self) -> None:
        """Read no more from the client; it can still be answered."""
        with suppress(OSError):  # the client may have disconnected
            self._connection.shutdown(socket.SHUT_RD)


def bound_body(environ: dict[str, Any]) -> None:
    """Refuse this request's body if it is slow or incomplete; needs the connection, which gunicorn exposes."""
    connection = environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STALL_SECONDS)
        environ["wsgi.input"] = TimeoutStream(environ["wsgi.input"], connection, get_content_length(environ))
