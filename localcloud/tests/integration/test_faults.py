"""Faults over the wire: switches, faults of calls, and faults of queues."""

import signal
import subprocess
import sys
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError

from localcloud.launch import REGION, LocalCloud
from localcloud.tests.support.cloud_clients import (
    CloudClients,
    error_of,
    launch_instances,
    wait_for_state,
)

pytestmark = pytest.mark.processes

_names = count()

COUNTS = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@pytest.fixture
def once(cloud: LocalCloud) -> CloudClients:
    """CloudClients that try once."""
    return CloudClients(cloud.endpoint_url, attempts=1)


@pytest.mark.parametrize(
    ("code", "status"),
    [("VcpuLimitExceeded", 400), ("MaxSpotInstanceCountExceeded", 400), ("RequestLimitExceeded", 503)],
)
def test_every_launch_is_refused_while_the_switch_is_set(
    cloud: LocalCloud, once: CloudClients, code: str, status: int
) -> None:
    ec2 = once("ec2")
    first = launch_instances(ec2, ClientToken=f"before {code}")
    cloud.set_switches(launch_error=code)
    assert error_of(launch_instances, ec2) == (code, status)
    assert launch_instances(ec2, ClientToken=f"before {code}") == first  # a launch that succeeded has the same answer
    cloud.set_switches(launch_error=None)
    assert launch_instances(ec2)


def test_a_stopped_instance_is_not_started_either(cloud: LocalCloud, once: CloudClients) -> None:
    ec2 = once("ec2")
    (instance_id,) = launch_instances(
        ec2, "#!/bin/sh\n", InstanceInitiatedShutdownBehavior="stop", InstanceType="c7a.large"
    )
    wait_for_state(ec2, instance_id, "stopped")
    cloud.set_switches(launch_error="RequestLimitExceeded")
    assert error_of(ec2.start_instances, InstanceIds=[instance_id]) == ("RequestLimitExceeded", 503)
    cloud.set_switches(launch_error=None, capacity={"c7a.large": 0})
    assert error_of(ec2.start_instances, InstanceIds=[instance_id]) == ("InsufficientInstanceCapacity", 500)
    cloud.set_switches(capacity={})
    ec2.start_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "stopped")


def test_counts_of_a_queue_are_late_or_wrong(cloud: LocalCloud, clients: CloudClients) -> None:
    sqs = clients("sqs")
    url = sqs.create_queue(QueueName=f"counted-{next(_names)}")["QueueUrl"]
    sqs.send_message_batch(QueueUrl=url, Entries=[{"Id": str(n), "MessageBody": "x"} for n in range(5)])
    sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=2, VisibilityTimeout=600)

    def counts(names: list[str], **switches: float) -> list[int]:
        cloud.set_switches(stale_count_seconds=0, count_factor=1)
        cloud.set_switches(**switches)
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return [int(found[name]) for name in COUNTS]

    for names in (COUNTS, ["All"]):
        assert counts(names) == [3, 2, 0]
        assert counts(names, stale_count_seconds=600) == [0, 0, 0]
        assert counts(names, count_factor=3) == [9, 6, 0]


def queue_of(sqs: Any, *, fifo: bool = False) -> str:
    name = f"call-faults-{next(_names)}{'.fifo' if fifo else ''}"
    attributes = {"FifoQueue": "true"} if fifo else {}
    return str(sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"])


def bodies(sqs: Any, url: str, wait: int = 0) -> list[str]:
    received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=wait)
    return [message["Body"] for message in received.get("Messages", [])]


UNAVAILABLE = ("ServiceUnavailable", 503)


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("unavailable", [UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, ("Unavailable", 503)]),
        (
            "throttled",
            [
                ("ThrottlingException", 400),
                ("SlowDown", 503),
                ("ThrottlingException", 400),
                ("RequestLimitExceeded", 503),
            ],
        ),
        (
            "denied",
            [
                ("AccessDenied", 403),
                ("AccessDenied", 403),
                ("AccessDeniedException", 400),
                ("UnauthorizedOperation", 403),
            ],
        ),
        (
            "expired",
            [("ExpiredToken", 400), ("ExpiredToken", 400), ("ExpiredTokenException", 400), ("RequestExpired", 400)],
        ),
    ],
)
def test_a_refusal_has_the_code_and_the_status_of_its_service(
    cloud: LocalCloud, once: CloudClients, kind: str, answers: list[tuple[str, int]]
) -> None:
    cloud.set_switches(faults=[{"kind": kind}])
    calls = (once("sqs").list_queues, once("s3").list_buckets, once("dynamodb").list_tables)
    assert [error_of(call) for call in (*calls, once("ec2").describe_instances)] == answers


def test_a_reset_and_a_time_out_have_no_effect_and_a_lost_reply_has_its_effect(
    cloud: LocalCloud, once: CloudClients
) -> None:
    sqs = once("sqs")
    url = queue_of(sqs)
    for kind in ("reset", "timeout", "lost_reply"):
        cloud.set_switches(faults=[{"kind": kind, "operation": "SendMessage", "seconds": 0.01}])
        with pytest.raises((ConnectionClosedError, HTTPClientError)):
            sqs.send_message(QueueUrl=url, MessageBody=kind)
    cloud.set_switches(faults=[])
    assert bodies(sqs, url) == ["lost_reply"]


@pytest.mark.parametrize(("kind", "sent"), [("killed_before", []), ("killed_after", ["sent"])])
def test_the_process_that_makes_a_call_may_be_killed_before_its_effect_or_after_it(
    cloud: LocalCloud, once: CloudClients, kind: str, sent: list[str]
) -> None:
    sqs = once("sqs")
    url = queue_of(sqs)
    call = "import boto3, sys; boto3.client('sqs', 'us-east-1', endpoint_url=sys.argv[1])"
    call += ".send_message(QueueUrl=sys.argv[2], MessageBody='sent')"
    killed = faults_of(cloud, kind)
    cloud.set_switches(faults=[{"kind": kind, "operation": "SendMessage"}])
    caller = subprocess.run([sys.executable, "-c", call, cloud.endpoint_url, url], check=False)
    cloud.set_switches(faults=[])
    assert caller.returncode == -signal.SIGKILL
    assert faults_of(cloud, kind) == killed + 1
    assert bodies(sqs, url) == sent


def test_a_slow_call_outlasts_the_patience_of_its_client(cloud: LocalCloud) -> None:
    impatient = boto3.client(
        "sqs", REGION, endpoint_url=cloud.endpoint_url, config=Config(read_timeout=0.2, retries={"max_attempts": 0})
    )
    cloud.set_switches(faults=[{"kind": "slow", "seconds": 5}])
    try:
        with pytest.raises(ReadTimeoutError):
            impatient.list_queues()
    finally:
        cloud.set_switches(faults=[])


def faults_of(cloud: LocalCloud, kind: str) -> int:
    """Return how many calls have met a fault of this kind."""
    return int(cloud.control("GET", "calls")["faults"].get(kind, 0))


def test_receives_may_be_short_and_messages_come_twice_or_late(cloud: LocalCloud, once: CloudClients) -> None:
    sqs = once("sqs")
    url = queue_of(sqs)
    for number in range(10):
        sqs.send_message(QueueUrl=url, MessageBody=str(number))
    cloud.set_switches(short_receives=1)
    assert len(bodies(sqs, url)) < 10
    assert len(bodies(sqs, url, wait=1)) >= 1
    cloud.set_switches(short_receives=0, duplicate_deliveries=1)
    sqs.purge_queue(QueueUrl=url)
    sqs.send_message(QueueUrl=url, MessageBody="twice")
    assert bodies(sqs, url) == bodies(sqs, url) == ["twice"]
    cloud.set_switches(duplicate_deliveries=0, late_deliveries=1, late_seconds=900)
    late = queue_of(sqs)
    sqs.send_message(QueueUrl=late, MessageBody="late")
    assert bodies(sqs, late) == []


def test_too_many_in_flight_fails_only_short_polls_of_standard_queues(cloud: LocalCloud, once: CloudClients) -> None:
    sqs = once("sqs")
    standard, fifo = queue_of(sqs), queue_of(sqs, fifo=True)
    for body in ("1", "2", "3"):
        sqs.send_message(QueueUrl=standard, MessageBody=body)
        sqs.send_message(QueueUrl=fifo, MessageBody=body, MessageGroupId=body, MessageDeduplicationId=body)
    cloud.set_switches(max_in_flight=2)
    held = [sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"] for url in (standard, fifo)]
    assert [len(messages) for messages in held] == [2, 2]
    assert error_of(sqs.receive_message, QueueUrl=standard) == ("OverLimit", 403)
    assert bodies(sqs, standard, wait=1) == bodies(sqs, fifo) == bodies(sqs, fifo, wait=1) == []
    for url, messages in zip((standard, fifo), held, strict=True):
        sqs.delete_message(QueueUrl=url, ReceiptHandle=messages[0]["ReceiptHandle"])
        assert bodies(sqs, url) == ["3"]
