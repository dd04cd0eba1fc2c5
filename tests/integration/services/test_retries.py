"""The product's clients under faults of calls: each tries again, a bounded number of times."""

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import botocore.endpoint
import pytest
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from localcloud.launch import LocalCloud
from localcloud.tests.support.cloud_clients import CloudClients
from services.clients import Clients
from services.endpoint import APP_ID, Endpoint
from services.s3 import Bucket

pytestmark = pytest.mark.processes


@pytest.fixture
def once(cloud: LocalCloud) -> Iterator[CloudClients]:
    """Clients that try once; afterwards the cloud has no faults."""
    yield CloudClients(cloud.endpoint_url, attempts=1)
    cloud.set_switches(faults=[])


def faults_of(cloud: LocalCloud, kind: str) -> int:
    """Return how many calls have met a fault of this kind."""
    return int(cloud.control("GET", "calls")["faults"].get(kind, 0))


def test_a_fault_may_be_for_one_tier_and_its_client_tries_again(
    cloud: LocalCloud, once: CloudClients, monkeypatch: pytest.MonkeyPatch
) -> None:
    once("s3").create_bucket(Bucket="call-faults")
    cloud.set_switches(faults=[{"kind": "reset", "tier": "worker", "service": "s3"}])
    found = {}
    for tier in ("worker", "web"):
        monkeypatch.setenv(APP_ID, f"fleetsight-{tier}")
        clients = Clients(Endpoint("us-east-1", cloud.endpoint_url, max_attempts=1))
        try:
            Bucket.named(clients, "call-faults").put("a", b"1", "text/plain")
            clients.s3.list_buckets()
            found[tier] = "answered"
        except HTTPClientError:
            found[tier] = "reset"
    assert found == {"worker": "reset", "web": "answered"}
    cloud.set_switches(faults=[{"kind": "unavailable", "service": "s3", "operation": "PUT", "share": 0.5}])
    patient = Bucket.named(Clients(Endpoint("us-east-1", cloud.endpoint_url)), "call-faults")
    for number in range(10):
        patient.put(f"{number}", b"1", "text/plain")
    cloud.set_switches(faults=[])
    stored = once("s3").list_objects_v2(Bucket="call-faults")["Contents"]
    assert {item["Key"] for item in stored} == {"a", *map(str, range(10))}


@pytest.mark.parametrize("kind", ["unavailable", "throttled", "reset"])
def test_row_23_each_client_repeats_a_call_a_bounded_number_of_times(
    cloud: LocalCloud, once: CloudClients, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(time=time.time, sleep=pauses.append))
    clients = Clients(Endpoint("us-east-1", cloud.endpoint_url, max_attempts=3))
    bucket = Bucket.named(clients, "call-faults")
    calls: dict[str, Callable[[], object]] = {
        "sqs": clients.sqs.list_queues,
        "dynamodb": clients.dynamodb.list_tables,
        "ec2": clients.ec2.describe_instances,
        "s3": lambda: bucket.get("a"),
    }
    made = {}
    for service, call in calls.items():
        cloud.set_switches(faults=[{"kind": kind, "service": service}])
        before = faults_of(cloud, kind)
        with pytest.raises((BotoCoreError, ClientError)):
            call()
        made[service] = faults_of(cloud, kind) - before
    assert made == dict.fromkeys(calls, 3)
    assert len(set(pauses)) == len(pauses) == 6, "botocore's, random; obstore pauses by itself"
    assert all(0 < pause < 20 for pause in pauses)
