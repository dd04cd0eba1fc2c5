"""Buckets, queues, tables and instances over the wire, and those in memory that stand for them in tests."""

from collections.abc import Callable, Iterator
from itertools import count
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config import Config
from core.provision import provision
from localcloud.launch import LocalCloud
from localcloud.tests.support.cloud_clients import calls_of
from services.clients import Clients
from services.ec2 import Fleet, LaunchSpec
from services.errors import LaunchError, NotFoundError, ObjectTooLargeError
from services.s3 import Bucket, SourceBuckets, StoredObject
from services.sqs import OutgoingMessage, Queue, ReceivedMessage
from services.table import LAST, PAGE, Item, Table
from tests.conftest import ConfigMaker
from tests.support.memory_services import MemoryBucket, MemoryQueue, MemorySource
from tests.support.memory_table import MemoryTable
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def bucket(provisioned: Clients, config: Config) -> Bucket:
    return Bucket.named(provisioned, config.names.input_bucket)


def test_row_35_a_browser_saves_an_object_and_does_not_show_it(bucket: Bucket, provisioned: Clients) -> None:
    bucket.put("a/b.jpg", b"GIF89a<script>", "image/gif", {"kept": "no"})
    bucket.put_parts("a/results.jsonl", iter([b"{}"]), "application/x-ndjson")
    for key, content_type in (("a/b.jpg", "image/gif"), ("a/results.jsonl", "application/x-ndjson")):
        seen = provisioned.s3.get_object(Bucket=bucket.name, Key=key)
        assert (seen["ContentDisposition"], seen["ContentType"]) == ("attachment", content_type)


@pytest.fixture(params=["memory", "local cloud"])
def place(request: pytest.FixtureRequest) -> tuple[SourceBuckets, str, Callable[[str, bytes], None], Bucket]:
    """Return sources, the name of one, a function that puts an object into it, and a bucket for copies."""
    if request.param == "memory":
        sources = MemorySource()
        return sources, "photos", lambda key, body: sources.objects.update({("photos", key): body}), MemoryBucket()
    clients: Clients = request.getfixturevalue("provisioned")
    config: Config = request.getfixturevalue("config")
    source = config.names.output_bucket
    return (
        SourceBuckets(clients.s3),
        source,
        lambda key, body: (
            clients.s3.put_object(Bucket=source, Key=key, Body=body, Tagging="theirs=1", Metadata={"who": "them"})
            and None
        ),
        Bucket.named(clients, config.names.input_bucket),
    )


HARD_KEYS = ["in/%2F+ &=?.jpg", "in/a b.jpg", "in/it's.jpg", "in/ä/日本.jpg"]


def test_a_source_is_listed_in_order_page_by_page(
    place: tuple[SourceBuckets, str, Callable[[str, bytes], None], Bucket],
) -> None:
    sources, bucket, put, _ = place
    for key in (*HARD_KEYS, "inner.jpg", "in"):
        put(key, key.encode())
    found, after, has_more = list[str](), "", True
    while has_more:
        page, has_more = sources.page(bucket, "in/", after, 3)
        found += [each.key for each in page]
        assert [each.size for each in page] == [len(each.key.encode()) for each in page]
        after = found[-1]
    assert found == sorted(HARD_KEYS, key=str.encode)
    assert sources.page(bucket, "nothing/", "", 3) == ([], False)


def test_an_object_is_readable_if_it_is_there(
    place: tuple[SourceBuckets, str, Callable[[str, bytes], None], Bucket],
) -> None:
    sources, bucket, put, _ = place
    put("in/a b.jpg", b"content")
    assert sources.is_readable(bucket, "in/a b.jpg")
    assert not sources.is_readable(bucket, "in/none.jpg")


def test_a_copy_has_the_content_and_nothing_else_of_the_object(
    place: tuple[SourceBuckets, str, Callable[[str, bytes], None], Bucket],
) -> None:
    sources, bucket, put, copies = place
    for number, key in enumerate(HARD_KEYS):
        put(key, key.encode())
        sources.copy(bucket, key, copies, f"J/{number}.jpg", "image/jpeg", {"kept": "no"} if number else None)
        assert copies.get(f"J/{number}.jpg") == key.encode()
        assert copies.head(f"J/{number}.jpg") == StoredObject(len(key.encode()), "image/jpeg")
    if sources.client is not None:
        seen = sources.client.get_object(Bucket=copies.name, Key="J/1.jpg")
        assert (seen["Metadata"], seen["ContentDisposition"]) == ({}, "attachment")
        tags = [
            sources.client.get_object_tagging(Bucket=copies.name, Key=f"J/{number}.jpg")["TagSet"]
            for number in (0, 1)
        ]
        assert tags == [[], [{"Key": "kept", "Value": "no"}]]
    with pytest.raises(NotFoundError):
        sources.copy(bucket, "in/none.jpg", copies, "J/none.jpg", "image/jpeg")


def test_a_copy_to_a_bucket_of_another_replaces_the_one_before(
    place: tuple[SourceBuckets, str, Callable[[str, bytes], None], Bucket],
) -> None:
    buckets, bucket, put, results = place
    put("labels/J.jsonl", b"before")
    results.put("results/J.jsonl", b"{}", "application/x-ndjson")
    for _ in range(2):
        buckets.copy_out(results, "results/J.jsonl", bucket, "labels/J.jsonl", "application/x-ndjson")
    assert [(each.key, each.size) for each in buckets.page(bucket, "labels/", "", 3)[0]] == [("labels/J.jsonl", 2)]
    if buckets.client is not None:
        seen = buckets.client.get_object(Bucket=bucket, Key="labels/J.jsonl")
        assert (seen["Body"].read(), seen["ContentType"]) == (b"{}", "application/x-ndjson")
        with pytest.raises(ClientError) as raised:
            buckets.copy_out(results, "results/J.jsonl", "no-such-bucket-here", "J.jsonl", "application/x-ndjson")
        assert raised.value.response["Error"]["Code"] == "NoSuchBucket"
    with pytest.raises(NotFoundError):
        buckets.copy_out(results, "results/none.jsonl", bucket, "labels/J.jsonl", "application/x-ndjson")


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


def test_an_object_that_cannot_be_read_is_named_with_the_reason(bucket: Bucket) -> None:
    with pytest.raises(NotFoundError, match=f"there is no object 'no/no' in the bucket '{bucket.name}'"):
        bucket.get("no/no")
    bucket.put("a", bytes(100), "image/jpeg")
    assert bucket.get("a", max_bytes=100) == bytes(100)
    with pytest.raises(ObjectTooLargeError, match="'a' has 100 bytes, more than the 99") as refused:
        bucket.get("a", max_bytes=99)
    assert refused.value.size == 100


@pytest.mark.parametrize(
    "call",
    [
        lambda bucket: bucket.get("a"),
        lambda bucket: bucket.head("a"),
        lambda bucket: bucket.exists("a"),
        lambda bucket: bucket.put_new("a", b"", "text/plain"),
    ],
    ids=["get", "head", "exists", "put_new"],
)
def test_a_missing_bucket_is_not_a_missing_object(clients: Clients, call: Callable[[Bucket], object]) -> None:
    with pytest.raises(ClientError, match="NoSuchBucket"):
        call(Bucket.named(clients, "fleetsight-never-made"))


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


def test_the_time_of_the_first_receive_stays_when_a_message_comes_again(queue: Queue) -> None:
    queue.send([OutgoingMessage("a", "body")])
    (first,) = queue.receive(wait_seconds=0)
    assert queue.change_visibility([first.receipt], 0) == []
    (second,) = queue.receive(wait_seconds=1)
    assert abs(second.first_received_at - first.first_received_at) < 0.01
    assert second.sent_at <= second.first_received_at


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


JSON = "application/json"
_numbers = count()


@pytest.fixture(params=["memory", "local cloud"])
def any_bucket(request: pytest.FixtureRequest) -> Bucket:
    if request.param == "memory":
        return MemoryBucket()
    clients: Clients = request.getfixturevalue("provisioned")
    config: Config = request.getfixturevalue("config")
    return Bucket.named(clients, config.names.input_bucket)


@pytest.fixture(params=["memory", "local cloud"])
def make_queue(request: pytest.FixtureRequest) -> Callable[..., Queue]:
    """Return a function that makes a queue with a visibility timeout of 30 s and, on request, a dead-letter queue."""
    if request.param == "memory":

        def in_memory(*, fifo: bool, letters: Queue | None = None) -> Queue:
            dead = None if letters is None else letters.client
            made = MemoryQueue(fifo, lambda: 0.0, Random(1), dead=dead, max_receive_count=2)  # type: ignore[arg-type]
            return made.queue(lambda _: None)

        return in_memory
    sqs = request.getfixturevalue("clients").sqs

    def in_cloud(*, fifo: bool, letters: Queue | None = None) -> Queue:
        name = f"contract-{next(_numbers)}{'.fifo' if fifo else ''}"
        attributes = {"VisibilityTimeout": "30"} | ({"FifoQueue": "true"} if fifo else {})
        if letters is not None:
            arn = sqs.get_queue_attributes(QueueUrl=letters.url, AttributeNames=["QueueArn"])["Attributes"][
                "QueueArn"
            ]
            attributes["RedrivePolicy"] = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": 2}}'
        sqs.create_queue(QueueName=name, Attributes=attributes)
        return Queue.named(sqs, name)

    return in_cloud


def receive(queue: Queue, wanted: int = 1) -> list[ReceivedMessage]:
    """Receive until so many messages have come."""
    found: list[ReceivedMessage] = []

    def has_come() -> bool:
        found.extend(queue.receive(wait_seconds=0))
        return len(found) >= wanted

    wait_until(has_come, f"{wanted} messages have come")
    return found


def test_an_object_is_stored_read_overwritten_and_deleted(any_bucket: Bucket) -> None:
    any_bucket.put("job/a.json", b"1", JSON)
    any_bucket.put("job/a.json", b"22", JSON)
    assert (any_bucket.get("job/a.json"), any_bucket.exists("job/a.json")) == (b"22", True)
    assert any_bucket.head("job/a.json") == StoredObject(2, JSON)
    assert b"".join(any_bucket.stream("job/a.json")) == b"22"
    with pytest.raises(ObjectTooLargeError):
        any_bucket.get("job/a.json", 1)
    any_bucket.delete("job/a.json")
    any_bucket.delete("job/a.json")
    any_bucket.delete_all(["job/a.json", "job/never"])
    any_bucket.delete_all([])
    assert (any_bucket.head("job/a.json"), any_bucket.exists("job/a.json")) == (None, False)
    with pytest.raises(NotFoundError):
        any_bucket.get("job/a.json")
    with pytest.raises(NotFoundError):
        any_bucket.get_with_etag("job/a.json")


def test_a_conditional_put_stores_where_its_condition_holds(any_bucket: Bucket) -> None:
    assert any_bucket.put_new("job/b.json", b"1", JSON)
    assert not any_bucket.put_new("job/b.json", b"2", JSON)
    body, etag = any_bucket.get_with_etag("job/b.json")
    assert body == b"1"
    assert any_bucket.put_over("job/b.json", b"3", JSON, etag)
    assert not any_bucket.put_over("job/b.json", b"4", JSON, etag)
    assert any_bucket.get("job/b.json") == b"3"
    assert not any_bucket.put_over("job/never.json", b"5", JSON, etag)
    assert not any_bucket.exists("job/never.json")


def test_keys_of_a_folder_come_in_order_and_no_others(any_bucket: Bucket) -> None:
    for key in ("keys/b", "keys/a", "keys2/c", "other/keys/d"):
        any_bucket.put(key, b"", JSON)
    assert [any_bucket.exists(key) for key in ("keys/a", "keys", "keys/", "key")] == [True, False, False, False]
    any_bucket.put_parts("keys/parts", iter([b"1", b"2"]), JSON)
    assert any_bucket.list_keys("keys", 10) == ["keys/a", "keys/b", "keys/parts"]
    assert any_bucket.list_keys("keys", 1) == ["keys/a"]
    assert any_bucket.list_keys("nothing", 10) == []
    assert any_bucket.get("keys/parts") == b"12"
    any_bucket.delete_all(["keys/a", "keys/b", "keys/never"])
    assert any_bucket.list_keys("keys", 10) == ["keys/parts"]


@pytest.mark.parametrize("fifo", [False, True])
def test_a_message_is_hidden_given_back_counted_and_deleted(make_queue: Callable[..., Queue], fifo: bool) -> None:
    queue = make_queue(fifo=fifo)
    assert queue.send([OutgoingMessage("1", "one"), OutgoingMessage("2", "two")]) == []
    first = receive(queue, 2)
    assert sorted(message.body for message in first) == ["one", "two"]
    assert queue.receive(wait_seconds=0) == []
    assert queue.counts().in_flight == 2
    assert queue.change_visibility([message.receipt for message in first], 0) == []
    again = receive(queue, 2)
    assert [message.receive_count for message in again] == [2, 2]
    assert queue.change_visibility([first[0].receipt], 0) == [first[0].receipt]
    assert queue.delete([message.receipt for message in again]) == []
    assert queue.counts().total == 0


@pytest.mark.parametrize("fifo", [False, True])
def test_a_message_that_was_received_too_often_is_a_dead_letter(make_queue: Callable[..., Queue], fifo: bool) -> None:
    letters = make_queue(fifo=fifo)
    queue = make_queue(fifo=fifo, letters=letters)
    queue.send([OutgoingMessage("1", "poison")])
    for _ in range(2):
        queue.change_visibility([receive(queue)[0].receipt], 0)
    assert queue.receive(wait_seconds=0) == []
    assert [message.body for message in receive(letters)] == ["poison"]
    assert queue.counts().total == 0


@pytest.mark.parametrize("fifo", [False, True])
def test_all_that_is_sent_of_one_image_within_five_minutes_arrives(
    make_queue: Callable[..., Queue], fifo: bool
) -> None:
    """Row 45: the request and the response of an image that failed and is retried at once."""
    queue = make_queue(fifo=fifo)
    sent = [f"attempt {attempt}" for attempt in range(3)]
    for body in sent:
        assert queue.send([OutgoingMessage("the same image", body)]) == []
    assert sorted(each.body for each in receive(queue, wanted=3)) == sent


@pytest.mark.parametrize("fifo", [False, True])
def test_a_receipt_expires_with_the_visibility_timeout_on_a_fifo_queue_alone(
    make_queue: Callable[..., Queue], fifo: bool
) -> None:
    """Row 5."""
    queue = make_queue(fifo=fifo)
    queue.send([OutgoingMessage("a", "1")])
    [message] = receive(queue)
    queue.change_visibility([message.receipt], 0)
    assert queue.delete([message.receipt]) == ([message.receipt] if fifo else [])
    assert queue.counts().total == (1 if fifo else 0)


PARTITIONS, SORT_KEYS = ("p", "q"), ("a", "a1", "b")


@pytest.fixture(params=["wire", "memory"])
def any_table(request: pytest.FixtureRequest) -> Table:
    """Either table."""
    table: Table = request.getfixturevalue("table") if request.param == "wire" else MemoryTable()
    return table


def test_items_come_back_as_they_went_in(any_table: Table) -> None:
    item: Item = {"pk": "p", "sk": "s", "text": "ünïcode \x00 <b>", "number": 3, "empty": ""}
    any_table.put_all([item])
    assert any_table.get("p", "s") == item
    assert any_table.get("p", "other") is None


def test_a_query_goes_both_ways_and_stops_at_its_limit_over_pages(any_table: Table) -> None:
    any_table.put_all([{"pk": "p", "sk": f"a{number:04}", "filler": "x" * 1500} for number in range(1_000)])
    any_table.put_all([{"pk": "p", "sk": "b"}, {"pk": "q", "sk": "a5"}])
    assert len(list(any_table.query("p", "a", f"a{LAST}"))) == 1_000
    assert any_table.count("p", "a") == 1_000
    assert [item["sk"] for item in any_table.query("p", "a0003", "a0005")] == ["a0003", "a0004", "a0005"]
    newest = [item["sk"] for item in any_table.query("p", "a", f"a{LAST}", limit=PAGE + 2, newest_first=True)]
    assert newest == [f"a{number:04}" for number in range(999, 999 - PAGE - 2, -1)]
    assert len(list(any_table.query("p", "a", f"a{LAST}", limit=900))) == 900


def test_more_items_than_a_call_takes_are_put_read_and_deleted(any_table: Table) -> None:
    keys = [("p", f"{number:04}") for number in range(110)]
    any_table.put_all([{"pk": pk, "sk": sk} for pk, sk in keys])
    assert len(any_table.get_all([*keys, ("p", "never there")])) == 110
    any_table.delete_all([*keys, ("p", "never there")])
    assert any_table.get_all(keys) == []


def test_conditional_writes_say_whether_they_took_place(any_table: Table) -> None:
    item: dict[str, str | int] = {"pk": "p", "sk": "s", "n": 1}
    assert any_table.put_if(item, "attribute_not_exists( #pk )")
    assert not any_table.put_if({**item, "n": 2}, "attribute_not_exists( #pk )")
    assert not any_table.delete_if("p", "s", "#n = :n", {"n": 2})
    assert any_table.delete_if("p", "s", "#n = :n", {"n": 1})
    assert any_table.set("p", "s", {"n": 5})
    assert not any_table.set("p", "s", {"n": 4}, condition="#n < :n")
    assert any_table.add("p", "s", {"n": 2, "m": 1}, {"t": "x"}) == {"pk": "p", "sk": "s", "n": 7, "m": 1, "t": "x"}
    assert any_table.add("p", "s", {"n": 2}, {"t": "y"}, "#n < :most", {"most": 7}) is None
    any_table.delete_all([("p", "s"), ("p", "never there")])
    assert any_table.get("p", "s") is None


def test_a_key_that_is_twice_in_a_batch_is_refused(any_table: Table) -> None:
    item, key = {"pk": "p", "sk": "s"}, ("p", "s")
    calls: list[Callable[[], object]] = [
        lambda: any_table.put_all([item, item]),
        lambda: any_table.delete_all([key, key]),
        lambda: any_table.get_all([key, key]),
    ]
    for call in calls:
        with pytest.raises(ClientError, match="ValidationException"):
            call()


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        ("attribute_not_exists( #pk )", {"unused": 1}),
        ("#n = :missing", {}),
        ("attribute_not_exists( #pk ) OR", {}),
        ("( attribute_not_exists( #pk )", {}),
        ("attribute_not_exists( #pk ) attribute_exists( #sk )", {}),
    ],
)
def test_the_table_in_memory_refuses_a_condition_that_dynamodb_does_not_understand(
    condition: str, values: Item
) -> None:
    # https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_PutItem.html#API_PutItem_Errors
    # The local cloud answers 500, or nothing at all.
    with pytest.raises(ClientError, match="ValidationException"):
        MemoryTable().put_if({"pk": "p", "sk": "s"}, condition, values)


_keys = st.tuples(st.sampled_from(PARTITIONS), st.sampled_from(SORT_KEYS))
# The local cloud cannot compare a number with a text.
_values = {"a": st.integers(0, 2), "b": st.sampled_from(["", "1", "z"])}
_attributes = st.fixed_dictionaries({}, optional=_values).filter(bool)
_items = st.builds(lambda key, attributes: {"pk": key[0], "sk": key[1], **attributes}, _keys, _attributes)
_conditions = st.sampled_from(
    [
        "attribute_not_exists( #pk )",
        "attribute_exists( #pk ) AND attribute_not_exists( #a )",
        "attribute_not_exists( #pk ) OR #a = :x",
        "attribute_not_exists( #pk ) OR #b <= :y",
        "#a < :x",
        "#a = :x AND #b = :y",
        "#a = :x OR #b = :x AND #b = :y",
        "(attribute_not_exists( #a ) OR #a <= :x) AND (attribute_not_exists( #b ) OR #b <= :y)",
    ]
).flatmap(
    lambda text: st.tuples(
        st.just(text), st.fixed_dictionaries({name: _values[of] for name, of in ("xa", "yb") if f":{name}" in text})
    )
)
_set_conditions = st.sampled_from([None, "attribute_exists( #pk )", "attribute_not_exists( #a ) OR #a < :a"])
_calls = st.one_of(
    st.tuples(
        st.sampled_from(("put_all", "put_each")),
        st.tuples(st.lists(_items, unique_by=lambda item: (item["pk"], item["sk"]))),
    ),
    st.tuples(st.just("delete_all"), st.tuples(st.lists(_keys, unique=True))),
    st.tuples(st.just("get_all"), st.tuples(st.lists(_keys, unique=True))),
    st.tuples(st.just("get"), _keys),
    st.builds(lambda item, condition: ("put_if", (item, *condition)), _items, _conditions),
    st.builds(lambda key, condition: ("delete_if", (*key, *condition)), _keys, _conditions),
    st.builds(lambda key, a, condition: ("set", (*key, {"a": a}, condition)), _keys, _values["a"], _set_conditions),
    st.builds(
        lambda key, n, attributes, condition: ("add", (*key, {"n": n}, attributes, *condition)),
        _keys,
        st.integers(-2, 2),
        _attributes,
        st.one_of(st.just(()), _conditions),
    ),
)


@given(calls=st.lists(_calls, max_size=12))
@settings(
    max_examples=50,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_table_in_memory_answers_any_calls_as_dynamodb_does(table: Table, calls: list[tuple[str, Any]]) -> None:
    memory = MemoryTable()
    table.delete_all([(pk, sk) for pk in PARTITIONS for sk in SORT_KEYS])
    for method, arguments in calls:
        answers = [getattr(each, method)(*arguments) for each in (table, memory)]
        if method == "get_all":
            answers = [sorted(answer, key=lambda item: (item["pk"], item["sk"])) for answer in answers]
        assert answers[0] == answers[1], (method, arguments)
    for pk in PARTITIONS:
        for newest_first in (False, True):
            held = [list(each.query(pk, "a", "z", newest_first=newest_first)) for each in (table, memory)]
            assert held[0] == held[1]
        assert table.count(pk, "a") == memory.count(pk, "a")


def test_a_hook_of_the_table_in_memory_sees_each_call_of_the_api() -> None:
    operations: list[str] = []

    def noted(operation: str, effect: Any) -> Any:
        operations.append(operation)
        return effect()

    table = MemoryTable(noted)
    table.put_all([{"pk": "p", "sk": f"{number:04}"} for number in range(PAGE + 10)])
    assert operations == ["BatchWriteItem"] * 21
    operations.clear()
    assert len(list(table.query("p", "0", "9"))) == PAGE + 10
    assert len(list(table.query("p", "0", "9", limit=3))) == 3
    assert len(table.get_all([("p", f"{number:04}") for number in range(101)])) == 101
    table.delete_all([("p", f"{number:04}") for number in range(26)])
    table.set("p", "s", {"a": 1})
    table.add("p", "s", {"a": 1}, {"b": 1})
    table.put_if({"pk": "p", "sk": "s"}, "attribute_not_exists( #pk )")
    table.delete_if("p", "s", "attribute_exists( #pk )")
    assert operations == [
        *["Query"] * 3,
        *["BatchGetItem"] * 2,
        *["BatchWriteItem"] * 2,
        *["UpdateItem"] * 2,
        "PutItem",
        "DeleteItem",
    ]


@pytest.mark.parametrize(("limit", "asked"), [(None, [PAGE, PAGE]), (3, [3]), (PAGE + 1, [PAGE, PAGE])])
def test_no_call_of_a_query_reads_more_than_a_page_or_than_is_wanted(
    table: Table, limit: int | None, asked: list[int]
) -> None:
    table.put_all([{"pk": "p", "sk": f"{number:04}"} for number in range(PAGE + 10)])
    with calls_of(table.client) as calls:
        found = [item["sk"] for item in table.query("p", "0", "9", limit=limit)]
    assert found == [f"{number:04}" for number in range(limit or PAGE + 10)]
    assert [parameters["Limit"] for _, parameters in calls] == asked
