"""The control groups, relays and backends of machines."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.__main__ import main
from localcloud.machines.machine import cgroup_folders, remove_cgroups
from localcloud.machines.network import ConnectionRelay
from tests.support.waiting import DEADLINE_SECONDS


def hierarchy(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "cgroup.procs").touch()
    return path


def test_version_2_has_one_group_for_a_machine(tmp_path: Path) -> None:
    hierarchy(tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    assert cgroup_folders("i-1", tmp_path) == [tmp_path / "fleetsight-i-1"]


@pytest.mark.parametrize("names", [["systemd", "unified"], ["systemd"]], ids=["hybrid", "legacy"])
def test_version_1_has_one_in_each_that_systemd_uses(tmp_path: Path, names: list[str]) -> None:
    for name in (*names, "memory"):
        hierarchy(tmp_path / name)
    assert cgroup_folders("i-1", tmp_path) == [tmp_path / name / "fleetsight-i-1" for name in names]


def test_the_groups_of_one_machine_are_removed_and_those_of_another_stay(tmp_path: Path) -> None:
    hierarchy(tmp_path / "systemd")
    (mine,) = cgroup_folders("i-1", tmp_path)
    (other,) = cgroup_folders("i-2", tmp_path)
    for group in (mine / "payload" / "system.slice" / "a.service", mine / "supervisor", other):
        group.mkdir(parents=True)
    remove_cgroups("i-1", tmp_path)
    assert not mine.exists()
    assert other.exists()


def test_a_group_that_a_process_does_not_leave_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    hierarchy(tmp_path / "systemd")
    (mine,) = cgroup_folders("i-1", tmp_path)
    (mine / "payload").mkdir(parents=True)
    (mine / "payload" / "stays").touch()
    remove_cgroups("i-1", tmp_path, wait_seconds=0.05)
    assert (mine / "payload" / "stays").exists()


def test_machine_without_control_groups_can_be_removed(tmp_path: Path) -> None:
    remove_cgroups("i-1", tmp_path)
    assert cgroup_folders("i-1", tmp_path) == []


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
    relay = ConnectionRelay(listener, far.getsockname())
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


def test_client_that_half_closed_still_gets_its_answer(far: socket.socket, near: tuple[str, int]) -> None:
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


def test_closing_the_relay_ends_connections_and_rejects_new_ones(far: socket.socket) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    relay = ConnectionRelay(listener, far.getsockname())
    with connect(address) as client:
        server, _ = far.accept()
        with server:
            relay.close()
            assert read_all(client) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(address)


START = ["hypervisor", "--endpoint", "http://127.0.0.1:1", "--state-dir"]


def test_machines_that_boot_need_images(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--machines nspawn needs --images DIR"):
        main([*START, str(tmp_path), "--machines", "nspawn"])


def test_hypervisor_names_what_the_host_lacks_for_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="machines of kind nspawn need root"):
        main([*START, str(tmp_path), "--machines", "nspawn", "--images", str(tmp_path)])
