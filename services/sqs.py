"""SQS: one queue, standard or FIFO, in batch calls of up to ten messages.

Limits from https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from services.backoff import pause_seconds
from services.side_by_side import side_by_side

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

BATCH = 10
"""Maximum entries of one batch call."""

MAX_BATCH_BYTES = 1_048_576
"""Maximum bytes of all messages of one SendMessageBatch (1 MiB); SQS rejects a larger batch as a whole.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
"""

LONG_POLL_SECONDS = 20
"""Longest wait of a receive."""

MAX_IN_FLIGHT = 120_000
"""Maximum messages of one queue in flight. At this number SQS delivers no message until some are deleted.

A standard queue then answers a short poll with the error `OverLimit`. It answers a long poll with no message and no
error, and a FIFO queue does so for every poll:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html and
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-fifo.html
"""

MAX_VISIBILITY_SECONDS = 43_200
"""Longest time from a receive until the message is visible again, however often it was extended (12 hours).

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

MAX_DELAY_SECONDS = 900
"""Longest delay of one message; a FIFO queue knows none.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-timers.html
"""

BATCH_ATTEMPTS = 4
"""Attempts in total for the entries that fail in a batch call."""


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to send; the sender finds rejected messages by `id`, which is not sent.

    Attributes:
        group: its message group, 1 to 128 letters, digits or punctuation marks, for the standard queue only: while
            one group keeps the consumers busy, SQS delivers the messages of other groups first.
        delay_seconds: time until it can be received, 0 to `MAX_DELAY_SECONDS`, for the standard queue only.
    """

    id: str
    body: str
    group: str | None = None
    delay_seconds: int = 0


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A received message, in flight until its visibility timeout ends.

    Attributes:
        receive_count: number of receives, including this one.
        sent_at: when SQS accepted it, in epoch seconds of SQS's clock.
        first_received_at: when it was first received, in epoch seconds of SQS's clock.
        group: its message group; None if it was sent without one, or comes from a FIFO queue.
    """

    id: str
    receipt: str
    body: str
    receive_count: int
    sent_at: float
    first_received_at: float
    group: str | None = None


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """SQS's approximate numbers of messages, which may lag by a minute on AWS; or of images that these request."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def waiting(self) -> int:
        """Those that are not in flight."""
        return self.visible + self.delayed

    @property
    def total(self) -> int:
        """All that are not deleted: they wait, or are in flight."""
        return self.visible + self.in_flight + self.delayed


@dataclass(frozen=True)
class Queue:
    """One queue. botocore's errors pass through once its retries are spent.

    Attributes:
        max_message_bytes: the queue's MaximumMessageSize; it does not accept larger messages.
        pool: makes the calls for the batches of one operation side by side; None: one after another.
    """

    client: "SQSClient"
    url: str
    sleep: Callable[[float], None] = time.sleep
    max_message_bytes: int = MAX_BATCH_BYTES
    pool: Executor | None = None

    @classmethod
    def named(
        cls,
        client: "SQSClient",
        name: str,
        max_message_bytes: int = MAX_BATCH_BYTES,
        pool: Executor | None = None,
    ) -> "Queue":
        """Return the queue called `name` in the client's account and region."""
        url = client.get_queue_url(QueueName=name)["QueueUrl"]
        return cls(client, url, max_message_bytes=max_message_bytes, pool=pool)

    @property
    def fifo(self) -> bool:
        """Whether it is a FIFO queue; SQS requires the suffix."""
        return self.url.endswith(".fifo")

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Send `messages`; return those that SQS did not accept after `BATCH_ATTEMPTS` attempts."""
        failed = self._in_batches(self.client.send_message_batch, [self._entry(message) for message in messages])
        return [messages[index] for index in failed]

    def _entry(self, message: OutgoingMessage) -> dict[str, Any]:
        entry: dict[str, Any] = {"MessageBody": message.body}
        if not self.fifo:
            if message.delay_seconds:
                entry["DelaySeconds"] = message.delay_seconds
            # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues.html
            return entry if message.group is None else entry | {"MessageGroupId": message.group}
        # Both are unique. A message in flight blocks the rest of its group, and order does not matter here. A
        # repeated deduplication id would drop a legitimate repeat: a retry, its response, a request sent again.
        unique = uuid4().hex
        return entry | {"MessageGroupId": unique, "MessageDeduplicationId": unique}

    def receive(
        self,
        max_messages: int = BATCH,
        wait_seconds: int = LONG_POLL_SECONDS,
        visibility_seconds: int | None = None,
    ) -> list[ReceivedMessage]:
        """Return up to `max_messages` (1 to 10), waiting up to `wait_seconds` (0 to 20) for the first.

        They are hidden for `visibility_seconds`; None: for the queue's visibility timeout.
        """
        hidden: dict[str, Any] = {} if visibility_seconds is None else {"VisibilityTimeout": visibility_seconds}
        reply = self.client.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=max_messages,
            WaitTimeSeconds=wait_seconds,
            MessageSystemAttributeNames=[
                "ApproximateReceiveCount",
                "SentTimestamp",
                "ApproximateFirstReceiveTimestamp",
                "MessageGroupId",
            ],
            **hidden,
        )
        return [_received(message, has_group=not self.fifo) for message in reply.get("Messages", [])]

    def delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete the messages of `receipts`; return those that could not be deleted."""
        entries = [{"ReceiptHandle": receipt} for receipt in receipts]
        return [receipts[index] for index in self._in_batches(self.client.delete_message_batch, entries)]

    def change_visibility(self, receipts: Sequence[str], seconds: int) -> list[str]:
        """Set the visibility timeout to `seconds` from now (0 returns the messages); return receipts that fail."""
        entries = [{"ReceiptHandle": receipt, "VisibilityTimeout": seconds} for receipt in receipts]
        return [receipts[index] for index in self._in_batches(self.client.change_message_visibility_batch, entries)]

    def counts(self) -> QueueCounts:
        """Return the numbers of messages in the queue, by state."""
        attributes = self.client.get_queue_attributes(
            QueueUrl=self.url,
            AttributeNames=[
                "ApproximateNumberOfMessages",
                "ApproximateNumberOfMessagesNotVisible",
                "ApproximateNumberOfMessagesDelayed",
            ],
        )["Attributes"]
        return QueueCounts(
            visible=int(attributes["ApproximateNumberOfMessages"]),
            in_flight=int(attributes["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(attributes["ApproximateNumberOfMessagesDelayed"]),
        )

    def _in_batches(self, call: Callable[..., Any], entries: Sequence[dict[str, Any]]) -> list[int]:
        """Make the batch call for each batch of entries; return the indexes of the entries that failed."""

        def complete(batch: list[dict[str, Any]]) -> list[int]:
            failed, remaining = list[int](), batch
            for attempt in range(BATCH_ATTEMPTS):
                if attempt:
                    self.sleep(pause_seconds(attempt, first=0.2, maximum=2.0))
                failures = call(QueueUrl=self.url, Entries=remaining).get("Failed", [])
                # SenderFault: a retry cannot help, for example with a stale receipt.
                failed += [int(failure["Id"]) for failure in failures if failure["SenderFault"]]
                again = {failure["Id"] for failure in failures if not failure["SenderFault"]}
                remaining = [entry for entry in remaining if entry["Id"] in again]
                if not remaining:
                    break
            return failed + [int(entry["Id"]) for entry in remaining]

        return [index for failed in side_by_side(self.pool, complete, _batches(entries)) for index in failed]


def _batches(entries: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield `entries`, each with its index as `Id`, in batches of at most `BATCH` entries and `MAX_BATCH_BYTES`.

    A message that is larger than that is alone.
    """
    batch, total = list[dict[str, Any]](), 0
    for index, entry in enumerate(entries):
        size = len(entry.get("MessageBody", "").encode())
        if batch and (len(batch) == BATCH or total + size > MAX_BATCH_BYTES):
            yield batch
            batch, total = [], 0
        batch.append({"Id": str(index), **entry})
        total += size
    if batch:
        yield batch


def _received(message: Any, *, has_group: bool) -> ReceivedMessage:
    attributes = message["Attributes"]
    return ReceivedMessage(
        id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        body=message["Body"],
        receive_count=int(attributes["ApproximateReceiveCount"]),
        sent_at=int(attributes["SentTimestamp"]) / 1000,
        first_received_at=int(attributes["ApproximateFirstReceiveTimestamp"]) / 1000,
        group=attributes.get("MessageGroupId") if has_group else None,
    )
