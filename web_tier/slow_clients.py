"""gunicorn's threads, with bounds for clients that are slow with the head of a request, with its answer, or to go.

gunicorn gives a client some seconds for its first byte, and then reads the head for as long as it takes: who sends a
byte now and then would hold a thread for ever. The body has bounds of its own (`web_tier.intake.patience`).
"""

import socket
import time
from contextlib import suppress
from typing import Any, Final

from gunicorn.util import close_graceful
from gunicorn.workers.gthread import ThreadWorker

HEAD_SECONDS: Final = 10.0
"""Longest that the head of a request may take, as in nginx."""

ANSWER_SECONDS: Final = 60.0
"""Longest that a client may take for a piece of its answer."""

_SAID: Final = b"the head of the request took too long; try again"
_TOO_SLOW: Final = (
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_SAID), _SAID)
)


class BoundedThreadWorker(ThreadWorker):  # type: ignore[misc]
    """A gunicorn worker of threads that hangs up on slow clients."""

    head_seconds = HEAD_SECONDS
    answer_seconds = ANSWER_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._heads: dict[Any, float] = {}

    def handle(self, conn: Any) -> Any:
        """Read a request and answer it, in a thread of its own, which also closes the connection if that is to be."""
        self._heads[conn] = time.monotonic()
        try:
            goes_on = super().handle(conn)
        finally:
            self._heads.pop(conn, None)
        if not goes_on:
            close_graceful(conn.sock)
        return goes_on

    def finish_request(self, conn: Any, fs: Any) -> None:
        """Go on with a connection, in the main loop.

        gunicorn would close it here, and wait for its client to do the same: for seconds without service.
        """
        if fs.cancelled() or fs.exception() is not None or fs.result():
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request with a head that has been read; return whether its connection may be used again."""
        self._heads.pop(conn, None)
        conn.sock.settimeout(self.answer_seconds)
        try:
            return super().handle_request(req, conn)
        except TimeoutError as error:
            self.log.info("an answer was cut off, since its client did not take it: %s", error)
            return False

    def murder_pending(self) -> None:
        """Hang up on clients that are too slow; the main loop calls this at least once a second."""
        super().murder_pending()
        latest = time.monotonic() - self.head_seconds
        for conn, since in self._heads.copy().items():
            if since < latest and self._heads.pop(conn, None) is not None:
                _hang_up(conn.sock)


def _hang_up(connection: socket.socket) -> None:
    """Answer 408, and read no more, which ends the thread's waiting."""
    with suppress(OSError):
        connection.send(_TOO_SLOW, socket.MSG_DONTWAIT)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
