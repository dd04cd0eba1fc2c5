"""Queues with SQS's rules. Messages are rows of the store, so memory does not grow with a backlog.

Memory has what a restart may forget: which tenants are noisy, and the counts, which the next call counts again. A
FIFO queue delivers the messages of a group in order, and none while an earlier one of the group is in flight. On a
standard queue a group is a tenant of a fair queue (`fair_order`).
"""

import json
import math
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from localcloud.clock import wall_seconds
from localcloud.dispatch import WouldWaitError
from localcloud.eventual_consistency import ValueHistory
from localcloud.options import Switches
from localcloud.sqs import rows as sql
from localcloud.sqs.fair_order import FairOrder
from localcloud.sqs.parameters import Answer, SqsError, invalid
from localcloud.sqs.rows import StoredMessage
from localcloud.store import Store, checksum

DEDUPLICATION_SECONDS: Final = 300.0
"""Seconds in which a second message with the same deduplication key is a duplicate."""

COUNTS_EVERY_SECONDS: Final = 0.1
"""Resolution in seconds of the history of counts."""


class QueueName(NamedTuple):
    """Names a queue."""

    account: str
    region: str
    name: str

    @property
    def is_fifo(self) -> bool:
        """Whether the queue is a FIFO queue."""
        return self.name.endswith(".fifo")

    @property
    def arn(self) -> str:
        """The ARN of the queue."""
        return f"arn:aws:sqs:{self.region}:{self.account}:{self.name}"


def queue_of_arn(arn: str) -> QueueName:
    """Return the queue that an ARN names; the names are empty if it names none."""
    parts = arn.split(":")
    return QueueName(parts[4], parts[3], parts[5]) if len(parts) == 6 and parts[2] == "sqs" else QueueName("", "", "")


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to send; of messages with the same `key` within five minutes only the first is sent."""

    body: str
    group: str | None = None
    delay_seconds: float = 0.0
    key: str | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class SentMessage(NamedTuple):
    """The identity of a sent message; for a duplicate, that of the first message."""

    id: str
    sequence: int


class MessageCounts(NamedTuple):
    """Numbers of messages by state: visible, in flight (not visible) and delayed."""

    visible: int
    in_flight: int
    delayed: int


class Queues:
    """All queues of a store.

    Attributes:
        clock: times delays and timeouts; seconds since the epoch that are never set back.
        wall: the time that clients see, in seconds since the epoch.
    """

    def __init__(
        self, store: Store, switches: Callable[[], Switches], clock: Callable[[], float] | None = None
    ) -> None:
        began_at = wall_seconds() - time.monotonic()
        self.store, self.switches, self.wall = store, switches, clock or wall_seconds
        self.clock = clock or (lambda: began_at + time.monotonic())
        self.by_name = dict[QueueName, Queue]()
        for *name, number, value in store.read(sql.QUEUES):
            self.by_name[QueueName(*name)] = Queue(self, QueueName(*name), number, json.loads(value))

    def named(self, name: QueueName) -> "Queue":
        """Return a queue; raises `SqsError` if it does not exist."""
        if (queue := self.by_name.get(name)) is None:
            code = "AWS.SimpleQueueService.NonExistentQueue"
            raise SqsError("QueueDoesNotExist", "The specified queue does not exist.", code)
        return queue

    def create(self, name: QueueName, attributes: dict[str, str]) -> "Queue":
        """Create a queue."""
        with self.store.change():
            number = self.store.resource_number("queue", *name)
            self.store.write(sql.SAVE, json.dumps(attributes), number)
        self.by_name[name] = Queue(self, name, number, attributes)
        return self.by_name[name]

    def delete(self, queue: "Queue") -> None:
        """Delete a queue with its messages, and end its long polls."""
        with self.store.change():
            queue.purge()
            self.store.drop_resource(queue.number)
        del self.by_name[queue.name]
        queue.close()

    def close(self) -> None:
        """End every long poll; later receives do not wait."""
        with self.store.lock:
            for queue in self.by_name.values():
                queue.close()


class Queue:
    """A queue. The caller holds the store's lock, which only `receive` releases, while it waits.

    Attributes:
        attributes: those that were set, and checked.
        letters: its dead-letter queue, if it has one, where messages go after `max_receives` receives.
    """

    def __init__(self, queues: Queues, name: QueueName, number: int, attributes: dict[str, str]) -> None:
        self._queues, self._store, self.name, self.number = queues, queues.store, name, number
        self.is_fifo, self._places = name.is_fifo, (0, 1) if name.is_fifo else (2,)
        self.wake, self._wakes_at = threading.Condition(self._store.lock), math.inf
        self.is_closed = False
        self._past = ValueHistory[MessageCounts](resolution_seconds=COUNTS_EVERY_SECONDS, clock=queues.clock)
        self._order = FairOrder(self._store, number, queues.clock())
        self._total = self._in_flight = self._delayed = 0
        self._flights = Counter[str | None]()
        self._counted_at: float | None = None
        self._describe(attributes)

    def _describe(self, attributes: dict[str, str]) -> None:
        self.attributes = attributes
        policy = json.loads(attributes.get("RedrivePolicy") or "{}")
        self.letters = queue_of_arn(policy.get("deadLetterTargetArn", ""))
        self.max_receives = policy.get("maxReceiveCount", 0)
        self._retention_seconds = int(attributes.get("MessageRetentionPeriod", 345_600))

    def update(self, attributes: dict[str, str]) -> None:
        """Set attributes, which were checked; the others stay."""
        self._store.write(sql.SAVE, json.dumps(self.attributes | attributes), self.number)
        self._describe(self.attributes | attributes)

    def purge(self) -> None:
        """Delete every message, in flight or not; all calls wait until it is done."""
        with self._store.change():
            for statement in sql.PURGE:
                self._store.write(statement, self.number)
        self._order, self._counted_at = FairOrder(self._store, self.number, self._queues.clock()), None
        self.counts()

    def time(self) -> float:
        """Return the time; from then on the counts are those of this time."""
        now = self._queues.clock()
        if self._counted_at is None:
            self._count_all(now)
        elif now >= self._wakes_at:
            ended, wakes_at = self._read_places(sql.HIDDEN, self._counted_at, now), self._next_due(now)
            self._delayed -= sum(not receives for _, receives, _ in ended)
            self._end_flights([(group, hidden) for group, receives, hidden in ended if receives], now)
            self._wakes_at = wakes_at
        self._counted_at = now
        return now

    def _read_places(self, statement: str, *values: float) -> list[Any]:
        return [row for place in self._places for row in self._store.read(statement, self.number, place, *values)]

    def _count_all(self, now: float) -> None:
        """Count the messages; if the clock was set back, hide none for longer than it was to be hidden."""
        self._store.write(sql.SHORTEN_DUPLICATES, self.number, now + DEDUPLICATION_SECONDS)
        for place in self._places:
            self._store.write(sql.SHORTEN, self.number, place, now)
        hidden = self._read_places(sql.HIDDEN, now, math.inf)
        self._total, self._wakes_at = sum(each for (each,) in self._read_places(sql.TOTAL)), self._next_due(now)
        self._flights = Counter(group for group, receives, _ in hidden if receives)
        self._in_flight = self._flights.total()
        self._delayed = len(hidden) - self._in_flight

    def _next_due(self, now: float) -> float:
        return min((due for (due,) in self._read_places(sql.NEXT_DUE, now)), default=math.inf)

    def _begin_flights(self, messages: Sequence[StoredMessage], due: float) -> None:
        self._in_flight += len(messages)
        for message in messages:
            self._flights[message.group] += 1
        self._hides_until(due)

    def _end_flights(self, flights: Sequence[tuple[str | None, float]], now: float) -> None:
        """Count messages as no longer in flight; of each its group, and for how many seconds it was."""
        self._in_flight -= len(flights)
        seconds_of = Counter[str | None]()
        for group, seconds in flights:
            seconds_of[group] += seconds  # type: ignore[assignment]
            self._flights[group] -= 1
        for group, seconds in seconds_of.items():
            if not self._flights[group]:
                del self._flights[group]
            if not self.is_fifo:
                self._order.record_flights(group, seconds, now)

    def _hides_until(self, due: float) -> None:
        if due < self._wakes_at:  # waiting receives must wait less
            self._wakes_at = due
            self.wake.notify_all()

    @contextmanager
    def change(self, other: "Queue | None" = None) -> Iterator[None]:
        """Make the changes of the block to this queue, and to another one, as one."""
        queues = (self,) if other is None else (self, other)
        try:
            with self._store.change():
                yield
        except BaseException:
            for queue in queues:
                queue._counted_at = None
            raise
        for queue in queues:
            if queue._counted_at is not None:
                queue._past.record(queue._count())

    def send(self, messages: Sequence[OutgoingMessage]) -> list[SentMessage]:
        """Append messages, which become visible together; a duplicate has no effect."""
        now = self.time()
        with self.change():
            if self.is_fifo:
                self._store.write(sql.EXPIRE, self.number, now)
            sent = [self._send(message, now) for message in messages]
        self.wake.notify(len(messages))
        return sent

    def _send(self, message: OutgoingMessage, now: float) -> SentMessage:
        if message.key is not None:
            for first in self._store.read(sql.DUPLICATE, self.number, message.key, now):
                return SentMessage(*first)
        sent = SentMessage(message.id, self._insert(message, now, message.delay_seconds, self._queues.wall()))
        if message.key is not None:
            self._store.write(sql.ADD_DUPLICATE, self.number, message.key, now + DEDUPLICATION_SECONDS, *sent)
        elif message.group is not None:
            self._order.record_sent(message.group, now)
        return sent

    def _insert(self, message: OutgoingMessage | StoredMessage, now: float, delay: float, sent: float) -> int:
        """Insert a message, or a dead letter of another queue; return its sequence number."""
        place, content = 2, (message.id, message.body)
        if self.is_fifo:
            place = 0 if self._store.read(sql.OF_GROUP, self.number, message.group, 1) else 1
        receives, first = (
            (0, None) if isinstance(message, OutgoingMessage) else (message.receives, message.first_received)
        )
        row = (self.number, place, now + delay, delay, receives, message.group, *content, sent, first)
        sequence = self._store.write(sql.INSERT, *row, checksum(*content)).lastrowid or 0
        self._total += 1
        if delay > 0:
            self._delayed += 1
            self._hides_until(now + delay)
        return sequence

    def receive(
        self, limit: int, seconds: float, wait_seconds: float = 0.0, *, may_wait: bool = True
    ) -> list[StoredMessage]:
        """Receive visible messages and hide them for so many seconds; wait up to `wait_seconds` for the first.

        Too old messages are dropped, and those received too often go to the dead-letter queue instead, where in a
        FIFO queue their retention period begins anew.

        Raises:
            WouldWaitError: no message is visible, and the call must not wait.
        """
        deadline = self._queues.clock() + wait_seconds
        while True:
            now = self.time()
            room = min(limit, self._queues.switches().max_in_flight - self._in_flight)
            if found := self._next(room, now) if room > 0 else []:
                if deliveries := self._deliver(found, now, seconds):
                    return deliveries
            elif self.is_closed or now >= deadline:
                return []
            if not may_wait:
                raise WouldWaitError
            # After a round that only dropped messages others make their calls: there may be many such rounds.
            self.wake.wait(0 if found else max(min(deadline, self._wakes_at) - now, 0.001))

    def _next(self, limit: int, now: float) -> list[StoredMessage]:
        if not self.is_fifo:
            return self._order.next(limit, now, self._flights)
        found = list[StoredMessage]()
        for (group,) in self._store.rows(sql.HEADS, self.number, now):
            if not self._flights[group]:
                for row in self._store.read(sql.OF_GROUP, self.number, group, limit - len(found)):
                    if (message := StoredMessage._make(row)).due > now:
                        break
                    found.append(message)
            if len(found) == limit:
                break
        return found

    def _deliver(self, found: list[StoredMessage], now: float, seconds: float) -> list[StoredMessage]:
        wall, token, letters = self._queues.wall(), secrets.token_hex(8), self._queues.by_name.get(self.letters)
        gone, deliveries = list[StoredMessage](), list[StoredMessage]()
        with self.change(letters):
            for message in found:
                if checksum(message.id, message.body) != message.checksum:
                    raise self._store.damaged(f"message {message.id}")
                if message.sent + self._retention_seconds <= wall:
                    gone.append(message)
                elif letters is not None and message.receives >= self.max_receives:
                    letters._insert(message, letters.time(), 0, wall if self.is_fifo else message.sent)
                    letters.wake.notify()
                    gone.append(message)
                else:
                    receives, first = message.receives + 1, message.first_received or wall
                    deliveries.append(message._replace(receives=receives, first_received=first, receipt=token))
            if gone:
                self._remove(gone)
            if deliveries:
                numbers = json.dumps([message.sequence for message in deliveries])
                self._store.write(sql.DELIVER, now + seconds, seconds, wall, token, numbers)
                if seconds:
                    self._begin_flights(deliveries, now + seconds)
        self._order.quieten({message.group for message in found}, now)
        return deliveries

    def _remove(self, messages: Sequence[StoredMessage]) -> None:
        """Remove messages that are not hidden."""
        self._store.write(sql.DELETE, json.dumps([message.sequence for message in messages]))
        self._total -= len(messages)
        for group in {message.group for message in messages} if self.is_fifo else ():
            self._store.write(sql.SET_HEAD, self.number, group)
            self.wake.notify()

    def _of_handles(self, handles: Sequence[str]) -> list[StoredMessage | None]:
        """Return the messages of receipt handles, each of the latest delivery of its message or an earlier one."""
        sequences = [int(handle.partition("-")[0]) for handle in handles]
        found = map(StoredMessage._make, self._store.read(sql.LISTED, json.dumps(sequences), self.number))
        messages = {message.sequence: message for message in found}
        return list(map(messages.get, sequences))

    def delete(self, handles: Sequence[str]) -> list[Answer | SqsError]:
        """Delete the messages of the latest receipt handles; return the error of each handle.

        A stale or repeated handle has no effect. On a FIFO queue a handle expires with its visibility timeout
        (https://repost.aws/knowledge-center/sqs-receipt-handle-error).
        """
        now, results, gone = self.time(), list[Answer | SqsError](), dict[int, StoredMessage]()
        for handle, message in zip(handles, self._of_handles(handles), strict=True):
            error = None
            if message is not None and message.handle == handle and not (self.is_fifo and message.due <= now):
                gone[message.sequence] = message
            elif message is not None and self.is_fifo:
                error = invalid("ReceiptHandle", handle, "The receipt handle has expired.")
            results.append(error or {})
        if gone:
            if self._in_flight >= self._queues.switches().max_in_flight:
                self.wake.notify_all()  # receives wait for room
            with self.change():
                flights = [message for message in gone.values() if message.due > now]
                self._end_flights([(each.group, now - each.due + each.hidden) for each in flights], now)
                self._remove([*gone.values()])
            self._order.quieten({message.group for message in gone.values() if message.due <= now}, now)
        return results

    def change_visibility(self, changes: Sequence[tuple[str, int]]) -> list[Answer | SqsError]:
        """Let messages in flight, each of a receipt handle, be visible in so many seconds; return the errors."""
        now, results, changed = self.time(), list[Answer | SqsError](), dict[int, tuple[StoredMessage, int]]()
        messages = self._of_handles([handle for handle, _ in changes])
        for (handle, seconds), message in zip(changes, messages, strict=True):
            result: Answer | SqsError = {}
            if message is None or message.handle != handle:
                reason = "Message does not exist or is not available for visibility timeout change."
                result = invalid("ReceiptHandle", handle, reason)
            elif message.due <= now:
                result = SqsError("MessageNotInflight", "The specified message isn't in flight.")
            else:
                changed[message.sequence] = (message, seconds)
            results.append(result)
        if changed:
            with self.change():
                self._end_flights([(each.group, now - each.due + each.hidden) for each, _ in changed.values()], now)
                for hidden in {seconds for _, seconds in changed.values()}:
                    some = [message for message, seconds in changed.values() if seconds == hidden]
                    if hidden:
                        self._begin_flights(some, now + hidden)
                    numbers = json.dumps([message.sequence for message in some])
                    self._store.write(sql.HIDE, now + hidden, hidden, numbers)
            self.wake.notify(sum(not seconds for _, seconds in changed.values()))
        return results

    def counts(self, seconds_ago: float = 0.0) -> MessageCounts:
        """Return the numbers of messages by state, now or `seconds_ago`."""
        self.time()
        self._past.record(self._count())
        return self._past.value_ago(seconds_ago) or MessageCounts(0, 0, 0) if seconds_ago else self._count()

    def _count(self) -> MessageCounts:
        return MessageCounts(self._total - self._in_flight - self._delayed, self._in_flight, self._delayed)

    def close(self) -> None:
        """End every long poll; later receives do not wait."""
        self.is_closed = True
        self.wake.notify_all()
