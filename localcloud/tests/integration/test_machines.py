"""Machines: a process that is found again and ended with its children, and the metadata."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from localcloud.launch import LocalCloud
from localcloud.machines.backends import prepare, start
from localcloud.machines.machine import Machine, Process, end_all, machines_in
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
