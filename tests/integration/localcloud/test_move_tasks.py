"""Message move tasks as an operator starts them, over the wire."""

import json
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.integration.localcloud.conftest import Clients
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes
_names = count()


class Queues:
    """Queues of one kind, each with the same dead-letter queue, where a message dies at its second receive."""

    def __init__(self, sqs: Any, *, fifo: bool = False) -> None:
        self.sqs, self._fifo = sqs, fifo
        self.letters = self.new()

    def new(self, **attributes: str) -> str:
        name = f"moved-{next(_names)}{'.fifo' if self._fifo else ''}"
        kind = {"FifoQueue": "true"} if self._fifo else {}
        url: str = self.sqs.create_queue(QueueName=name, Attributes={**kind, **attributes})["QueueUrl"]
        return url

    def source(self) -> str:
        policy = {"deadLetterTargetArn": self.arn(self.letters), "maxReceiveCount": "1"}
        return self.new(VisibilityTimeout="0", RedrivePolicy=json.dumps(policy))

    def arn(self, url: str) -> str:
        return str(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def send(self, url: str, *bodies: str) -> None:
        for body in bodies:
            group = {"MessageGroupId": body, "MessageDeduplicationId": body} if self._fifo else {}
            self.sqs.send_message(QueueUrl=url, MessageBody=body, **group)

    def receive(self, url: str) -> dict[str, tuple[str, int]]:
        """Return id and receive count of each message, by its body."""
        answer = self.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["ApproximateReceiveCount"]
        )
        return {
            each["Body"]: (each["MessageId"], int(each["Attributes"]["ApproximateReceiveCount"]))
            for each in answer.get("Messages", [])
        }

    def kill(self, url: str) -> dict[str, tuple[str, int]]:
        """Let every message of a queue die; return them."""
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
        tasks: list[dict[str, Any]] = self.sqs.list_message_move_tasks(SourceArn=self.arn(self.letters), **options)[
            "Results"
        ]
        return tasks


@pytest.mark.parametrize("fifo", [False, True])
def test_dead_letters_go_back_to_their_queues_as_new_messages_again_and_again(apis: Clients, fifo: bool) -> None:
    queues = Queues(apis("sqs"), fifo=fifo)
    first, second = queues.source(), queues.source()
    queues.send(first, "a", "b")
    queues.send(second, "c")
    for round_ in range(2):
        dead = queues.kill(first) | queues.kill(second)
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


def test_dead_letters_go_to_the_queue_that_is_named(apis: Clients) -> None:
    queues = Queues(apis("sqs"))
    source, other = queues.source(), queues.new()
    queues.send(source, "a")
    queues.kill(source)
    assert queues.move(DestinationArn=queues.arn(other))["DestinationArn"] == queues.arn(other)
    assert (set(queues.receive(source)), set(queues.receive(other))) == (set(), {"a"})


def test_one_task_of_a_queue_runs_until_it_is_cancelled(apis: Clients) -> None:
    queues = Queues(apis("sqs"))
    source = queues.source()
    queues.send(source, *map(str, range(10)))
    queues.kill(source)
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


def test_a_message_that_was_sent_to_the_dead_letter_queue_itself_has_no_queue_to_go_back_to(apis: Clients) -> None:
    queues = Queues(apis("sqs"))
    queues.source()
    queues.send(queues.letters, "a")
    task = queues.move()
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert set(queues.receive(queues.letters)) == {"a"}


def test_what_cannot_be_moved_is_refused(apis: Clients) -> None:
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
    with pytest.raises(sqs.exceptions.ResourceNotFoundException):
        sqs.start_message_move_task(SourceArn=f"{letters}-gone")
    with pytest.raises(sqs.exceptions.ResourceNotFoundException):
        sqs.start_message_move_task(SourceArn=letters, DestinationArn=f"{letters}-gone")
    with pytest.raises(sqs.exceptions.ResourceNotFoundException):
        sqs.cancel_message_move_task(TaskHandle="none")
    assert queues.tasks() == []
