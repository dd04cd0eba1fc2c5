"""DescribeInstances as of a while ago, through moto itself, on a clock that stands still."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import pytest

from localcloud.ec2.fleet import Fleet, fleet
from localcloud.ec2.instances import CONSOLE_BYTES, console_tail
from localcloud.options import Switches
from tests.support.clock import ManualClock
from tests.support.wsgi_clients import ClientPair, Reply, WsgiClient

FORM = "application/x-www-form-urlencoded"


class Ec2:
    """An EC2 client in this process, and the instance `i` that it launched with the tag `Name`."""

    def __init__(self, door: WsgiClient, name: str) -> None:
        self._door, self.name = door, name
        tag = "TagSpecification.1"
        named = {f"{tag}.ResourceType": "instance", f"{tag}.Tag.1.Key": "Name", f"{tag}.Tag.1.Value": name}
        reply = self.call("RunInstances", ImageId="ami-12c6146b", MinCount=1, MaxCount=1, **named)
        self.i = texts(reply, "instanceId")[0]

    def call(self, action: str, **parameters: object) -> Reply:
        body = urlencode({"Action": action, "Version": "2016-11-15", **parameters}).encode()
        return self._door.request("ec2", "POST", "/", body, CONTENT_TYPE=FORM)

    def by_name(self, *states: str) -> list[tuple[str, str]]:
        """Return id and state of each instance of this name in these states, as the product queries its fleet."""
        filters: dict[str, object] = {"Filter.1.Name": "tag:Name", "Filter.1.Value.1": self.name}
        for number, state in enumerate(states, 1):
            filters |= {"Filter.2.Name": "instance-state-name", f"Filter.2.Value.{number}": state}
        return [one[:2] for one in instances(self.call("DescribeInstances", **filters))]

    def by_id(self) -> tuple[str, str, dict[str, str]]:
        (one,) = instances(self.call("DescribeInstances", **{"InstanceId.1": self.i}))
        return one


def texts(reply: Reply, name: str) -> list[str]:
    return [str(element.text) for element in ET.fromstring(reply.body).iter() if element.tag.endswith("}" + name)]  # noqa: S314 - our own server's


def instances(reply: Reply) -> list[tuple[str, str, dict[str, str]]]:
    """Return id, state and tags of each instance of an answer."""
    root = ET.fromstring(reply.body)  # noqa: S314 - our own server's
    space = {"e": root.tag.partition("}")[0].strip("{")}
    return [
        (
            one.findtext("e:instanceId", "", space),
            one.findtext("e:instanceState/e:name", "", space),
            {
                tag.findtext("e:key", "", space): tag.findtext("e:value", "", space)
                for tag in one.iterfind("e:tagSet/e:item", space)
            },
        )
        for one in root.iterfind("e:reservationSet/e:item/e:instancesSet/e:item", space)
    ]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    """The clock of the fleet of this process, whose switches are off again afterwards."""
    clock = ManualClock(5000.0)
    monkeypatch.setattr(fleet, "clock", clock)
    monkeypatch.setattr(fleet, "compute", True)
    yield clock
    fleet.set_switches(Switches())


@pytest.fixture
def ec2(moto: ClientPair, clock: ManualClock, request: pytest.FixtureRequest) -> Ec2:
    return Ec2(moto.stock, request.node.name)


def lag(seconds: float) -> Fleet:
    fleet.set_switches(Switches(describe_lag_seconds=seconds))
    return fleet


def test_a_new_instance_is_missing_until_the_lag_is_over(ec2: Ec2, clock: ManualClock) -> None:
    lag(60)
    clock.now += 59.9
    assert ec2.by_name() == []
    assert texts(ec2.call("DescribeInstances", **{"InstanceId.1": ec2.i}), "Code") == ["InvalidInstanceID.NotFound"]
    clock.now += 0.1
    assert ec2.by_name("pending") == [(ec2.i, "pending")]
    assert ec2.by_id()[0] == ec2.i


def test_an_instance_is_in_the_state_that_it_had_and_found_by_it(ec2: Ec2, clock: ManualClock) -> None:
    clock.now += 60
    lag(30).report_running(ec2.i, 1, None)
    assert ec2.by_name("pending", "running") == [(ec2.i, "pending")]
    assert ec2.by_name("running") == []
    assert ec2.by_id()[1] == "pending"
    clock.now += 30
    ec2.call("TerminateInstances", **{"InstanceId.1": ec2.i})
    fleet.report_ended(ec2.i, 1, failed=None, console=None)
    assert ec2.by_name("running") == [(ec2.i, "running")]
    lag(0)
    assert ec2.by_name("running") == []
    assert ec2.by_id()[1] == "terminated"


def test_tags_lag_as_well(ec2: Ec2, clock: ManualClock) -> None:
    clock.now += 60
    tag = {"ResourceId.1": ec2.i, "Tag.1.Key": "drain", "Tag.1.Value": "asked"}
    lag(30)
    ec2.call("CreateTags", **tag)
    assert ec2.by_id()[2] == {"Name": ec2.name}
    clock.now += 30
    assert ec2.by_id()[2] == {"Name": ec2.name, "drain": "asked"}
    ec2.call("DeleteTags", **tag)
    assert ec2.by_id()[2] == {"Name": ec2.name, "drain": "asked"}
    clock.now += 30
    assert ec2.by_id()[2] == {"Name": ec2.name}


def test_calls_that_change_an_instance_do_not_lag(ec2: Ec2) -> None:
    lag(600)
    assert texts(ec2.call("TerminateInstances", **{"InstanceId.1": ec2.i}), "name")[0] == "shutting-down"


def test_an_answer_that_lags_gives_no_address_back(ec2: Ec2, clock: ManualClock) -> None:
    """moto frees an instance's addresses with its object, of which an answer makes copies."""
    subnet = texts(ec2.call("DescribeSubnets"), "subnetId")[0]
    reply = ec2.call("RunInstances", ImageId="ami-12c6146b", MinCount=1, MaxCount=1, SubnetId=subnet)
    ec2.i = texts(reply, "instanceId")[0]
    clock.now += 60
    lag(30)
    assert ec2.by_id()[0] == ec2.i
    instance = fleet.find(ec2.i).instance
    addresses = instance.ec2_backend.get_subnet(subnet)._subnet_ips
    assert instance._private_ips
    assert instance._private_ips <= set(addresses)


def test_number_of_throttled_calls_is_that_of_the_switch(ec2: Ec2) -> None:
    fleet.set_switches(Switches(describe_failures=2))
    replies = [ec2.call("DescribeInstances") for _ in range(3)]
    assert [reply.status for reply in replies] == [503, 503, 200]
    assert b"<Code>RequestLimitExceeded</Code>" in replies[0].body


def test_only_the_end_of_a_long_console_is_read(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert console_tail(console) == b""
    console.write_bytes(b"x" * CONSOLE_BYTES + b"the end")
    tail = console_tail(console)
    assert len(tail) == CONSOLE_BYTES
    assert tail.endswith(b"the end")
