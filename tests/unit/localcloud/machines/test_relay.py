"""A relay carries bytes both ways, tells each side when the other is done, and ends all at once."""

import socket
import threading
from collections.abc import Iterator

import pytest

from localcloud.machines.relay import Relay
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes


@pytest.fixture
def far() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_SECONDS)
        yield listener


@pytest.fixture
def near(far: socket.socket) -> Iterator[tuple[str, int]]:
    """The address of a relay to `far`."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    relay = Relay(listener, far.getsockname())
    yield address
    relay.close()


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=60)


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_large_data_go_both_ways_at_the_same_time(far: socket.socket, near: tuple[str, int]) -> None:
    there, back = b"there" * 400_000, b"back" * 500_000
    with connect(near) as client:
        server, _ = far.accept()
        with server:
            server.settimeout(DEADLINE_SECONDS)
            sender = threading.Thread(target=client.sendall, args=(there,))
            answerer = threading.Thread(target=server.sendall, args=(back,))
            sender.start()
            answerer.start()
            reader = threading.Thread(target=lambda: received.append(read_exactly(client, len(back))))
            received: list[bytes] = []
            reader.start()
            assert read_exactly(server, len(there)) == there
            for thread in (sender, answerer, reader):
                thread.join(DEADLINE_SECONDS)
            assert received == [back]


def read_exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        data += connection.recv(65_536) or pytest.fail("it ended early")
    return bytes(data)


def test_a_client_that_has_said_everything_still_gets_its_answer(far: socket.socket, near: tuple[str, int]) -> None:
    with connect(near) as client:
        server, _ = far.accept()
        with server:
            client.sendall(b"question")
            client.shutdown(socket.SHUT_WR)
            server.settimeout(DEADLINE_SECONDS)
            assert read_all(server) == b"question"
            server.sendall(b"answer")
        assert read_all(client) == b"answer"


def test_a_connection_that_leads_nowhere_ends(far: socket.socket, near: tuple[str, int]) -> None:
    far.close()
    with connect(near) as client:
        assert read_all(client) == b""


def test_closing_cuts_what_is_open_and_refuses_what_is_new(far: socket.socket) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    relay = Relay(listener, far.getsockname())
    with connect(address) as client:
        server, _ = far.accept()
        with server:
            relay.close()
            assert read_all(client) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(address)
