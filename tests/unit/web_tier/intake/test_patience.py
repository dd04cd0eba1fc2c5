"""Clients that are slow with their body."""

import socket
from collections.abc import Iterator
from io import BytesIO

import pytest
from werkzeug.exceptions import RequestTimeout

from web_tier.intake.patience import GRACE_SECONDS, TimeoutStream, be_patient


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


class Trickle:
    """A client that sends `piece` bytes every `seconds`, by a clock of its own."""

    def __init__(self, piece: int, seconds: float) -> None:
        self.now, self._piece, self._seconds = 0.0, piece, seconds

    def read(self, size: int, /) -> bytes:
        self.now += self._seconds
        return b"x" * self._piece

    def clock(self) -> float:
        return self.now


def test_a_client_that_trickles_is_given_up_once_the_grace_is_over(connection: socket.socket) -> None:
    client = Trickle(piece=1, seconds=1)
    body = TimeoutStream(client, connection, client.clock)
    with pytest.raises(RequestTimeout):
        for _ in range(100):
            body.read(1000)
    assert GRACE_SECONDS <= client.now <= GRACE_SECONDS + 1


def test_a_slow_client_that_keeps_coming_is_waited_for(connection: socket.socket) -> None:
    client = Trickle(piece=2048, seconds=1)
    body = TimeoutStream(client, connection, client.clock)
    assert sum(len(body.read(4096)) for _ in range(300)) == 300 * 2048


def test_a_client_that_stalls_gets_a_408_and_its_connection_is_not_waited_for(connection: socket.socket) -> None:
    class Stalled:
        def read(self, size: int, /) -> bytes:
            raise TimeoutError

    with pytest.raises(RequestTimeout, match="stalled after 0 bytes"):
        TimeoutStream(Stalled(), connection).read(10)
    assert connection.recv(1) == b""


def test_a_client_that_never_fills_a_read_is_given_up(connection: socket.socket) -> None:
    class Blocked:
        def read(self, size: int, /) -> bytes:
            return connection.recv(size)  # as gunicorn does: nothing comes, and nothing ends it

    with pytest.raises(RequestTimeout):
        TimeoutStream(Blocked(), connection, read_seconds=0.05).read(10)


def test_our_own_slowness_is_not_held_against_the_client(connection: socket.socket) -> None:
    client = Trickle(piece=10, seconds=0)
    body = TimeoutStream(client, connection, client.clock)
    for _ in range(10):
        body.read(10)
        client.now += 100  # between two reads
    assert body.read(10)


def test_a_server_that_hides_its_connection_is_left_alone() -> None:
    stream = BytesIO(b"body")
    environ = {"wsgi.input": stream}
    be_patient(environ)
    assert environ["wsgi.input"] is stream
