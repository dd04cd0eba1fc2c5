"""Clients that are slow with their body."""

import socket
from collections.abc import Iterator
from io import BytesIO

import pytest
from werkzeug.exceptions import RequestTimeout

from web_tier.slow_clients import GRACE_SECONDS, TimeoutStream, bound_body


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


class Trickle(BytesIO):
    """A client that sends `piece` bytes every `seconds`, by a clock of its own."""

    def __init__(self, piece: int, seconds: float) -> None:
        super().__init__()
        self.now, self._piece, self._seconds = 0.0, piece, seconds

    def read(self, size: int | None = -1, /) -> bytes:
        self.now += self._seconds
        return b"x" * self._piece

    def clock(self) -> float:
        return self.now


def test_a_trickling_client_times_out_after_the_grace(connection: socket.socket) -> None:
    client = Trickle(piece=1, seconds=1)
    body = TimeoutStream(client, connection, client.clock)
    with pytest.raises(RequestTimeout):
        for _ in range(100):
            body.read(1000)
    assert GRACE_SECONDS <= client.now <= GRACE_SECONDS + 1


def test_a_slow_but_steady_client_does_not_time_out(connection: socket.socket) -> None:
    client = Trickle(piece=2048, seconds=1)
    body = TimeoutStream(client, connection, client.clock)
    assert sum(len(body.read(4096)) for _ in range(300)) == 300 * 2048


def test_a_client_that_stalls_gets_a_408_and_its_connection_is_not_waited_for(connection: socket.socket) -> None:
    class Stalled(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise TimeoutError

    with pytest.raises(RequestTimeout, match="stalled after 0 bytes"):
        TimeoutStream(Stalled(), connection).read(10)
    assert connection.recv(1) == b""


def test_a_client_that_never_fills_a_read_times_out(connection: socket.socket) -> None:
    class Blocked(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return connection.recv(size or 0)  # as gunicorn does: nothing comes, and nothing ends it

    with pytest.raises(RequestTimeout):
        TimeoutStream(Blocked(), connection, read_seconds=0.05).read(10)


def test_only_the_wait_for_the_client_counts(connection: socket.socket) -> None:
    client = Trickle(piece=10, seconds=0)
    body = TimeoutStream(client, connection, client.clock)
    for _ in range(10):
        body.read(10)
        client.now += 100  # between two reads
    assert body.read(10)


def test_a_body_is_unbounded_if_the_server_hides_its_connection() -> None:
    stream = BytesIO(b"body")
    environ = {"wsgi.input": stream}
    bound_body(environ)
    assert environ["wsgi.input"] is stream
