"""Buckets, queues and instances over the wire, and what makes them."""

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from core.config import Config
from core.provision import provision
from localcloud.launch import LocalCloud
from services.clients import Clients
from services.ec2 import Fleet, LaunchSpec
from services.errors import LaunchError, NotFoundError, ObjectTooLargeError
from services.s3 import Bucket, StoredObject
from services.sqs import OutgoingMessage, Queue
from tests.conftest import ConfigMaker

pytestmark = pytest.mark.processes


@pytest.fixture
def bucket(provisioned: Clients, config: Config) -> Bucket:
    return Bucket.named(provisioned, config.names.input_bucket)


def test_an_object_comes_back_as_it_went_in_and_over_what_was_there(bucket: Bucket, provisioned: Clients) -> None:
    bucket.put("a/b.jpg", b"old", "image/jpeg")
    bucket.put("a/b.jpg", b"\x00new", "image/jpeg")
    assert bucket.get("a/b.jpg") == b"\x00new"
    head = provisioned.s3.head_object(Bucket=bucket.name, Key="a/b.jpg")
    assert head["ContentType"] == "image/jpeg"


def test_row_35_whoever_is_led_to_an_object_saves_it_and_does_not_see_it(
    bucket: Bucket, provisioned: Clients
) -> None:
    bucket.put("a/b.jpg", b"GIF89a<script>", "image/gif", {"kept": "no"})
    bucket.put_parts("a/results.jsonl", iter([b"{}"]), "application/x-ndjson")
    for key, content_type in (("a/b.jpg", "image/gif"), ("a/results.jsonl", "application/x-ndjson")):
        seen = provisioned.s3.get_object(Bucket=bucket.name, Key=key)
        assert (seen["ContentDisposition"], seen["ContentType"]) == ("attachment", content_type)


PART = b"x" * 100_000
PARTS = 120
"""More than two parts of a multipart upload hold."""


def test_a_large_object_is_put_and_read_in_parts_and_one_that_stops_in_the_middle_changes_nothing(
    bucket: Bucket,
) -> None:
    class StoppedError(Exception):
        """Raised in the middle."""

    def stopped() -> Iterator[bytes]:
        yield from [PART] * PARTS
        raise StoppedError

    bucket.put_parts("J/large", iter([PART] * PARTS), "application/x-ndjson")
    assert b"".join(bucket.stream("J/large")) == PART * PARTS
    assert bucket.head("J/large") == StoredObject(len(PART) * PARTS, "application/x-ndjson")
    bucket.put("J/large", b"before", "text/plain")
    with pytest.raises(StoppedError):
        bucket.put_parts("J/large", stopped(), "application/x-ndjson")
    assert bucket.get("J/large") == b"before"
    with pytest.raises(NotFoundError):
        next(bucket.stream("J/none"))


def test_an_object_that_is_not_there_is_named_with_its_bucket(bucket: Bucket) -> None:
    with pytest.raises(NotFoundError, match=f"there is no object 'no/no' in the bucket '{bucket.name}'"):
        bucket.get("no/no")


def test_an_object_that_is_larger_than_its_reader_takes_is_not_read(bucket: Bucket) -> None:
    bucket.put("a", bytes(100), "image/jpeg")
    assert bucket.get("a", max_bytes=100) == bytes(100)
    with pytest.raises(ObjectTooLargeError, match="'a' has 100 bytes, more than the 99") as refused:
        bucket.get("a", max_bytes=99)
    assert refused.value.size == 100


def test_an_object_can_be_looked_at_without_reading_it(bucket: Bucket, clients: Clients) -> None:
    bucket.put("a", bytes(100), "image/jpeg")
    assert bucket.head("a") == StoredObject(100, "image/jpeg")
    assert bucket.head("b") is None
    with pytest.raises(ClientError, match="NoSuchBucket"):
        Bucket.named(clients, "fleetsight-never-made").head("a")


def test_a_new_object_is_stored_once_and_never_over_another(bucket: Bucket, clients: Clients) -> None:
    assert bucket.put_new("a/new.json", b"first", "application/json")
    assert not bucket.put_new("a/new.json", b"second", "application/json")
    assert bucket.get("a/new.json") == b"first"
    with pytest.raises(ClientError, match="NoSuchBucket"):
        Bucket.named(clients, "fleetsight-never-made").put_new("a", b"", "text/plain")


def test_an_object_is_replaced_only_while_it_is_the_one_that_was_read(bucket: Bucket) -> None:
    bucket.put("a/b.json", b"first", "application/json")
    body, etag = bucket.get_with_etag("a/b.json")
    assert body == b"first"
    assert bucket.put_over("a/b.json", b"second", "application/json", etag)
    assert not bucket.put_over("a/b.json", b"third", "application/json", etag)
    assert bucket.get("a/b.json") == b"second"
    bucket.delete("a/b.json")
    assert not bucket.put_over("a/b.json", b"fourth", "application/json", etag)
    with pytest.raises(NotFoundError):
        bucket.get_with_etag("a/b.json")


def test_other_refusals_pass_through(clients: Clients) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        Bucket.named(clients, "fleetsight-never-made").get("a")


def test_deleting_twice_is_no_error(bucket: Bucket) -> None:
    bucket.put("a", b"", "text/plain")
    bucket.delete("a")
    bucket.delete("a")
    with pytest.raises(NotFoundError):
        bucket.get("a")


def test_an_object_is_found_by_its_whole_key(bucket: Bucket) -> None:
    bucket.put("job/image.jpg", b"", "text/plain")
    assert bucket.exists("job/image.jpg")
    assert not bucket.exists("job/image")
    assert not bucket.exists("job")


def test_a_missing_bucket_is_not_a_missing_object(clients: Clients) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        Bucket.named(clients, "fleetsight-never-made").exists("a")


@pytest.fixture(params=["standard", "fifo"])
def queue(request: pytest.FixtureRequest, make_config: ConfigMaker, clients: Clients) -> Queue:
    config = make_config(queues={"kind": request.param, "max_receive_count": 3})
    provision(clients, config)
    return Queue.named(clients.sqs, config.queue_name(config.names.request_queue))


def test_a_message_is_received_in_hand_and_deleted(queue: Queue) -> None:
    assert queue.send([OutgoingMessage(f"id-{number}", f"body-{number}") for number in range(12)]) == []
    assert queue.counts().visible == 12
    received = queue.receive(wait_seconds=0)
    assert len(received) == 10
    assert {message.receive_count for message in received} == {1}
    counts = queue.counts()
    assert (counts.visible, counts.in_flight, counts.delayed, counts.total) == (2, 10, 0, 12)
    assert queue.delete([message.receipt for message in received]) == []
    assert queue.counts().total == 2


def test_messages_that_are_too_many_bytes_for_one_batch_are_sent_in_several(queue: Queue) -> None:
    sent = [f"{number:02}" + "x" * 200_000 for number in range(12)]
    assert queue.send([OutgoingMessage(body[:2], body) for body in sent]) == []
    received = [message.body for _ in range(12) for message in queue.receive(1, wait_seconds=0)]
    assert sorted(received) == sorted(sent)


def test_a_message_that_is_given_back_comes_again_and_counts(queue: Queue) -> None:
    queue.send([OutgoingMessage("a", "body")])
    (first,) = queue.receive(wait_seconds=0)
    assert queue.receive(wait_seconds=0) == []
    assert queue.change_visibility([first.receipt], 0) == []
    (second,) = queue.receive(wait_seconds=1)
    assert (second.body, second.receive_count) == ("body", 2)
    assert abs(second.first_received_at - first.first_received_at) < 0.01
    assert second.sent_at <= second.first_received_at


def test_a_message_that_comes_too_often_goes_to_the_dead_letters(
    queue: Queue, clients: Clients, config: Config
) -> None:
    queue.send([OutgoingMessage("a", "body")])
    for _ in range(3):
        (message,) = queue.receive(wait_seconds=1)
        queue.change_visibility([message.receipt], 0)
    assert queue.receive(wait_seconds=0) == []
    dead = queue.url.replace(config.names.request_queue, config.names.dead_letter_queue)
    (letter,) = Queue(clients.sqs, dead).receive(wait_seconds=1)
    assert letter.body == "body"


def test_provisioning_twice_changes_nothing(clients: Clients, config: Config) -> None:
    provision(clients, config)
    Bucket.named(clients, config.names.output_bucket).put("kept", b"1", "text/plain")
    requests = Queue.named(clients.sqs, config.names.request_queue)
    requests.send([OutgoingMessage("a", "kept")])
    provision(clients, config)
    assert Bucket.named(clients, config.names.output_bucket).get("kept") == b"1"
    assert requests.counts().total == 1


def test_everything_can_be_made_in_any_region_and_made_again(make_config: ConfigMaker) -> None:
    config = make_config(aws={"region": "eu-central-1"})
    there = Clients(config.aws.endpoint())
    provision(there, config)
    bucket = Bucket.named(there, config.names.input_bucket)
    bucket.put("kept", b"1", "text/plain")
    provision(there, config)
    assert bucket.get("kept") == b"1"


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
