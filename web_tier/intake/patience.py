"""How long a client may take to send its body: a client that trickles must not hold a thread for ever.

Where nginx stands in front it has collected the body before we see it; on one machine nothing else does this.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from flask import Flask, request
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import BadRequest, RequestTimeout

from web_tier.intake.multipart import ByteStream

STALL_SECONDS = 20.0
"""Longest silence of a client while we wait for it."""

READ_SECONDS = 60.0
"""Longest that a client may take to fill one read: gunicorn returns from it only when it is full."""

GRACE_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 1024
"""Slowest average once the grace is over; only waiting for the client counts, not our own work between reads."""


class TimeoutStream:
    """A request's body that gives up on a client which is too slow; `read_seconds` is that of one read."""

    def __init__(
        self,
        stream: ByteStream,
        connection: socket.socket,
        clock: Callable[[], float] = time.monotonic,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._stream, self._connection, self._clock = stream, connection, clock
        self._read_seconds = read_seconds
        self._bytes, self._waited = 0, 0.0

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, none at the end.

        Raises:
            BadRequest: when the body is not valid chunked encoding, or ends early.
            RequestTimeout: when the client stalls, or has been too slow on average.
        """
        before = self._clock()
        data = self._read(size)
        self._waited += self._clock() - before
        self._bytes += len(data)
        if self._waited > GRACE_SECONDS and self._bytes < MIN_BYTES_PER_SECOND * self._waited:
            raise self._given_up()
        return data

    def _read(self, size: int) -> bytes:
        expired = threading.Event()
        watchdog = threading.Timer(self._read_seconds, self._expire, [expired])
        watchdog.daemon = True
        watchdog.start()
        try:
            data = self._stream.read(size)
        except TimeoutError as error:
            raise self._given_up() from error
        except (ParseException, NoMoreData) as error:
            self._hang_up()  # where the next request begins is not known
            raise BadRequest("the body is not valid chunked encoding, or ended early; send it again") from error
        finally:
            watchdog.cancel()
        if expired.is_set():
            raise self._given_up()
        return data

    def _expire(self, expired: threading.Event) -> None:
        expired.set()
        self._hang_up()

    def _given_up(self) -> RequestTimeout:
        # Without this gunicorn would wait for the rest of the body before it closes the connection.
        self._hang_up()
        return RequestTimeout(
            f"the upload stalled after {self._bytes} bytes; send it again, or in smaller requests to the same job"
        )

    def _hang_up(self) -> None:
        """Read no more from the client; it can still be answered."""
        with suppress(OSError):  # it may have hung up itself
            self._connection.shutdown(socket.SHUT_RD)


def wait_patiently(app: Flask) -> None:
    """Bound how long the body of each request to `app` may take, for all readers."""
    app.before_request(_bound_body)


def _bound_body() -> None:
    if request.content_length or "Transfer-Encoding" in request.headers:
        be_patient(request.environ)


def be_patient(environ: dict[str, Any]) -> None:
    """Bound how long this request's body may take, where the server shows us its connection, as gunicorn does."""
    connection = environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STALL_SECONDS)
        environ["wsgi.input"] = TimeoutStream(environ["wsgi.input"], connection)
