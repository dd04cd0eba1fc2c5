"""Instances: their life by API and control endpoint, capacity, and DescribeInstances as of a while ago."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from werkzeug.test import Client

from localcloud.access_keys import owner_key
from localcloud.control import ControlApplication
from localcloud.ec2 import fleet as fleets
from localcloud.ec2.fleet import CapacityPool, Ec2Fleet, InstanceActions, free_capacity
from localcloud.ec2.instances import CONSOLE_BYTES, console_tail
from localcloud.options import Switches
from localcloud.tests.support.waiting import NEVER_SECONDS, ManualClock

LARGE = CapacityPool("c7a.large", "us-east-1a")


@dataclass
class Instance:
    """As much of moto's instance as its life needs."""

    id: str = "i-1"
    instance_initiated_shutdown_behavior: str = "terminate"
    instance_type: str = "c7a.large"
    availability_zone: str = "us-east-1a"
    lifecycle: str | None = None
    _state: Any = field(default_factory=lambda: SimpleNamespace(name="pending", code=0))
    _reason: str = ""
    state_reason: Any = field(default_factory=lambda: SimpleNamespace(code="", message=""))

    @property
    def state(self) -> str:
        return str(self._state.name)


def set_state(state: str) -> Callable[[Instance], None]:
    return lambda instance: setattr(instance._state, "name", state)


ACTIONS = InstanceActions(set_state("terminated"), set_state("stopped"), lambda instance: instance.state)


@dataclass
class Appointments:
    """What is to happen later, and in how many seconds."""

    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def __call__(self, seconds: float, action: Callable[[], None]) -> None:
        self.due.append((seconds, action))

    def keep(self) -> float:
        """Do what is due first; return in how many seconds it was to be done."""
        seconds, action = self.due.pop(0)
        action()
        return seconds


def fleet_of(*instances: Instance, later: Appointments | None = None, **switches: Any) -> Ec2Fleet:
    fleet = Ec2Fleet(switches=Switches(**switches), later=later or Appointments())
    fleet.set_actions(ACTIONS)
    for instance in instances:
        fleet.boot(instance)
    return fleet


def test_a_boot_that_fails_terminates_the_instance_with_the_reason() -> None:
    instance = Instance(instance_initiated_shutdown_behavior="stop")
    fleet = fleet_of(instance)
    fleet.report_ended("i-1", 1, failed="no script", console=None)
    assert instance.state == "terminated"
    assert instance.state_reason.message == "Server.InternalError: no script"


def test_stopped_instance_is_listed_until_terminated_at_once() -> None:
    """The hypervisor must know how long to preserve its disk."""
    instance = Instance(instance_initiated_shutdown_behavior="stop")
    fleet = fleet_of(instance)
    fleet.report_ended("i-1", 1, failed=None, console=None)
    revision, work = fleet.wait_for_work(-1, 0)
    assert [each.state for each in work] == ["stopped"]
    fleet.begin_end(instance, "shutting-down", lambda: ACTIONS.terminate(instance))
    assert fleet.wait_for_work(revision, 0)[1] == []


def test_report_about_an_earlier_boot_has_no_effect() -> None:
    instance = Instance(instance_initiated_shutdown_behavior="stop")
    fleet = fleet_of(instance)
    fleet.report_ended("i-1", 1, failed=None, console=None)
    fleet.boot(instance)
    fleet.report_ended("i-1", 1, failed=None, console=None)
    assert instance.state == "pending"


def test_every_fourth_boot_is_stuck_at_a_fraction_of_a_quarter() -> None:
    fleet = fleet_of(*(Instance(f"i-{n}") for n in range(8)), stuck_boot_fraction=0.25)
    assert [work.stuck for work in fleet.wait_for_work(-1, 0)[1]] == [False, False, False, True] * 2


def test_every_tenth_boot_has_the_tail_delay() -> None:
    instances = (Instance(f"i-{n}") for n in range(10))
    fleet = fleet_of(*instances, boot_delay_seconds=1, boot_delay_tail_seconds=5)
    delays = [work.boot_delay_seconds for work in fleet.wait_for_work(-1, 0)[1]]
    assert delays == [1] * 9 + [6]


def test_long_poll_ends_at_a_launch_or_with_the_fleet() -> None:
    fleet = fleet_of()
    revision, work = fleet.wait_for_work(-1, 0)
    assert work == []
    threading.Timer(0.02, fleet.boot, (Instance(),)).start()
    revision, work = fleet.wait_for_work(revision, NEVER_SECONDS)
    assert [(w.id, w.state, w.generation) for w in work] == [("i-1", "pending", 1)]
    fleet.close()
    assert fleet.wait_for_work(revision, NEVER_SECONDS) == (revision, work)


def test_spot_instance_gets_its_notice_after_the_delay_and_ends() -> None:
    instance, later = Instance(lifecycle="spot"), Appointments()
    fleet = fleet_of(instance, later=later, spot_notice_after_seconds=30, spot_notice_seconds=90)
    assert later.due == []
    fleet.report_running("i-1", 1, None)
    assert later.keep() == 30
    assert (fleet.find("i-1").notice or {})["action"] == "terminate"
    assert instance.state == "running"
    assert later.keep() == 90
    assert instance.state == "shutting-down"
    fleet.report_ended("i-1", 1, failed=None, console=None)
    assert instance.state_reason.code == "Server.SpotInstanceTermination"


@pytest.mark.parametrize(("lifecycle", "after"), [(None, 30.0), ("spot", None)])
def test_neither_on_demand_instances_nor_those_without_the_switch_get_a_notice(
    lifecycle: str | None, after: float | None
) -> None:
    later = Appointments()
    fleet = fleet_of(Instance(lifecycle=lifecycle), later=later, spot_notice_after_seconds=after)
    fleet.report_running("i-1", 1, None)
    assert later.due == []


def test_instance_that_ended_before_its_notice_gets_no_notice() -> None:
    later = Appointments()
    fleet = fleet_of(Instance(lifecycle="spot"), later=later, spot_notice_after_seconds=30)
    fleet.report_running("i-1", 1, None)
    fleet.report_ended("i-1", 1, failed=None, console=None)
    later.keep()
    assert fleet.find("i-1").notice is None


XLARGE = CapacityPool("c7a.xlarge", "us-east-1a")
LARGE_IN_B = CapacityPool("c7a.large", "us-east-1b")
SPOT = CapacityPool("c7a.large", "us-east-1b", spot=True)


@pytest.mark.parametrize(
    ("switches", "wanted", "left"),
    [
        ({}, LARGE, None),
        ({"max_instances": 5}, XLARGE, 1),
        ({"capacity": {"c7a.large": 3}}, LARGE, 0),
        ({"capacity": {"us-east-1a": 2}}, LARGE, 0),
        ({"capacity": {"c7a.large": 9, "us-east-1b": 3}}, LARGE_IN_B, 1),
        ({"spot_capacity": 1}, SPOT, 0),
        ({"spot_capacity": 4, "max_instances": 5}, SPOT, 1),
    ],
)
def test_every_limit_that_bears_on_a_place_must_leave_room(
    switches: dict[str, Any], wanted: CapacityPool, left: int | None
) -> None:
    used = [LARGE, XLARGE, LARGE_IN_B, SPOT]
    assert free_capacity(Switches(**switches), used, wanted) == left


@pytest.fixture
def control() -> Callable[..., tuple[int, Any]]:
    """A client of the control endpoint of a fleet with one pending instance; it returns status and JSON."""
    client = Client(ControlApplication(fleet_of(Instance())))

    def call(method: str, path: str, body: Any = None, authorization: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": owner_key().control_authorization if authorization is None else authorization}
        answer = client.open(f"/_embedded/{path}", method=method, headers=headers, json=body)
        return answer.status_code, answer.json

    return call


def test_instance_lives_by_the_reports_and_notices_of_the_control_endpoint(
    control: Callable[..., tuple[int, Any]],
) -> None:
    epoch = control("GET", "health")[1]["epoch"]
    revision = control("GET", "instances")[1]["revision"]
    event = {"event": "running", "generation": 1, "console": "/console"}
    assert control("POST", "instances/i-1/events", event) == (200, {})
    changed = control("GET", f"instances?since={revision}&epoch={epoch}&wait=9")[1]
    assert (changed["instances"][0]["state"], changed["revision"] > revision) == ("running", True)
    assert control("GET", f"instances?since={changed['revision']}&epoch=another&wait=9")[1] == changed
    assert control("PUT", "instances/i-1/spot-notice", {"seconds": 9}) == (200, {})
    assert control("POST", "instances/i-1/events", {"event": "ended", "generation": 1}) == (200, {})
    assert control("GET", "instances")[1]["instances"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("GET", "instances/i-404", None, 404, "no instance i-404 was launched here"),
        ("POST", "instances/i-1/events", {"event": "running"}, 400, "KeyError: 'generation'"),
        ("POST", "instances/i-1/events", {"event": "born", "generation": 1}, 400, "must be running or ended"),
        ("PUT", "instances/i-1/spot-notice", ["now"], 400, "the body must be a JSON object"),
        ("PUT", "switches", {"capacity": 3}, 400, "capacity: Input should be a valid dictionary, not 3"),
    ],
)
def test_control_endpoint_names_what_is_wrong(
    control: Callable[..., tuple[int, Any]], method: str, path: str, body: Any, status: int, error: str
) -> None:
    before = control("GET", "switches")
    found = control(method, path, body)
    assert (found[0], error in found[1]["error"]) == (status, True)
    assert control("GET", "switches") == before


def test_control_endpoint_has_switches_and_calls_for_its_token_only(
    control: Callable[..., tuple[int, Any]],
) -> None:
    assert control("PUT", "switches", {"max_instances": 3})[1] == control("GET", "switches")[1]
    assert control("GET", "switches")[1]["max_instances"] == 3
    assert set(control("GET", "calls")[1]) == {"calls", "faults"}
    assert control("GET", "calls", authorization="Bearer guessed")[0] == 401


IMAGE = "ami-0deb1a12000000002"
NAMED = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "worker"}]}]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    """The clock of this process's fleet. Its switches are off again afterwards."""
    clock = ManualClock(5000.0)
    monkeypatch.setattr(fleets.fleet, "clock", clock)
    monkeypatch.setattr(fleets.fleet, "compute", True)
    yield clock
    fleets.fleet.set_switches(Switches())


@pytest.fixture
def instance_id(ec2: Any, clock: ManualClock) -> str:
    launched = ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, TagSpecifications=NAMED)
    return str(launched["Instances"][0]["InstanceId"])


def by_name(ec2: Any, *states: str) -> list[tuple[str, str]]:
    """Return id and state of each worker in these states, as the product queries its fleet."""
    filters = [{"Name": "tag:Name", "Values": ["worker"]}]
    filters += [{"Name": "instance-state-name", "Values": list(states)}] if states else []
    found = ec2.describe_instances(Filters=filters)["Reservations"]
    return [(each["InstanceId"], each["State"]["Name"]) for one in found for each in one["Instances"]]


def state_of(ec2: Any, instance_id: str) -> str:
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    return str(reservation["Instances"][0]["State"]["Name"])


def tags_of(ec2: Any, instance_id: str) -> dict[str, str]:
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    return {tag["Key"]: tag["Value"] for tag in reservation["Instances"][0]["Tags"]}


def lag(seconds: float) -> Ec2Fleet:
    fleets.fleet.set_switches(Switches(describe_lag_seconds=seconds))
    return fleets.fleet


def test_a_new_instance_is_missing_until_the_lag_is_over(ec2: Any, instance_id: str, clock: ManualClock) -> None:
    lag(60)
    clock.now += 59.9
    assert by_name(ec2) == []
    with pytest.raises(ClientError, match=r"InvalidInstanceID\.NotFound"):
        ec2.describe_instances(InstanceIds=[instance_id])
    clock.now += 0.1
    assert by_name(ec2, "pending") == [(instance_id, "pending")]
    assert state_of(ec2, instance_id) == "pending"


def test_an_instance_is_in_the_state_that_it_had_and_found_by_it(
    ec2: Any, instance_id: str, clock: ManualClock
) -> None:
    clock.now += 60
    lag(30).report_running(instance_id, 1, None)
    assert by_name(ec2, "pending", "running") == [(instance_id, "pending")]
    assert by_name(ec2, "running") == []
    assert state_of(ec2, instance_id) == "pending"
    clock.now += 30
    answer = ec2.terminate_instances(InstanceIds=[instance_id])
    assert answer["TerminatingInstances"][0]["CurrentState"]["Name"] == "shutting-down"  # this does not lag
    fleets.fleet.report_ended(instance_id, 1, failed=None, console=None)
    assert by_name(ec2, "running") == [(instance_id, "running")]
    lag(0)
    assert by_name(ec2, "running") == []
    assert state_of(ec2, instance_id) == "terminated"


def test_tags_lag_as_well(ec2: Any, instance_id: str, clock: ManualClock) -> None:
    clock.now += 60
    change = {"Resources": [instance_id], "Tags": [{"Key": "drain", "Value": "requested"}]}
    before, after = {"Name": "worker"}, {"Name": "worker", "drain": "requested"}
    lag(30)
    ec2.create_tags(**change)
    assert tags_of(ec2, instance_id) == before
    clock.now += 30
    assert tags_of(ec2, instance_id) == after
    ec2.delete_tags(**change)
    assert tags_of(ec2, instance_id) == after
    clock.now += 30
    assert tags_of(ec2, instance_id) == before


def test_number_of_throttled_calls_is_that_of_the_switch(ec2: Any, clock: ManualClock) -> None:
    fleets.fleet.set_switches(Switches(describe_failures=2))
    for _ in range(2):
        with pytest.raises(ClientError, match="RequestLimitExceeded") as throttled:
            ec2.describe_instances()
        assert throttled.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert ec2.describe_instances()["Reservations"] == []


def test_only_the_end_of_a_long_console_is_read(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert console_tail(console) == b""
    console.write_bytes(b"x" * CONSOLE_BYTES + b"the end")
    tail = console_tail(console)
    assert len(tail) == CONSOLE_BYTES
    assert tail.endswith(b"the end")


def test_a_resource_has_its_own_tags_which_describe_tags_finds_too(ec2: Any) -> None:
    ids = [ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")["Vpc"]["VpcId"] for number in range(3)]
    for number, vpc in enumerate(ids[:2]):
        ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": str(number)}, {"Key": "gone", "Value": ""}])
        ec2.delete_tags(Resources=[vpc], Tags=[{"Key": "gone"}])
    for vpc in ids:
        listed = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [vpc]}])["Tags"]
        assert {each["ResourceType"] for each in listed} <= {"vpc"}
        (described,) = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
        assert described.get("Tags", []) == [{"Key": each["Key"], "Value": each["Value"]} for each in listed]
    found = ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": ["1"]}])["Vpcs"]
    assert [each["VpcId"] for each in found] == ids[1:2]
