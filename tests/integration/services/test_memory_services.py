"""The bucket and the queues in memory keep the same promises as those of the local cloud: one contract for both."""

from collections.abc import Callable
from itertools import count
from random import Random

import pytest

from core.config import Config
from services.clients import Clients
from services.errors import NotFoundError, ObjectTooLargeError
from services.s3 import Bucket, StoredObject
from services.sqs import OutgoingMessage, Queue, ReceivedMessage
from tests.support.memory_bucket import MemoryBucket
from tests.support.memory_queue import MemoryQueue
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes
JSON = "application/json"
_numbers = count()


@pytest.fixture(params=["memory", "local cloud"])
def bucket(request: pytest.FixtureRequest) -> Bucket:
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


def test_an_object_is_stored_read_overwritten_and_deleted(bucket: Bucket) -> None:
    bucket.put("job/a.json", b"1", JSON)
    bucket.put("job/a.json", b"22", JSON)
    assert (bucket.get("job/a.json"), bucket.exists("job/a.json")) == (b"22", True)
    assert bucket.head("job/a.json") == StoredObject(2, JSON)
    assert b"".join(bucket.stream("job/a.json")) == b"22"
    with pytest.raises(ObjectTooLargeError):
        bucket.get("job/a.json", 1)
    bucket.delete("job/a.json")
    bucket.delete_all(["job/a.json", "job/never"])
    assert (bucket.head("job/a.json"), bucket.exists("job/a.json")) == (None, False)
    with pytest.raises(NotFoundError):
        bucket.get("job/a.json")
    with pytest.raises(NotFoundError):
        bucket.get_with_etag("job/a.json")


def test_a_conditional_put_stores_where_its_condition_holds(bucket: Bucket) -> None:
    assert bucket.put_new("job/b.json", b"1", JSON)
    assert not bucket.put_new("job/b.json", b"2", JSON)
    body, etag = bucket.get_with_etag("job/b.json")
    assert body == b"1"
    assert bucket.put_over("job/b.json", b"3", JSON, etag)
    assert not bucket.put_over("job/b.json", b"4", JSON, etag)
    assert bucket.get("job/b.json") == b"3"
    assert not bucket.put_over("job/never.json", b"5", JSON, etag)
    assert not bucket.exists("job/never.json")


def test_keys_of_a_folder_come_in_order_and_no_others(bucket: Bucket) -> None:
    for key in ("keys/b", "keys/a", "keys2/c"):
        bucket.put(key, b"", JSON)
    bucket.put_parts("keys/parts", iter([b"1", b"2"]), JSON)
    assert bucket.list_keys("keys", 10) == ["keys/a", "keys/b", "keys/parts"]
    assert bucket.list_keys("keys", 1) == ["keys/a"]
    assert bucket.get("keys/parts") == b"12"


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
