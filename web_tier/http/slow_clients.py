"""Clients that are slow or break off: bounds for the body of a request and for its response.

`TimeoutStream` bounds bodies and refuses those that break off. Behind nginx a body is complete before it arrives; on
one machine nothing else checks it.
"""

import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import IO, Any, Final

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import NoMoreData, ParseException
from werkzeug.exceptions import BadRequest, HTTPException, RequestTimeout
from werkzeug.wsgi import get_content_length

from services.clock import CLOCK, Clock

ANSWER_SECONDS = 60.0
"""Seconds that a client may take to receive a piece of its response."""

LINGER_SECONDS = 5.0
"""Seconds for which the rest of a body is received and dropped after its response."""

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


class TimeoutStream:
    """A request's body that is refused if the client is too slow, or breaks off before the end.

    Args:
        length: bytes of the body, or None if the client does not say.
        read_seconds: bound of one read of a body of unknown length; that of the connection bounds others.
    """

    def __init__(
        self,
        stream: IO[bytes],
        connection: socket.socket,
        length: int | None = None,
        clock: Clock = CLOCK,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        self._stream: Any = stream
        reader = getattr(stream, "reader", None)  # gunicorn's; a body of unknown length has another one
        self._length_reader = reader if isinstance(reader, LengthReader) else None
        self._connection, self._clock = connection, clock
        self._length, self._read_seconds = length or 0, read_seconds
        self._bytes, self._waited, self._cpu_seconds = 0, 0.0, 0.0

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
        reads anything finds no response (RFC 9112, 9.6).
        """
        if getattr(self._stream, "failed", False) or (self._length_reader and not self._length_reader.length):
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


def bound_connection(environ: dict[str, Any], *, has_body: bool) -> TimeoutStream | None:
    """Bound the waits for a request's client; return its bounded body, or None without one or without gunicorn."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return None
    connection.settimeout(STALL_SECONDS if has_body else ANSWER_SECONDS)
    if not has_body:
        return None
    body = TimeoutStream(environ["wsgi.input"], connection, get_content_length(environ))
    environ["wsgi.input"] = body
    return body
