"""Machines that boot an image: what the host needs, the network and its relays, and the settings of their workers."""

import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.config import PATH_VARIABLE
from localcloud.machines.machine import BootFailedError, Machine, end_all
from localcloud.machines.metadata import METADATA_ADDRESS
from tests.conftest import ROOT
from tests.support.booted import machines
from tests.support.booted.images import LocalImage
from tests.support.booted.machines import (
    BootedSystem,
    NspawnBackend,
    NspawnMissingError,
    check_tools,
    command,
    hypervisor_uuid,
)
from tests.support.booted.network import (
    METADATA_PORT,
    ConnectionRelay,
    IpCommandError,
    SameNetworkError,
    in_network_of,
    in_new_network,
    ip,
    listen_in,
)
from tests.support.processes import children_of
from tests.support.waiting import DEADLINE_SECONDS


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "instances" / "i-1")
    machine.prepare()
    yield machine
    end_all(tmp_path)


ENDPOINT = "http://127.0.0.1:5000"


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which images can be booted."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")


def test_missing_image_fails_the_boot_and_existing_ones_are_named(
    able: None, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "images" / "ami-2" / "usr").mkdir(parents=True)
    (tmp_path / "images" / "ami-3").mkdir()  # half made
    backend = NspawnBackend(ENDPOINT, tmp_path / "images")
    with pytest.raises(
        BootFailedError, match=re.escape(f"no image ami-1 in {tmp_path / 'images'}; there are: ami-2")
    ):
        backend.boot(machine, {"image_id": "ami-1"})
    assert "boot failed: there is no image ami-1" in machine.console.read_text()


def test_an_image_id_is_no_path(able: None, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "usr").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    with pytest.raises(BootFailedError):
        NspawnBackend(ENDPOINT, tmp_path / "images").boot(machine, {"image_id": "../elsewhere"})


def test_a_command_that_is_missing_is_named_with_its_package(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {name: f"/usr/bin/{name}" for name in machines.TOOLS if name != "systemd-nspawn"}
    monkeypatch.setattr("shutil.which", lambda name, path=None: there.get(name))
    with pytest.raises(NspawnMissingError, match="need systemd-nspawn: apt install systemd-container"):
        check_tools()


def test_a_host_without_time_namespaces_is_refused(
    able: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machines, "TIME_NAMESPACE", tmp_path / "none")
    with pytest.raises(NspawnMissingError, match=r"Linux 5\.6"):
        check_tools()


def test_hypervisor_uuid_has_ec2_prefix_and_instance_id() -> None:
    uuid = hypervisor_uuid("i-0123456789abcdef0")
    assert re.fullmatch(r"ec2[0-9a-f]{5}-([0-9a-f]{4}-){3}[0-9a-f]{12}\n", uuid)
    assert uuid.replace("-", "").strip().endswith("0123456789abcdef0")


def test_a_folder_with_a_space_in_its_name_is_one_word_to_the_shell(tmp_path: Path) -> None:
    booted = Machine(tmp_path / "my state" / "instances" / "i-1")
    image = tmp_path / "my images" / "ami-1"
    script = command(booted, image)[-1]
    subprocess.run(["/bin/sh", "-nc", script], check=True)
    assert f"'{booted.disk}/root'" in script
    assert f"'lowerdir={tmp_path}/my images/ami-1,upperdir={booted.disk}/upper,workdir={booted.disk}/work'" in script


CLOUD = ("127.0.0.1", 49_151)
NEEDS = "network namespaces need root and the ip command (apt install iproute2)"


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where namespaces cannot be made; in CI, where they can, a missing command fails."""
    if os.geteuid() != 0:
        pytest.skip(NEEDS)
    if shutil.which("ip") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NEEDS)


@pytest.fixture
def networked(namespaces: None) -> Iterator[int]:
    """A process in a network of its own."""
    process = in_new_network(lambda: subprocess.Popen(["sleep", "60"]))
    yield process.pid
    process.kill()
    process.wait()


def answered(listener: socket.socket, pid: int, place: tuple[str, int]) -> bool:
    """Say whether what connects to `place` in a process's network reaches `listener`."""
    connection = in_network_of(pid, lambda: socket.create_connection(place, timeout=120))
    with connection:
        listener.settimeout(DEADLINE_SECONDS)
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"x")
            return connection.recv(1) == b"x"


def test_cloud_and_metadata_service_are_reached_in_the_machine_alone(networked: int) -> None:
    before = socket.if_nameindex()
    metadata, cloud = listen_in(networked, CLOUD)
    with metadata, cloud:
        assert answered(metadata, networked, (METADATA_ADDRESS, METADATA_PORT))
        assert answered(cloud, networked, CLOUD)
        assert socket.if_nameindex() == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(CLOUD, timeout=1)


def test_no_route_leads_out_of_a_machines_network(networked: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        metadata, cloud = listen_in(networked, CLOUD)
        with metadata, cloud:
            for place in (ours.getsockname(), ("192.0.2.1", 80)):
                with pytest.raises(OSError, match=r"refused|unreachable"):
                    in_network_of(networked, lambda place=place: socket.create_connection(place, timeout=1))  # type: ignore[misc]


def test_the_machine_may_itself_serve_on_the_port_of_the_metadata_service(networked: int) -> None:
    metadata, cloud = listen_in(networked, CLOUD)
    with metadata, cloud:
        own = in_network_of(networked, lambda: socket.create_server(("0.0.0.0", METADATA_PORT)))
        with own:
            assert answered(metadata, networked, (METADATA_ADDRESS, METADATA_PORT))
            assert answered(own, networked, ("127.0.0.1", METADATA_PORT))


def test_later_hypervisor_can_listen_again(networked: int) -> None:
    metadata, cloud = listen_in(networked, CLOUD)
    cloud.close()  # as a death does; the other end of the link may then still be there
    with metadata:
        again, cloud_again = listen_in(networked, CLOUD)
        with again, cloud_again:
            assert answered(again, networked, (METADATA_ADDRESS, METADATA_PORT))
            assert answered(cloud_again, networked, CLOUD)


def test_a_process_in_this_network_is_no_machine(namespaces: None) -> None:
    with pytest.raises(SameNetworkError, match=f"process {os.getpid()} has no network of its own"):
        listen_in(os.getpid(), CLOUD)


def test_a_process_that_has_ended_has_no_network(namespaces: None) -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert children_of(ended.pid) == []
    with pytest.raises(FileNotFoundError):
        listen_in(ended.pid, CLOUD)


def test_error_of_ip_command_is_raised(networked: int) -> None:
    with pytest.raises(IpCommandError, match=r"link set nowhere up.*Cannot find device"):
        in_network_of(networked, lambda: ip("link set nowhere up"))


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


IMAGE = LocalImage("ami-0123456789abcdef0", Path("/images/ami-0123456789abcdef0"))


def test_an_instance_with_an_image_gets_the_systems_settings_and_no_local_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    overrides = {"FLEETSIGHT__WORKER__BUNDLE": "my/bundle", "FLEETSIGHT__WORKER__IDLE_SECONDS": "7"}
    system = BootedSystem(tmp_path, overrides, image=IMAGE)
    script = system.config.fleet.user_data
    assert script.endswith("\nexec /opt/fleetsight/start worker\n")
    assert "export FLEETSIGHT__WORKER__IDLE_SECONDS=7\n" in script
    assert f"export FLEETSIGHT__AWS__ENDPOINT_URL={system.endpoint_url}\n" in script
    assert system.config.fleet.image_id == IMAGE.image_id
    assert str(ROOT) not in script
    assert "my/bundle" not in script
