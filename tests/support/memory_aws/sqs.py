"""SQS in memory: the client of one queue, as AWS documents it, and the queue as the product uses it."""

import itertools
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, cast

from core.messages import RequestMessage
from localcloud.eventual_consistency import ValueHistory
from services.sqs import BATCH, MAX_IN_FLIGHT, OutgoingMessage, Queue, QueueCounts, ReceivedMessage
from tests.support.memory_aws.calls import Call, Leave, leave_none, refusal, run_effect

VISIBILITY_SECONDS: Final = 30
MAX_LATE_SECONDS: Final = 120
_COUNTS_EVERY_SECONDS: Final = 0.1
_FORBIDDEN: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html"""


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


@dataclass(eq=False)
class StoredMessage:
    """A message in its queue; a new one is as if given back at `visible_at`."""

    id: str
    body: str
    sent_at: float
    visible_at: float
    receive_count: int = 0
    first_received_at: float = 0.0
    group: str | None = None
    was_received: bool = False

    @property
    def receipt(self) -> str:
        """The receipt of its last receive."""
        return f"{self.id}#{self.receive_count}"


@dataclass(eq=False)
class MemorySQS:
    """The client of one queue, for several threads; `queue()` returns the queue as the product uses it.

    Attributes:
        clock: seconds.
        wait: lets the time of a long poll that finds nothing pass.
        dead: where messages go that were received `max_receive_count` times; None: nowhere.
        call: makes every call; its operations are send, receive, delete, visibility and counts.
        leave: how many entries of a batch fail for a reason of the service's.
        sent: how many messages were sent, by body.
        shuffle: brings the visible messages in an order; None: that which is visible longest is received first.
        errors: raised by the next calls of an operation, first one first.
        refuse: parts of the bodies or receipts that batch calls refuse, as the sender's fault.
        arriving: sent while a receive waits, one for each receive.
        others_visible, others_in_flight, others_delayed: messages that are only counted.
        calls: operations and arguments of the calls that were made.
    """

    clock: Callable[[], float] = lambda: 0.0
    fifo: bool = False
    random: Random = field(default_factory=lambda: Random(1))
    call: Call = run_effect
    dead: "MemorySQS | None" = None
    max_receive_count: int = 100
    wait: Callable[[float], None] = lambda _seconds: None
    habits: Habits = field(default_factory=Habits)
    leave: Leave = leave_none
    messages: list[StoredMessage] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    shuffle: Random | None = None
    errors: dict[str, list[Exception]] = field(default_factory=lambda: defaultdict(list))
    refuse: set[str] = field(default_factory=set)
    arriving: list[str] = field(default_factory=list)
    others_visible: int = 0
    others_in_flight: int = 0
    others_delayed: int = 0
    calls: list[tuple[str, Any]] = field(default_factory=list)
    _deduplicated: set[str] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        """Begin the history of the counts, which is kept as long as they may be old."""
        self._past = ValueHistory[QueueCounts](resolution_seconds=_COUNTS_EVERY_SECONDS, clock=self.clock)

    def queue(self, sleep: Callable[[float], None] | None = None) -> Queue:
        """Return the queue over this client; it sleeps as a long poll waits, unless by `sleep`."""
        return Queue(cast(Any, self), f"http://sqs/queue{'.fifo' * self.fifo}", sleep or self.wait)

    # What it holds

    @property
    def bodies(self) -> list[str]:
        """The bodies of its messages."""
        return [message.body for message in self.messages]

    @property
    def dead_bodies(self) -> list[str]:
        """The bodies of its dead letters."""
        return [] if self.dead is None else self.dead.bodies

    @property
    def visible(self) -> list[StoredMessage]:
        """Its visible messages, that which is visible longest first."""
        now = self.clock()
        visible = [message for message in list(self.messages) if message.visible_at <= now]
        return sorted(visible, key=lambda message: message.visible_at)

    def counts(self) -> QueueCounts:
        """Return the exact counts."""
        hidden = [message for message in list(self.messages) if message.visible_at > self.clock()]
        in_flight = sum(message.was_received for message in hidden)
        return QueueCounts(
            len(self.messages) - len(hidden) + self.others_visible,
            in_flight + self.others_in_flight,
            len(hidden) - in_flight + self.others_delayed,
        )

    def called(self, operation: str) -> list[Any]:
        """Return the arguments of each call of an operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    def add(
        self, body: str, receive_count: int = 0, group: str | None = None, delay_seconds: float = 0
    ) -> StoredMessage:
        """Add a message."""
        now = self.clock()
        name = f"m{next(self._numbers):06}"
        message = StoredMessage(name, body, now, now + delay_seconds, receive_count, group=group)
        self.sent[body] += 1
        self.messages.append(message)
        return message

    def purge(self) -> None:
        """Lose every message."""
        self.messages.clear()

    # The client's own methods

    def send_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803 (SQS's names)
        """Send messages."""
        return self._batch("send", [entry["MessageBody"] for entry in Entries], Entries, self._send)

    def receive_message(self, **arguments: Any) -> dict[str, Any]:
        """Receive messages; a long poll that finds none waits, and looks once more."""

        def effect() -> dict[str, Any]:
            most, wait_seconds = arguments["MaxNumberOfMessages"], arguments["WaitTimeSeconds"]
            is_full = self.others_in_flight >= MAX_IN_FLIGHT
            if is_full and not (self.fifo or wait_seconds):
                raise refusal("OverLimit", "ReceiveMessage")
            hidden = arguments.get("VisibilityTimeout", VISIBILITY_SECONDS)
            found = [] if is_full else self._receive(most, hidden)
            if not found and wait_seconds:
                self.wait(wait_seconds)
                if self.arriving and not is_full:
                    self.add(self.arriving.pop(0))
                found = [] if is_full else self._receive(most, hidden)
            return {"Messages": found} if found else {}

        return self._call("receive", arguments, effect)

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Delete messages."""
        return self._batch("delete", [entry["ReceiptHandle"] for entry in Entries], Entries, self._delete)

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        """Change the visibility timeouts of messages."""
        changes = {entry["ReceiptHandle"]: entry["VisibilityTimeout"] for entry in Entries}
        return self._batch("visibility", changes, Entries, self._change_visibility)

    def get_queue_attributes(self, **arguments: Any) -> dict[str, Any]:
        """Return the approximate counts."""

        def effect() -> dict[str, Any]:
            self._record_counts()
            counts = self.counts()
            if self.habits.stale_seconds:
                counts = self._past.value_ago(self.random.uniform(0, self.habits.stale_seconds)) or counts
            return {
                "Attributes": {
                    "ApproximateNumberOfMessages": str(counts.visible),
                    "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
                    "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
                }
            }

        return self._call("counts", arguments, effect)

    # Their effects

    def _call(self, operation: str, arguments: Any, effect: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.calls.append((operation, arguments))
        if self.errors[operation]:
            raise self.errors[operation].pop(0)
        return dict(self.call(operation, effect))

    def _batch(
        self,
        operation: str,
        arguments: Any,
        entries: list[dict[str, Any]],
        effect: Callable[[dict[str, Any]], str | None],
    ) -> dict[str, Any]:
        """Process a batch; `effect` returns the code of an error that is the sender's fault, or None."""

        def process() -> dict[str, Any]:
            with self._lock:
                processed = len(entries) - self.leave(len(entries))
                codes = [(entry["Id"], effect(entry)) for entry in entries[:processed]]
                self._record_counts()
            failed = [{"Id": name, "SenderFault": True, "Code": code} for name, code in codes if code is not None]
            left = [
                {"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in entries[processed:]
            ]
            return {"Failed": failed + left}

        return self._call(operation, arguments, process)

    def _refuses(self, text: str) -> bool:
        return bool(_FORBIDDEN.search(text)) or any(refused in text for refused in self.refuse)

    def _send(self, entry: dict[str, Any]) -> str | None:
        body, unique, delay_seconds = entry["MessageBody"], entry.get("MessageDeduplicationId"), 0
        assert (unique is not None) == self.fifo
        assert not (self.fifo and "DelaySeconds" in entry)
        if self._refuses(body):
            return "InvalidMessageContents"
        if unique in self._deduplicated:
            return None
        if unique is not None:
            self._deduplicated.add(unique)
        elif self.habits.late and self.random.random() < self.habits.late:
            delay_seconds = self.random.randint(1, MAX_LATE_SECONDS)
        self.add(body, group=entry.get("MessageGroupId"), delay_seconds=entry.get("DelaySeconds", 0) + delay_seconds)
        return None

    def _receive(self, most: int, hidden_seconds: int) -> list[dict[str, Any]]:
        if self.habits.short and self.random.random() < self.habits.short:
            most = self.random.randint(0, most - 1)
        with self._lock:
            visible = self.visible
            if self.dead is not None:
                for letter in [each for each in visible if each.receive_count >= self.max_receive_count]:
                    self.messages.remove(letter)
                    visible.remove(letter)
                    self.dead.add(letter.body, group=letter.group)
            if self.shuffle is not None:
                self.shuffle.shuffle(visible)
            found = [self._deliver(message, hidden_seconds) for message in visible[:most]]
            self._record_counts()
        return found

    def _deliver(self, message: StoredMessage, hidden_seconds: int) -> dict[str, Any]:
        now = self.clock()
        message.receive_count += 1
        message.was_received = True
        message.first_received_at = message.first_received_at or now
        is_repeated = not self.fifo and self.habits.twice and self.random.random() < self.habits.twice
        message.visible_at = now if is_repeated else now + hidden_seconds
        return {
            "MessageId": message.id,
            "ReceiptHandle": message.receipt,
            "Body": message.body,
            "Attributes": {
                "ApproximateReceiveCount": str(message.receive_count),
                "SentTimestamp": str(int(message.sent_at * 1000)),
                "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
                **({} if message.group is None else {"MessageGroupId": message.group}),
            },
        }

    def _delete(self, entry: dict[str, Any]) -> str | None:
        """Delete by the latest receipt; on a FIFO queue it is valid only while the message is in flight."""
        receipt = entry["ReceiptHandle"]
        message_id = receipt.partition("#")[0]
        message = next((each for each in self.messages if each.id == message_id), None)
        is_valid = message is not None and message.receipt == receipt
        if self.fifo and message is not None:
            is_valid = is_valid and message.visible_at > self.clock()
            if not is_valid:
                return "ReceiptHandleIsInvalid"
        if self._refuses(receipt):
            return "ReceiptHandleIsInvalid"
        if message is not None and is_valid:
            self.messages.remove(message)
        return None

    def _change_visibility(self, entry: dict[str, Any]) -> str | None:
        now, receipt = self.clock(), entry["ReceiptHandle"]
        in_flight = (each for each in self.messages if each.receipt == receipt and each.visible_at > now)
        message = next(in_flight, None)
        if message is None or self._refuses(receipt):
            return "InvalidParameterValue"
        message.visible_at = now + entry["VisibilityTimeout"]
        return None

    def _record_counts(self) -> None:
        """Remember the counts if they may be shown late: to count all messages takes longer than any other call."""
        if self.habits.stale_seconds:
            self._past.record(self.counts())


class MemoryQueue(Queue):
    """A queue over a client in memory that records what the product sends; a test may refuse messages.

    Attributes:
        fails: given the messages of a send; may raise, or return those that are refused.
        sent: the messages that were sent and not refused.
        groups: how many messages were sent or refused, by group.
        waits: the waiting time of each receive.
        max_received: most messages that a receive returns: SQS may return fewer than there are.
    """

    def __init__(
        self,
        fails: Callable[[Sequence[OutgoingMessage]], list[OutgoingMessage]] = lambda messages: [],
        *,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Make an empty standard queue."""
        self.memory = MemorySQS(clock)
        super().__init__(cast(Any, self.memory), "memory", self.memory.wait)
        self.fails, self.max_received = fails, BATCH
        self.sent, self.waits = list[OutgoingMessage](), list[int]()
        self.groups: Counter[str | None] = Counter()

    @property
    def messages(self) -> list[StoredMessage]:
        """What the queue holds."""
        return self.memory.messages

    @property
    def bodies(self) -> list[str]:
        """The bodies of the messages that were sent."""
        return [message.body for message in self.sent]

    @property
    def image_ids(self) -> set[str]:
        """The images of the requests that were sent."""
        return {image_id for image_id, _ in self.requests()}

    def requests(self) -> list[tuple[str, int]]:
        """Return image and attempt of each request that was sent."""
        sent = [RequestMessage.from_json(body) for body in self.bodies]
        return [(ref.image_id, request.attempt) for request in sent for ref in request.refs]

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Send messages."""
        refused = self.fails(messages)
        self.groups.update(message.group for message in messages)
        refused = [*refused, *super().send([message for message in messages if message not in refused])]
        self.sent += [message for message in messages if message not in refused]
        return refused

    def receive(
        self, max_messages: int = BATCH, wait_seconds: int = 20, visibility_seconds: int | None = None
    ) -> list[ReceivedMessage]:
        """Receive messages."""
        self.waits.append(wait_seconds)
        return super().receive(min(max_messages, self.max_received), wait_seconds, visibility_seconds)
