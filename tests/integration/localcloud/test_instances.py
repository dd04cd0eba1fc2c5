"""An EC2 that computes: what is launched runs, what ends is ended, and faults come when they are asked for."""

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.launch import LocalCloud, LocalCloudError
from localcloud.machines.machine import Machine, Process
from services.ec2 import console_of
from tests.integration.localcloud.conftest import Clients
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes
SLEEP = "#!/bin/sh\nexec sleep 600\n"


def launch(ec2: Any, user_data: str = SLEEP, **options: Any) -> list[str]:
    options = {
        "ImageId": "ami-12c6146b",
        "MinCount": 1,
        "MaxCount": 1,
        "UserData": user_data,
        "InstanceInitiatedShutdownBehavior": "terminate",
        **options,
    }
    return [instance["InstanceId"] for instance in ec2.run_instances(**options)["Instances"]]


def describe(ec2: Any, instance_id: str) -> dict[str, Any]:
    instance: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return instance


def state(ec2: Any, instance_id: str) -> str:
    return str(describe(ec2, instance_id)["State"]["Name"])


def becomes(ec2: Any, instance_id: str, wanted: str) -> None:
    wait_until(lambda: state(ec2, instance_id) == wanted, f"{instance_id} is {wanted}")


def process_of(cloud: LocalCloud, instance_id: str) -> Process:
    machine = Machine(cloud.state_dir / "instances" / instance_id)
    process: Process = wait_until(machine.process, f"{instance_id} has a process")
    return process


def test_a_launch_becomes_a_process_and_then_running(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2)
    becomes(ec2, instance_id, "running")
    process = process_of(cloud, instance_id)
    assert process.alive()
    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid


def test_an_exited_process_is_a_terminated_instance_with_ec2s_reason(clients: Clients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, "#!/bin/sh\necho done\n")
    becomes(ec2, instance_id, "terminated")
    assert describe(ec2, instance_id)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"] == "done\n"


def test_what_a_running_instance_writes_is_told_only_to_those_who_ask_for_the_latest(clients: Clients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, "#!/bin/sh\necho up\nsleep 600\n")
    wait_until(lambda: console_of(ec2, instance_id) == "up\n", "it is up")
    assert ec2.get_console_output(InstanceId=instance_id).get("Output", "") == ""
    ec2.terminate_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "terminated")
    assert ec2.get_console_output(InstanceId=instance_id)["Output"] == "up\n"


def test_an_instance_whose_process_is_killed_is_terminated(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2)
    becomes(ec2, instance_id, "running")
    os.kill(process_of(cloud, instance_id).pid, signal.SIGKILL)
    becomes(ec2, instance_id, "terminated")


def test_an_instance_that_is_terminated_ends_with_its_whole_process_group(
    cloud: LocalCloud, clients: Clients
) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, "#!/bin/sh\nsleep 600 & echo $! > child\nwait\n")
    child = cloud.state_dir / "instances" / instance_id / "child"
    pid = int(wait_until(lambda: child.read_text().strip() if child.exists() else None, "it starts a child"))
    answer = ec2.terminate_instances(InstanceIds=[instance_id])
    assert answer["TerminatingInstances"][0]["CurrentState"]["Name"] == "shutting-down"
    becomes(ec2, instance_id, "terminated")
    assert describe(ec2, instance_id)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    wait_until(lambda: Process.of(pid) is None, "its child has ended")


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(clients: Clients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, "#!/bin/sh\ntrap 'echo ignored' TERM\necho up\nwhile :; do sleep 0.1; done\n")
    wait_until(
        lambda: "up" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"], "it ignores SIGTERM"
    )
    ec2.terminate_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "terminated")
    assert "ignored" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_a_worker_that_drains_on_sigterm_is_given_the_time(clients: Clients) -> None:
    ec2 = clients("ec2")
    script = "#!/bin/sh\ntrap 'echo drained; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n"
    (instance_id,) = launch(ec2, script)
    wait_until(lambda: "up" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"], "it is up")
    ec2.terminate_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "terminated")
    assert "drained" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_an_instance_with_behaviour_stop_is_stopped_and_starts_again_with_its_user_data(
    clients: Clients,
) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(
        ec2, "#!/bin/sh\necho again >> boots\ncat boots\n", InstanceInitiatedShutdownBehavior="stop"
    )
    becomes(ec2, instance_id, "stopped")
    ec2.start_instances(InstanceIds=[instance_id])
    wait_until(
        lambda: ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"].count("again") == 3,
        "it boots twice",
    )
    becomes(ec2, instance_id, "stopped")
    ec2.terminate_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "terminated")
    with pytest.raises(ClientError, match="IncorrectInstanceState"):
        ec2.start_instances(InstanceIds=[instance_id])


def test_an_instance_whose_process_is_over_at_once_can_be_started_again_and_again(clients: Clients) -> None:
    """What its first boot held, its metadata service's port above all, is free for the next."""
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, "#!/bin/sh\n", InstanceInitiatedShutdownBehavior="stop")
    for _ in range(5):
        becomes(ec2, instance_id, "stopped")
        ec2.start_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "stopped")


def test_stop_instances_ends_the_process_and_keeps_the_instance(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2)
    becomes(ec2, instance_id, "running")
    process = process_of(cloud, instance_id)
    ec2.stop_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "stopped")
    assert not process.alive()


@pytest.mark.parametrize("user_data", ["", "echo no script\n"])
def test_user_data_that_is_no_script_fails_the_boot_with_the_reason(clients: Clients, user_data: str) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, user_data)
    becomes(ec2, instance_id, "terminated")
    assert "a script that begins with #! is needed" in describe(ec2, instance_id)["StateReason"]["Message"]
    assert "boot failed" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_two_launches_with_one_token_give_one_instance(clients: Clients) -> None:
    ec2 = clients("ec2")
    first = launch(ec2, ClientToken="decision-1", MaxCount=2)
    assert launch(ec2, ClientToken="decision-1", MaxCount=2) == first
    assert len(first) == 2
    assert not set(launch(ec2, ClientToken="decision-2")) & set(first)


def test_a_token_with_other_parameters_is_refused(clients: Clients) -> None:
    ec2 = clients("ec2")
    launch(ec2, ClientToken="decision-3")
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        launch(ec2, ClientToken="decision-3", MaxCount=2)


def test_a_token_is_refused_once_its_instances_have_been_terminated(clients: Clients) -> None:
    ec2 = clients("ec2")
    first, second = launch(ec2, ClientToken="decision-4", MaxCount=2)
    ec2.terminate_instances(InstanceIds=[first])
    becomes(ec2, first, "terminated")
    assert launch(ec2, ClientToken="decision-4", MaxCount=2) == [first, second]
    ec2.terminate_instances(InstanceIds=[second])
    becomes(ec2, second, "terminated")
    with pytest.raises(ClientError, match="IdempotentInstanceTerminated"):
        launch(ec2, ClientToken="decision-4", MaxCount=2)
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        launch(ec2, ClientToken="decision-4", MaxCount=3)


def test_a_launch_whose_reply_is_lost_is_retried_and_gives_exactly_one_instance(
    cloud: LocalCloud, clients: Clients
) -> None:
    cloud.set_switches(lost_launch_replies=1)
    with pytest.raises(ClientError) as lost:
        launch(Clients(cloud.endpoint_url, attempts=1)("ec2"), ClientToken="lost")
    assert lost.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    ec2 = clients("ec2")
    (instance_id,) = launch(ec2, ClientToken="lost")
    instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert [i["InstanceId"] for i in instances if i["ClientToken"] == "lost"] == [instance_id]


def test_max_count_instances_start_and_min_count_is_the_least(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    assert len(launch(ec2, MinCount=1, MaxCount=3)) == 3
    until_ended(ec2)
    cloud.set_switches(max_instances=2)
    assert len(launch(ec2, MinCount=1, MaxCount=3)) == 2
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        launch(ec2)
    cloud.set_switches(max_instances=4)
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        launch(ec2, MinCount=3, MaxCount=3)


def until_ended(ec2: Any) -> None:
    def states() -> Counter[str]:
        reservations = ec2.describe_instances()["Reservations"]
        return Counter(i["State"]["Name"] for r in reservations for i in r["Instances"])

    alive = [
        i["InstanceId"]
        for r in ec2.describe_instances()["Reservations"]
        for i in r["Instances"]
        if i["State"]["Name"] != "terminated"
    ]
    if alive:
        ec2.terminate_instances(InstanceIds=alive)
    wait_until(lambda: set(states()) <= {"terminated"}, "every instance has ended")


def test_a_boot_delay_keeps_an_instance_pending(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(boot_delay_seconds=60)  # longer than anything else the machine does between two calls
    (instance_id,) = launch(ec2)
    assert state(ec2, instance_id) == "pending"


def test_an_instance_runs_once_its_boot_delay_is_over(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(boot_delay_seconds=0.6)
    (instance_id,) = launch(ec2)
    becomes(ec2, instance_id, "running")


def test_an_instance_that_is_terminated_while_it_boots_never_runs(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(boot_delay_seconds=60)
    (instance_id,) = launch(ec2)
    ec2.terminate_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "terminated")
    assert not (cloud.state_dir / "instances" / instance_id / "process").exists()


def test_a_stuck_boot_is_running_without_a_process_and_can_be_terminated(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(stuck_boot_fraction=1)
    (instance_id,) = launch(ec2)
    becomes(ec2, instance_id, "running")
    assert not (cloud.state_dir / "instances" / instance_id / "process").exists()
    ec2.terminate_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "terminated")


def test_an_unknown_switch_is_refused_with_those_there_are(cloud: LocalCloud) -> None:
    with pytest.raises(LocalCloudError, match=r"unknown switches.*boot_delay_seconds"):
        cloud.set_switches(speed=3)


def test_an_unknown_instance_is_404_at_the_control_endpoint(cloud: LocalCloud) -> None:
    with pytest.raises(LocalCloudError, match="no instance i-404 was launched here"):
        cloud.control("GET", "instances/i-404")


def test_without_a_hypervisor_instances_run_at_once(apis: Clients, tmp_path: Path) -> None:
    ec2 = apis("ec2")
    (instance_id,) = launch(ec2)
    assert state(ec2, instance_id) == "running"
    ec2.terminate_instances(InstanceIds=[instance_id])
    assert state(ec2, instance_id) == "terminated"
