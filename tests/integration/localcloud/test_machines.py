"""An instance's process is found again and ended with its children; an image is booted only where that is
possible."""

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
from tests.support.waiting import DEADLINE_SECONDS, wait_until

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
    child = start(machine, "http://127.0.0.1:1/")
    wait_until(machine.process, "the machine has a process")
    process = machine.process()
    assert process is not None
    assert process == Process.of(child.pid)
    assert [m.directory for m in machines_in(tmp_path)] == [machine.directory]
    process.signal_group(signal.SIGKILL)
    child.wait(DEADLINE_SECONDS)
    assert not process.alive()


def test_stray_children_end_with_the_group(machine: Machine, tmp_path: Path) -> None:
    prepare(machine, b"#!/bin/sh\nsleep 600 & echo $! > stray\nexit 0\n")
    child = start(machine, "http://127.0.0.1:1/")
    child.wait(DEADLINE_SECONDS)
    stray = int((machine.directory / "stray").read_text())
    assert Process.of(stray) is not None
    end_all(tmp_path)
    wait_until(lambda: Process.of(stray) is None, "the stray process has ended")


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


@pytest.mark.parametrize("user_data", [b"", b"echo hello\n"])
def test_user_data_that_is_no_script_fails_with_the_reason_in_the_console(machine: Machine, user_data: bytes) -> None:
    with pytest.raises(BootFailedError, match="a script that begins with #! is needed"):
        prepare(machine, user_data)
    assert "boot failed: the user data" in machine.console.read_text()


def test_the_user_data_is_ours_alone(machine: Machine) -> None:
    prepare(machine, b"#!/bin/sh\n")
    assert (machine.directory / "user-data").stat().st_mode & 0o777 == 0o700
    assert machine.directory.stat().st_mode & 0o777 == 0o700


ENDPOINT = "http://127.0.0.1:5000"


@pytest.fixture
def booted(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "instances" / "i-0123456789abcdef0")
    made.prepare()
    return made


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host on which images can be booted."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name, path=None: f"/usr/bin/{name}")


def test_missing_image_fails_the_boot_and_existing_ones_are_named(
    able: None, booted: Machine, tmp_path: Path
) -> None:
    (tmp_path / "images" / "ami-2" / "usr").mkdir(parents=True)
    (tmp_path / "images" / "ami-3").mkdir()  # half made
    backend = NspawnBackend(ENDPOINT, tmp_path / "images")
    with pytest.raises(
        BootFailedError, match=re.escape(f"no image ami-1 in {tmp_path / 'images'}; there are: ami-2")
    ):
        backend.boot(booted, {"image_id": "ami-1"})
    assert "boot failed: there is no image ami-1" in booted.console.read_text()


def test_an_image_id_is_no_path(able: None, booted: Machine, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "usr").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    with pytest.raises(BootFailedError):
        NspawnBackend(ENDPOINT, tmp_path / "images").boot(booted, {"image_id": "../elsewhere"})


def test_missing_root_rights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NspawnMissingError, match="need root"):
        check_tools()


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


def test_the_children_of_a_process_are_found() -> None:
    sleep = shutil.which("sleep") or "sleep"
    with subprocess.Popen(["/bin/sh", "-c", f"{sleep} 60 & wait"]) as shell:
        try:
            found: list[int] = []
            while not found:
                found = children_of(shell.pid)
            assert len(found) == 1
        finally:
            subprocess.run(["kill", *map(str, children_of(shell.pid)), str(shell.pid)], check=True)
