"""The switches over the wire, in the calls that the product makes."""

from itertools import count
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.launch import LocalCloud, LocalCloudError
from tests.integration.localcloud.conftest import Clients
from tests.integration.localcloud.test_instances import becomes, describe, launch, until_ended
from tests.integration.localcloud.test_templates import SPOT, subnet_in

pytestmark = pytest.mark.processes
COUNTS = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]
_queues = count()


def error_of(call: Any, *arguments: Any, **parameters: Any) -> tuple[str, int]:
    """Return code and HTTP status of the error that a call answers."""
    with pytest.raises(ClientError) as refused:
        call(*arguments, **parameters)
    response = refused.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def fleet(ec2: Any, name: str, *states: str) -> list[str]:
    """Return the instances that a `Name` tag and states lead to, as the autoscaler asks for them."""
    filters = [{"Name": "tag:Name", "Values": [name]}, {"Name": "instance-state-name", "Values": list(states)}]
    pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
    return [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]


@pytest.fixture
def impatient(cloud: LocalCloud) -> Clients:
    """Clients that try once."""
    return Clients(cloud.endpoint_url, attempts=1)


def test_a_type_or_zone_that_is_full_leaves_room_in_another(cloud: LocalCloud, impatient: Clients) -> None:
    ec2 = impatient("ec2")
    until_ended(ec2)
    cloud.set_switches(capacity={"c7a.large": 2, "us-east-1b": 1})
    assert len(launch(ec2, MaxCount=3, InstanceType="c7a.large")) == 2
    full = {"InstanceType": "c7a.large"}
    assert error_of(launch, ec2, **full) == ("InsufficientInstanceCapacity", 500)
    elsewhere = {"InstanceType": "c7a.xlarge", "SubnetId": subnet_in(ec2, "us-east-1b")}
    assert len(launch(ec2, MaxCount=3, **elsewhere)) == 1
    assert error_of(launch, ec2, **elsewhere) == ("InsufficientInstanceCapacity", 500)
    assert len(launch(ec2, MaxCount=3, InstanceType="c7a.xlarge")) == 3


def test_spot_may_be_full_while_there_is_room_on_demand(cloud: LocalCloud, impatient: Clients) -> None:
    ec2 = impatient("ec2")
    cloud.set_switches(spot_capacity=0)
    assert error_of(launch, ec2, InstanceMarketOptions=SPOT) == ("InsufficientInstanceCapacity", 500)
    assert len(launch(ec2)) == 1


@pytest.mark.parametrize(
    ("code", "status"),
    [("VcpuLimitExceeded", 400), ("MaxSpotInstanceCountExceeded", 400), ("RequestLimitExceeded", 503)],
)
def test_every_launch_is_refused_while_the_switch_is_set(
    cloud: LocalCloud, impatient: Clients, code: str, status: int
) -> None:
    ec2 = impatient("ec2")
    first = launch(ec2, ClientToken=f"before {code}")
    cloud.set_switches(launch_error=code)
    assert error_of(launch, ec2) == (code, status)
    assert launch(ec2, ClientToken=f"before {code}") == first  # a launch that succeeded is told as it was
    cloud.set_switches(launch_error=None)
    assert launch(ec2)


def test_a_stopped_instance_is_not_started_either(cloud: LocalCloud, impatient: Clients) -> None:
    ec2 = impatient("ec2")
    (instance_id,) = launch(ec2, "#!/bin/sh\n", InstanceInitiatedShutdownBehavior="stop", InstanceType="c7a.large")
    becomes(ec2, instance_id, "stopped")
    cloud.set_switches(launch_error="RequestLimitExceeded")
    assert error_of(ec2.start_instances, InstanceIds=[instance_id]) == ("RequestLimitExceeded", 503)
    cloud.set_switches(launch_error=None, capacity={"c7a.large": 0})
    assert error_of(ec2.start_instances, InstanceIds=[instance_id]) == ("InsufficientInstanceCapacity", 500)
    cloud.set_switches(capacity={})
    ec2.start_instances(InstanceIds=[instance_id])
    becomes(ec2, instance_id, "stopped")


def test_the_reply_of_a_launch_shows_what_descriptions_lack(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(describe_lag_seconds=600)
    named = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "lag"}]}]
    (instance_id,) = launch(ec2, TagSpecifications=named)
    assert fleet(ec2, "lag", "pending", "running") == []
    assert error_of(ec2.describe_instances, InstanceIds=[instance_id]) == ("InvalidInstanceID.NotFound", 400)
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": "drain", "Value": "asked"}])
    cloud.set_switches(describe_lag_seconds=0)
    assert fleet(ec2, "lag", "pending", "running") == [instance_id]
    assert {"Key": "drain", "Value": "asked"} in describe(ec2, instance_id)["Tags"]


def test_descriptions_fail_as_often_as_the_switch_says(cloud: LocalCloud, impatient: Clients) -> None:
    ec2 = impatient("ec2")
    cloud.set_switches(describe_failures=2)
    assert [error_of(ec2.describe_instances) for _ in range(2)] == [("RequestLimitExceeded", 503)] * 2
    assert fleet(ec2, "nobody", "running") == []
    assert cloud.control("GET", "switches")["describe_failures"] == 0


def test_a_spot_instance_is_told_and_then_taken_back(cloud: LocalCloud, clients: Clients) -> None:
    ec2 = clients("ec2")
    cloud.set_switches(spot_notice_after_seconds=0.1, spot_notice_seconds=0.2)
    (spot,) = launch(ec2, InstanceMarketOptions=SPOT)
    (on_demand,) = launch(ec2)
    becomes(ec2, spot, "terminated")
    assert cloud.control("GET", f"instances/{spot}")["spot_notice"]["action"] == "terminate"
    assert describe(ec2, spot)["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    becomes(ec2, on_demand, "running")
    assert cloud.control("GET", f"instances/{on_demand}")["spot_notice"] is None


def test_counts_of_a_queue_are_late_or_wrong(cloud: LocalCloud, clients: Clients) -> None:
    sqs = clients("sqs")
    url = sqs.create_queue(QueueName=f"counted-{next(_queues)}")["QueueUrl"]
    sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": str(n), "MessageBody": "x"} for n in range(5)])
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=2, VisibilityTimeout=600)

    def counts(names: list[str], **switches: float) -> list[int]:
        cloud.set_switches(stale_count_seconds=0, count_factor=1)
        cloud.set_switches(**switches)
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return [int(found[name]) for name in COUNTS]

    for names in (COUNTS, ["All"]):  # the one is answered directly, the other by moto
        assert counts(names) == [3, 2, 0]
        assert counts(names, stale_count_seconds=600) == [0, 0, 0]
        assert counts(names, count_factor=3) == [9, 6, 0]


def test_a_switch_that_means_nothing_is_refused_over_the_wire(cloud: LocalCloud) -> None:
    with pytest.raises(LocalCloudError, match=r"capacity=3: must be whole numbers by instance type"):
        cloud.set_switches(capacity=3)
    assert cloud.control("GET", "switches")["capacity"] == {}
