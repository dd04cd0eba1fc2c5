"""Queues over the wire: what moto gets wrong, and message move tasks."""

import json
import threading
import time
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import ClientError

from localcloud.tests.support.cloud_clients import CloudClients
from localcloud.tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

_names = count()


def new_queue(sqs: Any, *, fifo: bool = False, **attributes: str) -> str:
    name = f"queue-{next(_names)}{'.fifo' if fifo else ''}"
    url: str = sqs.create_queue(QueueName=name, Attributes={**({"FifoQueue": "true"} if fifo else {}), **attributes})[
        "QueueUrl"
    ]
    return url


def send(sqs: Any, url: str, bodies: list[str]) -> None:
    for start in range(0, len(bodies), 10):
        batch = bodies[start : start + 10]
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(batch)]
        assert not sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed")


def receive(sqs: Any, url: str, **options: Any) -> list[dict[str, Any]]:
    options = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["All"], **options}
    messages: list[dict[str, Any]] = sqs.receive_message(QueueUrl=url, **options).get("Messages", [])
    return messages


def test_a_message_with_more_bytes_than_its_queue_allows_is_rejected_alone(apis: CloudClients) -> None:
    sqs = apis("sqs")
    url = new_queue(sqs, MaximumMessageSize="1024")
    bodies = {"fits": "x" * 1_024, "large": "x" * 1_025, "characters": "\u0444" * 513}
    entries = [{"Id": name, "MessageBody": body} for name, body in bodies.items()]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert [each["Id"] for each in answer["Successful"]] == ["fits"]
    assert [(each["Id"], each["SenderFault"]) for each in answer["Failed"]] == [("large", True), ("characters", True)]
    assert "shorter than 1024 bytes" in answer["Failed"][0]["Message"]
    assert [message["Body"] for message in receive(sqs, url)] == [bodies["fits"]]


def test_message_has_attributes_body_and_receive_count(apis: CloudClients) -> None:
    sqs = apis("sqs")
    url = new_queue(sqs, VisibilityTimeout="0")
    attributes = {"kind": {"DataType": "String", "StringValue": "photo"}}
    sqs.send_message(QueueUrl=url, MessageBody="añ☃", MessageAttributes=attributes)
    receive(sqs, url)
    (message,) = receive(sqs, url, MessageAttributeNames=["All"])
    assert message["Body"] == "añ☃"
    assert message["MessageAttributes"]["kind"]["StringValue"] == "photo"
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"
    assert int(message["Attributes"]["ApproximateFirstReceiveTimestamp"]) / 1000 == pytest.approx(time.time(), abs=60)
    (plain,) = receive(sqs, url)
    assert "MessageAttributes" not in plain


def test_purge_tags_and_attributes_answer_as_before(apis: CloudClients) -> None:
    sqs = apis("sqs")
    url = new_queue(sqs, VisibilityTimeout="77")
    sqs.tag_queue(QueueUrl=url, Tags={"tier": "web"})
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"] == {"tier": "web"}
    send(sqs, url, ["m"] * 3)
    sqs.purge_queue(QueueUrl=url)
    assert receive(sqs, url) == []
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["VisibilityTimeout"] == "77"
    assert attributes["ApproximateNumberOfMessages"] == "0"


def test_two_creations_at_once_give_one_queue(apis: CloudClients) -> None:
    sqs = apis("sqs")
    name = f"queue-{next(_names)}"
    creators = [threading.Thread(target=sqs.create_queue, kwargs={"QueueName": name}) for _ in range(10)]
    for creator in creators:
        creator.start()
    for creator in creators:
        creator.join(DEADLINE_SECONDS)
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    send(sqs, url, ["m"])
    assert len(receive(sqs, url)) == 1


class Queues:
    """Queues of one kind, each with the same dead-letter queue, which gets a message at its second receive."""

    def __init__(self, sqs: Any, *, fifo: bool = False) -> None:
        self.sqs, self._fifo = sqs, fifo
        self.letters = new_queue(sqs, fifo=fifo)

    def source(self) -> str:
        policy = {"deadLetterTargetArn": self.arn(self.letters), "maxReceiveCount": "1"}
        return new_queue(self.sqs, fifo=self._fifo, VisibilityTimeout="0", RedrivePolicy=json.dumps(policy))

    def arn(self, url: str) -> str:
        return str(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def send(self, url: str, *bodies: str) -> None:
        for body in bodies:
            group = {"MessageGroupId": body, "MessageDeduplicationId": body} if self._fifo else {}
            self.sqs.send_message(QueueUrl=url, MessageBody=body, **group)

    def receive(self, url: str) -> dict[str, tuple[str, int]]:
        """Return id and receive count of each message, by its body."""
        return {
            each["Body"]: (each["MessageId"], int(each["Attributes"]["ApproximateReceiveCount"]))
            for each in receive(self.sqs, url)
        }

    def move_to_dead_letters(self, url: str) -> dict[str, tuple[str, int]]:
        dead = self.receive(url)
        assert self.receive(url) == {}
        return dead

    def move(self, **options: Any) -> dict[str, Any]:
        """Move all dead letters; return the task once it has ended."""
        self.sqs.start_message_move_task(SourceArn=self.arn(self.letters), **options)
        ended: dict[str, Any] = wait_until(self.ended, "the task has ended")
        return ended

    def ended(self) -> dict[str, Any] | None:
        (task,) = self.tasks()
        return task if task["Status"] not in {"RUNNING", "CANCELLING"} else None

    def tasks(self, **options: Any) -> list[dict[str, Any]]:
        answer = self.sqs.list_message_move_tasks(SourceArn=self.arn(self.letters), **options)
        return list(answer["Results"])


@pytest.mark.parametrize("fifo", [False, True])
def test_dead_letters_go_back_to_their_queues_as_new_messages_again_and_again(apis: CloudClients, fifo: bool) -> None:
    queues = Queues(apis("sqs"), fifo=fifo)
    first, second = queues.source(), queues.source()
    queues.send(first, "a", "b")
    queues.send(second, "c")
    for round_ in range(2):
        dead = queues.move_to_dead_letters(first) | queues.move_to_dead_letters(second)
        task = queues.move()
        assert task["Status"] == "COMPLETED"
        assert (task["ApproximateNumberOfMessagesMoved"], task["ApproximateNumberOfMessagesToMove"]) == (3, 3)
        assert not {"TaskHandle", "DestinationArn", "FailureReason"} & task.keys()
        assert len(queues.tasks(MaxResults=10)) == round_ + 1
    moved = queues.receive(first)
    assert set(moved) == {"a", "b"}
    moved |= queues.receive(second)
    assert {receives for _, receives in moved.values()} == {1}
    assert not {message_id for message_id, _ in moved.values()} & {message_id for message_id, _ in dead.values()}


def test_dead_letters_move_to_the_named_queue(apis: CloudClients) -> None:
    queues = Queues(apis("sqs"))
    source, other = queues.source(), new_queue(queues.sqs)
    queues.send(source, "a")
    queues.move_to_dead_letters(source)
    assert queues.move(DestinationArn=queues.arn(other))["DestinationArn"] == queues.arn(other)
    assert (set(queues.receive(source)), set(queues.receive(other))) == (set(), {"a"})


def test_one_task_of_a_queue_runs_until_it_is_cancelled(apis: CloudClients) -> None:
    queues = Queues(apis("sqs"))
    source = queues.source()
    queues.send(source, *map(str, range(10)))
    queues.move_to_dead_letters(source)
    slowly = {"SourceArn": queues.arn(queues.letters), "MaxNumberOfMessagesPerSecond": 1}
    sqs, handle = queues.sqs, queues.sqs.start_message_move_task(**slowly)["TaskHandle"]
    (task,) = queues.tasks()
    assert (task["TaskHandle"], task["Status"], task["MaxNumberOfMessagesPerSecond"]) == (handle, "RUNNING", 1)
    with pytest.raises(sqs.exceptions.UnsupportedOperation, match="already active"):
        sqs.start_message_move_task(**slowly)
    sqs.cancel_message_move_task(TaskHandle=handle)
    task = wait_until(queues.ended, "the task has ended")
    assert task["Status"] == "CANCELLED"
    assert 0 < 10 - task["ApproximateNumberOfMessagesMoved"] == len(queues.receive(queues.letters))
    with pytest.raises(sqs.exceptions.UnsupportedOperation, match="CANCELLED"):
        sqs.cancel_message_move_task(TaskHandle=handle)


def test_a_redrive_fails_for_a_message_sent_directly_to_the_dead_letter_queue(
    apis: CloudClients,
) -> None:
    queues = Queues(apis("sqs"))
    queues.source()
    queues.send(queues.letters, "a")
    task = queues.move()
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert set(queues.receive(queues.letters)) == {"a"}


def test_impossible_move_is_rejected(apis: CloudClients) -> None:
    queues, others = Queues(apis("sqs")), Queues(apis("sqs"), fifo=True)
    sqs, source = queues.sqs, queues.source()
    letters = queues.arn(queues.letters)
    for options in (
        {"SourceArn": queues.arn(source)},
        {"SourceArn": letters, "DestinationArn": letters},
        {"SourceArn": letters, "DestinationArn": others.arn(others.letters)},
        {"SourceArn": letters, "MaxNumberOfMessagesPerSecond": 501},
    ):
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            sqs.start_message_move_task(**options)
    for call, options in (
        (sqs.start_message_move_task, {"SourceArn": f"{letters}-gone"}),
        (sqs.start_message_move_task, {"SourceArn": letters, "DestinationArn": f"{letters}-gone"}),
        (sqs.cancel_message_move_task, {"TaskHandle": "none"}),
    ):
        with pytest.raises(sqs.exceptions.ResourceNotFoundException):
            call(**options)
    assert queues.tasks() == []
