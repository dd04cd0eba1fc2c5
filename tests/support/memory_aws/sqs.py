"""SQS in memory: `MemoryQueue` is the client of a queue with the behaviour that AWS documents.

Two queues are simpler: `RecordingQueue` records what is sent, `ClockedQueue` has visibility timeouts.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from core.ids import new_id
from core.messages import RequestMessage
from localcloud.sqs.fair_order import StoredMessage
from localcloud.sqs.queues import MessageQueue, NotInFlightError, StaleReceiptError
from services.sqs import BATCH, OutgoingMessage, Queue, QueueCounts, ReceivedMessage
from tests.support.memory_aws.calls import Call, Leave, leave_none, run_effect


class RecordingQueue(Queue):
    """A queue that records the bodies of the messages; `fails` may raise, or return the messages that it refuses."""

    def __init__(
        self, fails: Callable[[Sequence[OutgoingMessage]], list[OutgoingMessage]] = lambda messages: []
    ) -> None:
        super().__init__(cast(Any, None), "memory")
        self.fails = fails
        self.bodies: list[str] = []
        self.groups: Counter[str | None] = Counter()

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        refused = self.fails(messages)
        self.groups.update(message.group for message in messages)
        self.bodies += [message.body for message in messages if message not in refused]
        return refused

    @property
    def image_ids(self) -> set[str]:
        return {RequestMessage.from_json(body).image_id for body in self.bodies}


@dataclass
class ClockedMessage:
    """A message of a `ClockedQueue`."""

    body: str
    receives: int = 0
    visible_at: float = 0.0
    receipt: str = ""


@dataclass(frozen=True)
class ClockedQueue(Queue):
    """A standard queue; `clock` is in seconds.

    Attributes:
        batch: most messages that a receive brings: SQS may bring fewer than there are.
        sent: how many messages were sent in all.
    """

    client: Any = None
    url: str = "memory"
    clock: Callable[[], float] = lambda: 0.0
    visibility_seconds: float = 30.0
    messages: list[ClockedMessage] = field(default_factory=list)
    sent: list[OutgoingMessage] = field(default_factory=list)
    batch: list[int] = field(default_factory=lambda: [BATCH])
    waits: list[int] = field(default_factory=list)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Take messages."""
        self.sent.extend(messages)
        self.messages.extend(ClockedMessage(each.body) for each in messages)
        return []

    def receive(self, most: int = BATCH, wait_seconds: int = 20) -> list[ReceivedMessage]:
        """Return messages that are visible."""
        self.waits.append(wait_seconds)
        now = self.clock()
        found = [each for each in self.messages if each.visible_at <= now][: min(most, self.batch[0])]
        for each in found:
            each.receives, each.visible_at, each.receipt = each.receives + 1, now + self.visibility_seconds, new_id()
        return [ReceivedMessage(each.receipt, each.receipt, each.body, each.receives, 0.0, 0.0) for each in found]

    def delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete messages."""
        self.messages[:] = [each for each in self.messages if each.receipt not in receipts]
        return []

    def change_visibility(self, receipts: Sequence[str], seconds: int) -> list[str]:
        """Hide messages for so long."""
        for each in self.messages:
            if each.receipt in receipts:
                each.visible_at = self.clock() + seconds
        return []

    def counts(self) -> QueueCounts:
        """Return how many there are."""
        visible = sum(each.visible_at <= self.clock() for each in self.messages)
        return QueueCounts(visible, len(self.messages) - visible, 0)

    def requests(self) -> list[tuple[str, int]]:
        """Return image and attempt of each request that was sent."""
        sent = [RequestMessage.from_json(each.body) for each in self.sent]
        return [(request.image_id, request.attempt) for request in sent]


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
        leave: how many entries of a batch fail for a reason of the service's.
        dead: where messages go that were received `max_receive_count` times.
        sent: how many messages were sent, by body.
    """

    fifo: bool
    clock: Callable[[], float]
    random: Random
    call: Call = run_effect
    dead: "MemoryQueue | None" = None
    max_receive_count: int = 5
    habits: Habits = field(default_factory=Habits)
    leave: Leave = leave_none
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
        return dict(self.call("send", lambda: self._batch(Entries, self._send)))

    def receive_message(self, *, MaxNumberOfMessages: int, **_: Any) -> dict[str, Any]:  # noqa: N803
        """Receive messages; a long poll does not wait."""
        return dict(self.call("receive", lambda: self._receive(MaxNumberOfMessages)))

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Delete messages."""
        return dict(self.call("delete", lambda: self._batch(Entries, self._delete)))

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Change the visibility timeouts of messages."""
        return dict(self.call("visibility", lambda: self._batch(Entries, self._change_visibility)))

    def get_queue_attributes(self, **_: Any) -> dict[str, Any]:
        """Return the approximate counts."""
        return dict(self.call("counts", self._attributes))

    def purge(self) -> None:
        """Lose every message."""
        self.messages.purge()

    def _batch(self, entries: list[dict[str, Any]], effect: Callable[[dict[str, Any]], str | None]) -> dict[str, Any]:
        """Process a batch; `effect` returns the code of an error that is the sender's fault, or None."""
        processed = len(entries) - self.leave(len(entries))
        codes = [(entry["Id"], effect(entry)) for entry in entries[:processed]]
        failed = [{"Id": name, "SenderFault": True, "Code": code} for name, code in codes if code is not None]
        left = [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in entries[processed:]]
        return {"Failed": failed + left}

    def _send(self, entry: dict[str, Any]) -> None:
        self._put(entry["MessageBody"], entry.get("MessageDeduplicationId"), entry.get("MessageGroupId"))

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
                        **({} if each.group is None else {"MessageGroupId": each.group}),
                    },
                }
                for each in found
            ]
        }

    def _add_dead_letter(self, letter: StoredMessage[str]) -> None:
        if self.dead is not None:
            self.dead._put(letter.payload, None, letter.group)

    def _delete(self, entry: dict[str, Any]) -> str | None:
        try:
            self.messages.delete(entry["ReceiptHandle"])
        except StaleReceiptError:
            return "ReceiptHandleIsInvalid"
        return None

    def _change_visibility(self, entry: dict[str, Any]) -> str | None:
        try:
            self.messages.change_visibility(entry["ReceiptHandle"], entry["VisibilityTimeout"])
        except (StaleReceiptError, NotInFlightError):
            return "InvalidParameterValue"
        return None

    def _attributes(self) -> dict[str, Any]:
        counts = self.messages.counts(self.random.uniform(0, self.habits.stale_seconds))
        return {
            "Attributes": {
                "ApproximateNumberOfMessages": str(counts.visible),
                "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
                "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            }
        }
