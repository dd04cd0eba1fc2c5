"""SQS's client for one queue in memory: the local cloud's queue, behaving at its worst where a test wants it.

What AWS documents: a receive may return fewer messages than there are, a standard queue delivers some twice and some
late, counts are old (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/standard-queues.html).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from localcloud.sqs.queues import MessageQueue, NotInFlightError, StaleReceiptError, StoredMessage
from services.sqs import Queue

Call = Callable[[str, Callable[[], Any]], Any]


@dataclass
class Habits:
    """How a queue behaves, within what AWS documents.

    Attributes:
        short: share of receives that return fewer messages than there are.
        twice: share of messages that a standard queue delivers again at once.
        late: share of messages that a standard queue delivers up to `MAX_LATE_SECONDS` late.
        stale_seconds: how old counts may be.
    """

    short: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    stale_seconds: float = 0.0


MAX_LATE_SECONDS = 120
VISIBILITY_SECONDS = 30


@dataclass
class MemoryQueue:
    """The client of one queue; `queue()` returns the queue as the product uses it.

    Attributes:
        clock: seconds.
        call: makes every call.
        dead: where messages go that were received `max_receive_count` times.
        sent: how many messages were sent, by body.
    """

    fifo: bool
    clock: Callable[[], float]
    random: Random
    call: Call = lambda _operation, effect: effect()
    dead: "MemoryQueue | None" = None
    max_receive_count: int = 5
    habits: Habits = field(default_factory=Habits)
    sent: Counter[str] = field(default_factory=Counter)
    _numbers: int = 0

    def __post_init__(self) -> None:
        """Make the queue itself."""
        self.messages = MessageQueue[str](fifo=self.fifo, clock=self.clock, wall=self.clock)
        self._sent_at: dict[str, float] = {}

    def queue(self, sleep: Callable[[float], None]) -> Queue:
        """Return the queue over this client."""
        return Queue(cast(Any, self), "memory.fifo" if self.fifo else "memory", sleep)

    def send_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Send messages."""
        return dict(self.call("send", lambda: self._send(Entries)))

    def receive_message(self, *, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Receive messages; a long poll does not wait."""
        return dict(self.call("receive", lambda: self._receive(MaxNumberOfMessages)))

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Delete messages."""
        return dict(self.call("delete", lambda: self._delete(Entries)))

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Change the visibility timeouts of messages."""
        return dict(self.call("visibility", lambda: self._change_visibility(Entries)))

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        """Return the approximate counts."""
        return dict(self.call("counts", self._attributes))

    def purge(self) -> None:
        """Lose every message."""
        self.messages.purge()

    def _send(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        for entry in entries:
            self._put(entry["MessageBody"], entry.get("MessageDeduplicationId"), entry.get("MessageGroupId"))
        return {}

    def _put(self, body: str, deduplication_id: str | None, group: str | None, receive_count: int = 0) -> None:
        self._numbers += 1
        self.sent[body] += 1
        is_late = not self.fifo and self.random.random() < self.habits.late
        delay = self.random.randint(1, MAX_LATE_SECONDS) if is_late else 0
        message_id = f"m{self._numbers:06}"
        self._sent_at[message_id] = self.clock()
        self.messages.send(
            message_id,
            body,
            delay_seconds=delay,
            group=group,
            deduplication_key=deduplication_id,
            receive_count=receive_count,
        )

    def _receive(self, most: int) -> dict[str, Any]:
        if self.habits.short and self.random.random() < self.habits.short:
            most = self.random.randint(0, most - 1)
        if not most:
            return {}
        on_dead_letter = None if self.dead is None else self._add_dead_letter
        limit = None if self.dead is None else self.max_receive_count
        found = self.messages.receive(
            most, VISIBILITY_SECONDS, max_receive_count=limit, on_dead_letter=on_dead_letter
        )
        for each in found:
            if not self.fifo and self.random.random() < self.habits.twice:
                self.messages.change_visibility(each.receipt_handle, 0)
        return {
            "Messages": [
                {
                    "MessageId": each.message_id,
                    "ReceiptHandle": each.receipt_handle,
                    "Body": each.payload,
                    "Attributes": {
                        "ApproximateReceiveCount": str(each.receive_count),
                        "SentTimestamp": str(int(self._sent_at[each.message_id] * 1000)),
                        "ApproximateFirstReceiveTimestamp": str(int(each.first_received_at * 1000)),
                    },
                }
                for each in found
            ]
        }

    def _add_dead_letter(self, letter: StoredMessage[str]) -> None:
        if self.dead is not None:
            self.dead._put(letter.payload, None, letter.group)

    def _delete(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        failed = []
        for entry in entries:
            try:
                self.messages.delete(entry["ReceiptHandle"])
            except StaleReceiptError:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "ReceiptHandleIsInvalid"})
        return {"Failed": failed}

    def _change_visibility(self, entries: list[dict[str, Any]]) -> dict[str, Any]:
        failed = []
        for entry in entries:
            try:
                self.messages.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"])
            except (StaleReceiptError, NotInFlightError):
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "InvalidParameterValue"})
        return {"Failed": failed}

    def _attributes(self) -> dict[str, Any]:
        counts = self.messages.counts(self.random.uniform(0, self.habits.stale_seconds))
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(counts.visible),
                "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
                "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            }
        }
