"""Machines: a process that is found again and ended with its children, an image's host and network, the metadata."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcloud.launch import LocalCloud
from localcloud.machines import backends
from localcloud.machines.backends import (
    NspawnBackend,
    NspawnMissingError,
    check_tools,
    command,
    hypervisor_uuid,
    prepare,
    start,
)
from localcloud.machines.machine import BootFailedError, Machine, Process, children_of, end_all, machines_in
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
from localcloud.tests.support.cloud_clients import (
    SLEEP,
    CloudClients,
    launch_instances,
    metadata_port_of,
    wait_for_state,
)
from localcloud.tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "instances" / "i-1")
    machine.prepare()
    yield machine
    end_all(tmp_path)


def test_process_does_not_inherit_the_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    prepare(machine, b"#!/usr/bin/env -S sh -e\nenv\n")
    start(machine, "http://127.0.0.1:1/").wait(DEADLINE_SECONDS)
    names = {line.partition("=")[0] for line in machine.console.read_text().splitlines()}
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {
        "PATH",
        "HOME",
        "LANG",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    }


def test_the_process_leads_a_session_and_is_recorded_by_itself(machine: Machine, tmp_path: Path) -> None:
    prepare(machine, b"#!/bin/sh\nexec sleep 600\n")
    assert (machine.directory / "user-data").stat().st_mode & 0o777 == 0o700
    assert machine.directory.stat().st_mode & 0o777 == 0o700
    child = start(machine, "http://127.0.0.1:1/")
    wait_until(machine.process, "the machine has a process")
    process = machine.process()
    assert process is not None
    assert process == Process.with_pid(child.pid)
    assert child.pid in children_of(os.getpid())
    assert [m.directory for m in machines_in(tmp_path)] == [machine.directory]
    process.signal_group(signal.SIGKILL)
    child.wait(DEADLINE_SECONDS)
    assert not process.alive()


def test_stray_children_end_with_the_group(machine: Machine, tmp_path: Path) -> None:
    prepare(machine, b"#!/bin/sh\nsleep 600 & echo $! > stray\nexit 0\n")
    child = start(machine, "http://127.0.0.1:1/")
    child.wait(DEADLINE_SECONDS)
    stray = int((machine.directory / "stray").read_text())
    assert Process.with_pid(stray) is not None
    end_all(tmp_path)
    wait_until(lambda: Process.with_pid(stray) is None, "the stray process has ended")


def test_a_later_process_with_the_same_number_is_not_touched(machine: Machine) -> None:
    prepare(machine, b"#!/bin/sh\nexec sleep 600\n")
    child = start(machine, "http://127.0.0.1:1/")
    wait_until(machine.process, "the machine has a process")
    earlier = Process(child.pid, 1)
    earlier.signal_group(signal.SIGKILL)
    assert not earlier.alive()
    assert child.poll() is None
    child.kill()
    child.wait(DEADLINE_SECONDS)


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
    there = {name: f"/usr/bin/{name}" for name in backends.TOOLS if name != "systemd-nspawn"}
    monkeypatch.setattr("shutil.which", lambda name, path=None: there.get(name))
    with pytest.raises(NspawnMissingError, match="need systemd-nspawn: apt install systemd-container"):
        check_tools()


def test_a_host_without_time_namespaces_is_refused(
    able: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(backends, "TIME_NAMESPACE", tmp_path / "none")
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


def metadata_of(cloud: LocalCloud, instance_id: str) -> Callable[[str], tuple[int, str]]:
    """Return a reader of an instance's metadata, from outside, with a token."""
    base = f"http://127.0.0.1:{metadata_port_of(cloud, instance_id)}/latest"

    def call(path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"{base}/{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert call("meta-data/instance-id")[0] == 401
    _, token = call("api/token", "PUT", **{"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    return lambda path: call(path, **{"X-aws-ec2-metadata-token": token})


def test_an_instance_reads_its_identity_tags_keys_and_notice_until_it_ends(
    cloud: LocalCloud, clients: CloudClients
) -> None:
    ec2 = clients("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "app-tier"}]}]
    (instance_id,) = launch_instances(ec2, TagSpecifications=tags, InstanceType="t3.small")
    wait_for_state(ec2, instance_id, "running")
    read = metadata_of(cloud, instance_id)
    assert read("meta-data/instance-id") == (200, instance_id)
    assert read("meta-data/instance-type") == (200, "t3.small")
    assert read("meta-data/tags/instance/Name") == (200, "app-tier")
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "later", "Value": "yes"}])
    assert read("meta-data/tags/instance/later") == (200, "yes")
    assert read("user-data") == (200, SLEEP)
    assert read("meta-data/spot/instance-action")[0] == 404
    _, role = read("meta-data/iam/security-credentials/")  # without a profile, as this instance is
    keys = json.loads(read(f"meta-data/iam/security-credentials/{role}")[1])
    assert keys["Code"] == "Success"
    assert {"AccessKeyId", "SecretAccessKey", "Token", "Expiration", "LastUpdated", "Type"} <= set(keys)
    cloud.control("PUT", f"instances/{instance_id}/spot-notice", {"action": "terminate", "seconds": 1})
    status, notice = read("meta-data/spot/instance-action")
    assert (status, json.loads(notice)["action"]) == (200, "terminate")
    wait_for_state(ec2, instance_id, "terminated")

    def refused() -> bool:
        try:
            read("meta-data/instance-id")
        except OSError:
            return True
        return False

    wait_until(refused, "its port is closed")
