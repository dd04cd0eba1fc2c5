"""Instances by our wrapper: in memory, in the local cloud and in the emulator."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from core.ids import new_id
from services.ec2 import Fleet, LaunchSpec
from services.errors import LaunchError
from tests.integration.services.conftest import MemoryPlace, Place, WirePlace
from tests.support.memory_aws.calls import ATTEMPTS, InjectedFault, repeat_fault

pytestmark = pytest.mark.processes

SPEC = LaunchSpec("c7a.large", "terminate", "ami-12c6146b", "#!/bin/sh\ntrue\n")


def fleet_of(place: Place) -> Iterator[Fleet]:
    """Yield a fleet of its own, and end its instances."""
    made = place.fleet(new_id().lower())
    yield made
    made.terminate([instance.instance_id for instance in made.instances()])


@pytest.fixture
def fleet(place: Place) -> Iterator[Fleet]:
    """A fleet in each place."""
    yield from fleet_of(place)


@pytest.fixture
def wire_fleet(wire: WirePlace) -> Iterator[Fleet]:
    """A fleet in each place that is reached by an endpoint."""
    yield from fleet_of(wire)


@pytest.fixture
def stand_in_fleet(stand_in: Place) -> Iterator[Fleet]:
    """A fleet in each stand-in."""
    yield from fleet_of(stand_in)


def test_a_fleet_is_the_instances_with_its_name(fleet: Fleet, place: Place) -> None:
    launched = fleet.launch(SPEC, 3, "token-a" + fleet.name)
    assert len(launched) == 3
    assert {each.instance_id for each in fleet.instances()} == {each.instance_id for each in launched}
    assert place.fleet(f"{fleet.name}-other").instances() == []
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


def test_a_launch_by_a_template_has_the_type_and_market_of_the_call(
    wire_fleet: Fleet,
) -> None:
    fleet, ec2 = wire_fleet, wire_fleet.client
    name = f"{fleet.name}-template"
    data: Any = {"ImageId": "ami-12c6146b", "InstanceType": "m5.large", "UserData": "IyEvYmluL3RydWU="}
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    spec = LaunchSpec("c7a.large", "terminate", market="spot", launch_template=name)
    [instance] = fleet.launch(spec, 1, "token-l" + fleet.name)
    [described] = fleet.instances()
    assert (described.instance_type, described.spot, described.client_token) == (
        "c7a.large", True, "token-l" + fleet.name,
    )  # fmt: skip
    assert described.instance_id == instance.instance_id
    asked = ec2.describe_instance_attribute(InstanceId=instance.instance_id, Attribute="userData")
    assert asked["UserData"]["Value"] == data["UserData"]


def test_a_refusal_carries_ec2s_code(stand_in: Place, stand_in_fleet: Fleet) -> None:
    if isinstance(stand_in, MemoryPlace):
        stand_in.ec2.room = 0
        with pytest.raises(LaunchError) as caught:
            stand_in_fleet.launch(SPEC, 1, "token-c")
    else:
        assert stand_in.cloud is not None
        stand_in.cloud.set_switches(max_instances=0)
        try:
            with pytest.raises(LaunchError) as caught:
                stand_in_fleet.launch(SPEC, 1, "token-c" + stand_in_fleet.name)
        finally:
            stand_in.cloud.set_switches(max_instances=None)
    assert caught.value.code == "InsufficientInstanceCapacity"


def test_an_instance_that_does_not_exist_is_not_started(fleet: Fleet) -> None:
    with pytest.raises(LaunchError) as caught:
        fleet.start(["i-00000000000000000"])
    assert caught.value.code == "InvalidInstanceID.NotFound"


def test_a_token_with_other_parameters_is_refused(fleet: Fleet) -> None:
    fleet.launch(SPEC, 1, "token-p" + fleet.name)
    with pytest.raises(LaunchError) as caught:
        fleet.launch(SPEC, 2, "token-p" + fleet.name)
    assert caught.value.code == "IdempotentParameterMismatch"
    assert len(fleet.instances()) == 1


@pytest.mark.parametrize("fault", ["unavailable", "throttled", "reset", "lost_reply", "repeated"])
def test_a_launch_gives_as_many_as_are_wanted_whatever_befalls_its_first_attempt(
    stand_in: Place, stand_in_fleet: Fleet, fault: InjectedFault
) -> None:
    stand_in.fail("RunInstances", fault)
    launched = stand_in_fleet.launch(SPEC, 2, "token-f" + stand_in_fleet.name)
    assert len(launched) == 2
    assert {each.instance_id for each in stand_in_fleet.instances()} == {each.instance_id for each in launched}


@pytest.mark.parametrize(("fault", "there"), [("lost_reply", 2), ("unavailable", 0)])
def test_a_launch_that_failed_in_each_attempt_is_not_doubled_with_the_same_token(
    stand_in: Place, stand_in_fleet: Fleet, fault: InjectedFault, there: int
) -> None:
    stand_in.fail("RunInstances", *repeat_fault(fault, ATTEMPTS))
    with pytest.raises((LaunchError, BotoCoreError, ClientError)):
        stand_in_fleet.launch(SPEC, 2, "token-u" + stand_in_fleet.name)
    assert len(stand_in_fleet.instances()) == there
    assert len(stand_in_fleet.launch(SPEC, 2, "token-u" + stand_in_fleet.name)) == 2
    assert len(stand_in_fleet.instances()) == 2


def test_instances_stop_start_and_end(wire_fleet: Fleet) -> None:
    fleet, ec2 = wire_fleet, wire_fleet.client
    (instance,) = fleet.launch(SPEC, 1, "token-d" + fleet.name)
    ec2.stop_instances(InstanceIds=[instance.instance_id])
    assert fleet.instances(("running",)) == []
    ec2.get_waiter("instance_stopped").wait(
        InstanceIds=[instance.instance_id], WaiterConfig={"Delay": 1, "MaxAttempts": 10}
    )
    fleet.start([instance.instance_id])
    assert [each.state for each in fleet.instances(("pending", "running"))] != []
    fleet.terminate([instance.instance_id])
    fleet.terminate([])
    assert fleet.instances(("pending", "running")) == []
