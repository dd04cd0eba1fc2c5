"""Instances by our wrapper: in memory, in the local cloud and in the emulator."""

from typing import Any

import pytest

from localcloud.launch import LocalCloud
from services.clients import Clients
from services.ec2 import Fleet, LaunchSpec
from services.errors import LaunchError

pytestmark = pytest.mark.processes


SPEC = LaunchSpec("c7a.large", "terminate", "ami-12c6146b", "#!/bin/sh\ntrue\n")


@pytest.fixture
def fleet(clients: Clients, config: Config) -> Any:
    made = Fleet(clients.ec2, config.names.worker_instance)
    yield made
    made.terminate([instance.instance_id for instance in made.instances()])


def test_a_fleet_is_the_instances_with_its_name(fleet: Fleet, clients: Clients) -> None:
    launched = fleet.launch(SPEC, 3, "token-a" + fleet.name)
    assert len(launched) == 3
    assert {each.instance_id for each in fleet.instances()} == {each.instance_id for each in launched}
    assert Fleet(clients.ec2, f"{fleet.name}-other").instances() == []
    assert {each.instance_type for each in fleet.instances()} == {"c7a.large"}


def test_two_launches_with_one_token_are_one(fleet: Fleet) -> None:
    first = fleet.launch(SPEC, 2, "token-b" + fleet.name)
    second = fleet.launch(SPEC, 2, "token-b" + fleet.name)
    assert [each.instance_id for each in first] == [each.instance_id for each in second]
    assert len(fleet.instances()) == 2


def test_workers_are_asked_to_stay_or_to_drain_and_that_is_taken_back(fleet: Fleet) -> None:
    first, second = (each.instance_id for each in fleet.launch(SPEC, 2, "token-t" + fleet.name))
    fleet.protect([first, second])
    fleet.request_drain([first])
    assert {each.instance_id: (each.protected, each.draining) for each in fleet.instances()} == {
        first: (True, True), second: (True, False),
    }  # fmt: skip
    fleet.unprotect([first])
    fleet.cancel_drain([first, second])
    fleet.unprotect([])
    assert {each.instance_id: (each.protected, each.draining) for each in fleet.instances()} == {
        first: (False, False), second: (True, False),
    }  # fmt: skip


def test_a_launch_by_a_template_has_what_the_template_says_and_the_type_and_market_of_the_call(
    fleet: Fleet, clients: Clients
) -> None:
    name = f"{fleet.name}-template"
    data: Any = {"ImageId": "ami-12c6146b", "InstanceType": "m5.large", "UserData": "IyEvYmluL3RydWU="}
    clients.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    spec = LaunchSpec("c7a.large", "terminate", market="spot", launch_template=name)
    [instance] = fleet.launch(spec, 1, "token-l" + fleet.name)
    [described] = fleet.instances()
    assert (described.instance_type, described.spot, described.client_token) == (
        "c7a.large", True, "token-l" + fleet.name,
    )  # fmt: skip
    assert described.instance_id == instance.instance_id
    asked = clients.ec2.describe_instance_attribute(InstanceId=instance.instance_id, Attribute="userData")
    assert asked["UserData"]["Value"] == data["UserData"]


def test_a_refusal_carries_ec2s_code(fleet: Fleet, cloud: LocalCloud) -> None:
    cloud.set_switches(max_instances=0)
    try:
        with pytest.raises(LaunchError) as caught:
            fleet.launch(SPEC, 1, "token-c" + fleet.name)
    finally:
        cloud.set_switches(max_instances=None)
    assert caught.value.code == "InsufficientInstanceCapacity"
    with pytest.raises(LaunchError):
        fleet.start(["i-00000000000000000"])


def test_instances_stop_start_and_end(fleet: Fleet, clients: Clients) -> None:
    (instance,) = fleet.launch(SPEC, 1, "token-d" + fleet.name)
    clients.ec2.stop_instances(InstanceIds=[instance.instance_id])
    assert fleet.instances(("running",)) == []
    clients.ec2.get_waiter("instance_stopped").wait(
        InstanceIds=[instance.instance_id], WaiterConfig={"Delay": 1, "MaxAttempts": 10}
    )
    fleet.start([instance.instance_id])
    assert [each.state for each in fleet.instances(("pending", "running"))] != []
    fleet.terminate([instance.instance_id])
    fleet.terminate([])
    assert fleet.instances(("pending", "running")) == []


def test_a_console_says_what_it_says(fleet: Fleet) -> None:
    (instance,) = fleet.launch(SPEC, 1, "token-e" + fleet.name)
    assert isinstance(fleet.console_output(instance.instance_id), str)
