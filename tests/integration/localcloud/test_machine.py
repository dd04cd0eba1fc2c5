"""An instance's process is found, told apart from a later one, and ended with all its children."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud.machines.machine import BootFailedError, Machine, Process, end_all, machines_in
from localcloud.machines.processes import prepare, start
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "instances" / "i-1")
    machine.prepare()
    yield machine
    end_all(tmp_path)


def test_the_process_gets_nothing_of_our_environment(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
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
