"""A machine's own network: the cloud and the metadata service are in it, and nothing else is."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from localcloud.machines.machine import children_of
from localcloud.machines.network import (
    METADATA_ADDRESS,
    METADATA_PORT,
    IpCommandError,
    SameNetworkError,
    in_network_of,
    in_new_network,
    ip,
    listen_in,
)
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes


CLOUD = ("127.0.0.1", 49_151)
NEEDS = "network namespaces need root and the ip command (apt install iproute2)"


@pytest.fixture(scope="module", autouse=True)
def _able() -> None:
    """Skip where namespaces cannot be made; in CI, where they can, a missing command fails."""
    if os.geteuid() != 0:
        pytest.skip(NEEDS)
    if shutil.which("ip") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NEEDS)


@pytest.fixture
def machine() -> Iterator[int]:
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


def test_cloud_and_metadata_service_are_reached_in_the_machine(machine: int) -> None:
    metadata, cloud = listen_in(machine, CLOUD)
    with metadata, cloud:
        assert answered(metadata, machine, (METADATA_ADDRESS, METADATA_PORT))
        assert answered(cloud, machine, CLOUD)


def test_machines_network_is_separate_from_the_hosts(machine: int) -> None:
    before = socket.if_nameindex()
    metadata, cloud = listen_in(machine, CLOUD)
    with metadata, cloud:
        assert socket.if_nameindex() == before
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(CLOUD, timeout=1)


def test_no_route_leads_out_of_a_machines_network(machine: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        metadata, cloud = listen_in(machine, CLOUD)
        with metadata, cloud:
            for place in (ours.getsockname(), ("192.0.2.1", 80)):
                with pytest.raises(OSError, match=r"refused|unreachable"):
                    in_network_of(machine, lambda place=place: socket.create_connection(place, timeout=1))  # type: ignore[misc]


def test_the_machine_may_itself_serve_on_the_port_of_the_metadata_service(machine: int) -> None:
    metadata, cloud = listen_in(machine, CLOUD)
    with metadata, cloud:
        own = in_network_of(machine, lambda: socket.create_server(("0.0.0.0", METADATA_PORT)))
        with own:
            assert answered(metadata, machine, (METADATA_ADDRESS, METADATA_PORT))
            assert answered(own, machine, ("127.0.0.1", METADATA_PORT))


def test_later_hypervisor_can_listen_again(machine: int) -> None:
    metadata, cloud = listen_in(machine, CLOUD)
    cloud.close()  # as a death does; the other end of the link may then still be there
    with metadata:
        again, cloud_again = listen_in(machine, CLOUD)
        with again, cloud_again:
            assert answered(again, machine, (METADATA_ADDRESS, METADATA_PORT))
            assert answered(cloud_again, machine, CLOUD)


def test_a_process_in_this_network_is_no_machine() -> None:
    with pytest.raises(SameNetworkError, match=f"process {os.getpid()} has no network of its own"):
        listen_in(os.getpid(), CLOUD)


def test_a_process_that_has_ended_has_no_network() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    assert children_of(ended.pid) == []
    with pytest.raises(FileNotFoundError):
        listen_in(ended.pid, CLOUD)


def test_error_of_ip_command_is_raised(machine: int) -> None:
    with pytest.raises(IpCommandError, match=r"link set nowhere up.*Cannot find device"):
        in_network_of(machine, lambda: ip("link set nowhere up"))
