"""An EC2 that computes: launches by parameters and by launch template become processes, which end with their
instances."""

import base64
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.launch import LocalCloud
from localcloud.machines.machine import Process
from localcloud.tests.support.cloud_clients import (
    SPOT,
    CloudClients,
    describe_instance,
    launch_instances,
    process_of,
    state_of_instance,
    subnet_in,
    wait_for_state,
)
from localcloud.tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


def test_an_exited_process_is_a_terminated_instance_with_ec2s_reason(clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2, "#!/bin/sh\necho done\n")
    wait_for_state(ec2, instance_id, "terminated")
    assert describe_instance(ec2, instance_id)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"] == "done\n"


def test_console_of_running_instance_needs_latest(clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2, "#!/bin/sh\necho up\nsleep 600\n")
    wait_until(
        lambda: ec2.get_console_output(InstanceId=instance_id, Latest=True).get("Output") == "up\n", "it is up"
    )
    assert ec2.get_console_output(InstanceId=instance_id).get("Output", "") == ""
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")
    assert ec2.get_console_output(InstanceId=instance_id)["Output"] == "up\n"


def test_an_instance_that_is_terminated_ends_with_its_whole_process_group(
    cloud: LocalCloud, clients: CloudClients
) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2, "#!/bin/sh\nsleep 600 & echo $! > child\nwait\n")
    child = cloud.state_dir / "instances" / instance_id / "child"
    pid = int(wait_until(lambda: child.read_text().strip() if child.exists() else None, "it starts a child"))
    answer = ec2.terminate_instances(InstanceIds=[instance_id])
    assert answer["TerminatingInstances"][0]["CurrentState"]["Name"] == "shutting-down"
    wait_for_state(ec2, instance_id, "terminated")
    assert describe_instance(ec2, instance_id)["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    wait_until(lambda: Process.with_pid(pid) is None, "its child has ended")


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(
        ec2, "#!/bin/sh\ntrap 'echo ignored' TERM\necho up\nwhile :; do sleep 0.1; done\n"
    )
    wait_until(
        lambda: "up" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"], "it ignores SIGTERM"
    )
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")
    assert "ignored" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_a_worker_that_drains_on_sigterm_is_given_the_time(clients: CloudClients) -> None:
    ec2 = clients("ec2")
    script = "#!/bin/sh\ntrap 'echo drained; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n"
    (instance_id,) = launch_instances(ec2, script)
    wait_until(lambda: "up" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"], "it is up")
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")
    assert "drained" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_a_stopped_instance_runs_its_user_data_again_when_it_is_started(
    clients: CloudClients,
) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(
        ec2, "#!/bin/sh\necho again >> boots\ncat boots\n", InstanceInitiatedShutdownBehavior="stop"
    )
    wait_for_state(ec2, instance_id, "stopped")
    ec2.start_instances(InstanceIds=[instance_id])
    wait_until(
        lambda: ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"].count("again") == 3,
        "it boots twice",
    )
    wait_for_state(ec2, instance_id, "stopped")
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")
    with pytest.raises(ClientError, match="IncorrectInstanceState"):
        ec2.start_instances(InstanceIds=[instance_id])


def test_stop_instances_ends_the_process_and_preserves_the_instance(cloud: LocalCloud, clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2)
    wait_for_state(ec2, instance_id, "running")
    process = process_of(cloud, instance_id)
    ec2.stop_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "stopped")
    assert not process.alive()


@pytest.mark.parametrize("user_data", ["", "echo no script\n"])
def test_user_data_that_is_no_script_fails_the_boot_with_the_reason(clients: CloudClients, user_data: str) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2, user_data)
    wait_for_state(ec2, instance_id, "terminated")
    assert "a script that begins with #! is needed" in describe_instance(ec2, instance_id)["StateReason"]["Message"]
    assert "boot failed" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_a_token_is_refused_once_its_instances_have_been_terminated(clients: CloudClients) -> None:
    ec2 = clients("ec2")
    first, second = launch_instances(ec2, ClientToken="decision-4", MaxCount=2)
    ec2.terminate_instances(InstanceIds=[first])
    wait_for_state(ec2, first, "terminated")
    assert launch_instances(ec2, ClientToken="decision-4", MaxCount=2) == [first, second]
    ec2.terminate_instances(InstanceIds=[second])
    wait_for_state(ec2, second, "terminated")
    with pytest.raises(ClientError, match="IdempotentInstanceTerminated"):
        launch_instances(ec2, ClientToken="decision-4", MaxCount=2)
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        launch_instances(ec2, ClientToken="decision-4", MaxCount=3)


def test_an_instance_is_pending_while_it_boots_and_never_runs_if_it_is_terminated(
    cloud: LocalCloud, clients: CloudClients
) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(boot_delay_seconds=60)  # longer than anything else the machine does between two calls
    (instance_id,) = launch_instances(ec2)
    assert state_of_instance(ec2, instance_id) == "pending"
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")
    assert not (cloud.state_dir / "instances" / instance_id / "process").exists()


def test_a_stuck_boot_is_running_without_a_process_and_can_be_terminated(
    cloud: LocalCloud, clients: CloudClients
) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(stuck_boot_fraction=1)
    (instance_id,) = launch_instances(ec2)
    wait_for_state(ec2, instance_id, "running")
    assert not (cloud.state_dir / "instances" / instance_id / "process").exists()
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")


def test_without_a_hypervisor_instances_run_at_once(apis: CloudClients, tmp_path: Path) -> None:
    ec2 = apis("ec2")
    (instance_id,) = launch_instances(ec2)
    assert state_of_instance(ec2, instance_id) == "running"
    ec2.terminate_instances(InstanceIds=[instance_id])
    assert state_of_instance(ec2, instance_id) == "terminated"


_names = count()


@pytest.fixture
def name(clients: CloudClients) -> Iterator[str]:
    """Of a template and an instance profile of this test's own."""
    name = f"worker-{next(_names)}"
    clients("iam").create_instance_profile(InstanceProfileName=name)
    yield name
    clients("iam").delete_instance_profile(InstanceProfileName=name)


def create(ec2: Any, name: str, **data: Any) -> str:
    """Create a launch template with all that a worker needs; return its id."""
    data = {
        "ImageId": "ami-12c6146b",
        "InstanceType": "c7a.large",
        "UserData": base64.b64encode(b"#!/bin/sh\necho works\n").decode(),
        "IamInstanceProfile": {"Name": name},
        "MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        "InstanceInitiatedShutdownBehavior": "terminate",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": tags(Name="template", Team="signs")}],
        **data,
    }
    created = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    return str(created["LaunchTemplate"]["LaunchTemplateId"])


def tags(**values: str) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in values.items()]


def launch_from_template(ec2: Any, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Launch one instance, or up to `MaxCount`, by a template, and return their part of the reply."""
    template = {"LaunchTemplateName": name, "Version": "$Default"}
    reply = ec2.run_instances(**{"MinCount": 1, "MaxCount": 1, "LaunchTemplate": template, **parameters})
    return list(reply["Instances"])


def security_group(ec2: Any, name: str) -> str:
    return str(ec2.create_security_group(GroupName=name, Description="of a test")["GroupId"])


def test_a_worker_gets_everything_from_its_template(clients: CloudClients, name: str, tmp_path: Path) -> None:
    ec2 = clients("ec2")
    group, market = security_group(ec2, name), {"InstanceMarketOptions": SPOT}
    # It runs until it has been described: a terminated instance has no profile any more.
    described = tmp_path / "described"
    script = f"#!/bin/sh\nuntil [ -e '{described}' ]; do sleep 0.05; done\necho works\n"
    user_data = {"UserData": base64.b64encode(script.encode()).decode()}
    create(ec2, name, SecurityGroupIds=[group], **market, **user_data)
    launched = launch_from_template(
        ec2, name, MaxCount=2, TagSpecifications=[{"ResourceType": "instance", "Tags": tags(Name="w")}]
    )
    assert len(launched) == 2
    for instance in (launched[1], describe_instance(ec2, launched[1]["InstanceId"])):
        assert (instance["ImageId"], instance["InstanceType"]) == ("ami-12c6146b", "c7a.large")
        assert instance["InstanceLifecycle"] == "spot"
        assert instance["IamInstanceProfile"]["Arn"].endswith(f"/{name}")
        assert [one["GroupId"] for one in instance["SecurityGroups"]] == [group]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert instance["MetadataOptions"]["InstanceMetadataTags"] == "enabled"
        instance_tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert (instance_tags["Name"], instance_tags["Team"]) == ("w", "signs")
    described.touch()
    instance_id = launched[1]["InstanceId"]
    wait_for_state(ec2, instance_id, "terminated")  # its shutdown behaviour; by default it would be stopped
    assert ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"] == "works\n"


def test_network_interfaces_of_a_template_bring_subnet_and_groups(clients: CloudClients, name: str) -> None:
    ec2 = clients("ec2")
    group, subnet = security_group(ec2, name), subnet_in(ec2, "us-east-1c")
    create(ec2, name, NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group]}])
    (launched,) = launch_from_template(ec2, name)
    assert "InstanceLifecycle" not in launched
    assert (launched["SubnetId"], launched["Placement"]["AvailabilityZone"]) == (subnet, "us-east-1c")
    assert [one["GroupId"] for one in launched["SecurityGroups"]] == [group]
