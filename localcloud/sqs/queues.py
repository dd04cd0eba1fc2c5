"""A queue with SQS's rules: one lock, a condition for long polls, no scan of the messages.

Memory has the messages that are delayed or were received, and a bounded number of the others (`fair_order.Backlog`).

Times are seconds of the given clocks. A FIFO queue delivers the messages of a group in order, and none while an
earlier message of the group is in flight (`fifo_order`). On a standard queue a group is a tenant of a fair queue
(`fair_order`).
"""

import base64
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, NamedTuple

from localcloud.clock import wall_seconds
from localcloud.eventual_consistency import ValueHistory
from localcloud.sqs.fair_order import FairOrder
from localcloud.sqs.fifo_order import FifoOrder
from localcloud.sqs.messages import MessageState, Payload, StoredMessage
from localcloud.sqs.queue_record import (
    DEDUPLICATION_SECONDS,
    QueueRecord,
    RecordChange,
    RestoredMessage,
    record_nothing,
)
from localcloud.sqs.timers import MessageTimers
from localcloud.temporary import TemporaryStorageError

COUNTS_EVERY_SECONDS = 0.1
"""Resolution in seconds of the history of counts."""


class MalformedReceiptError(ValueError):
    """Raised when this queue did not issue a receipt handle."""


class StaleReceiptError(Exception):
    """Raised when a receipt handle is not the latest one of an existing message."""


class NotInFlightError(Exception):
    """Raised when a call changes the visibility of a message that is not in flight."""


class SentMessage(NamedTuple):
    """The identity of a sent message; for a duplicate, the identity of the first message."""

    message_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class MessageDelivery(Generic[Payload]):
    """One delivery of a message.

    Attributes:
        sequence: position of the message in the order of sending.
        receive_count: number of deliveries, this one included.
        first_received_at: wall-clock seconds of the first receive.
    """

    message_id: str
    payload: Payload
    sequence: int
    receipt_handle: str
    receive_count: int
    first_received_at: float
    group: str | None


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """Numbers of messages by state: visible, in flight (not visible) and delayed."""

    visible: int
    in_flight: int
    delayed: int


class MessageQueue(Generic[Payload]):
    """The messages of one queue. Every method is atomic; only `receive` may wait.

    Visibility and delays depend on the monotonic `clock`; consumers receive timestamps of `wall`, since the epoch.
    `record` is called with each change while the queue is locked.
    """

    def __init__(
        self,
        *,
        fifo: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = wall_seconds,
        record: RecordChange = record_nothing,
    ) -> None:
        self._fifo, self._clock, self._wall, self._record = fifo, clock, wall, QueueRecord(record, wall)
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._sequence = 0
        self._duplicates: OrderedDict[str | None, tuple[float, SentMessage]] = OrderedDict()
        self._past: ValueHistory[MessageCounts] = ValueHistory(resolution_seconds=COUNTS_EVERY_SECONDS, clock=clock)
        self._reset()

    def _reset(self) -> None:
        self._received: dict[str, StoredMessage[Payload]] = {}
        self._order: FairOrder[Payload] | FifoOrder[Payload] = FifoOrder() if self._fifo else FairOrder(self._clock)
        self._timers: MessageTimers[Payload] = MessageTimers()
        self._counts: Counter[MessageState] = Counter()
        self._past.record(self._count())

    @contextmanager
    def sending_batch(self) -> Iterator[None]:
        """Make the messages that are sent within the block visible together.

        A waiting receive then gets as many as it asks for. Otherwise several receives would share the batch.
        """
        with self._changed:
            yield

    def send(
        self,
        message_id: str,
        payload: Payload,
        *,
        delay_seconds: float = 0,
        group: str | None = None,
        deduplication_key: str | None = None,
        receive_count: int = 0,
    ) -> SentMessage:
        """Append a message; a duplicate within five minutes of the first message has no effect.

        Messages with equal deduplication keys are duplicates. A message that comes from another queue has a receive
        count already.

        Raises:
            TemporaryStorageError: the disk is full or fails; the message is not sent.
        """
        with self._changed:
            now = self._clock()
            while self._duplicates and next(iter(self._duplicates.values()))[0] <= now:
                expired, _ = self._duplicates.popitem(last=False)
                self._record.drop_duplicate(expired)
            if deduplication_key in self._duplicates:
                return self._duplicates[deduplication_key][1]
            self._sequence += 1
            entry = StoredMessage(
                message_id, payload, group, MessageState.DELAYED, now, self._sequence, receive_count
            )
            sent = SentMessage(message_id, entry.sequence)
            self._add(entry)
            if deduplication_key is not None:
                self._duplicates[deduplication_key] = (now + DEDUPLICATION_SECONDS, sent)
            self._record.add_sent(entry, delay_seconds, deduplication_key)
            if delay_seconds > 0:
                self._set_timer(entry, now + delay_seconds)
                self._past.record(self._count())
            else:
                self._make_visible(entry)
            return sent

    def receive(
        self,
        limit: int,
        visibility_seconds: float,
        *,
        wait_seconds: float = 0,
        max_in_flight: int | None = None,
        max_receive_count: int | None = None,
        retention_seconds: float | None = None,
        on_dead_letter: Callable[[StoredMessage[Payload]], None] | None = None,
    ) -> list[MessageDelivery[Payload]]:
        """Receive up to `limit` visible messages; wait up to `wait_seconds` for the first.

        Args:
            limit: maximum number of messages to return.
            visibility_seconds: visibility timeout; 0 leaves the messages visible.
            wait_seconds: of the long poll, which ends when a message becomes visible or the queue is closed.
            max_in_flight: number of messages in flight at which none is returned, or None without a limit.
            max_receive_count: a message with so many deliveries goes to `on_dead_letter` instead.
            retention_seconds: older messages are dropped.
            on_dead_letter: stores a dead letter elsewhere, called without the lock; the message is in flight
                meanwhile.

        Raises:
            TemporaryStorageError: the next message cannot be read; it stays.
        """
        deadline = self._clock() + wait_seconds
        while True:
            with self._changed:
                claimed = self._claim(limit, max_in_flight, retention_seconds)
                dead = [e for e in claimed if max_receive_count and e.receive_count >= max_receive_count]
                deliveries = [self._deliver(e, visibility_seconds) for e in claimed if e not in dead]
                if not claimed:
                    now = self._clock()
                    if self._closed or now >= deadline:
                        return []
                    self._changed.wait(max(min(deadline, self._timers.first_at) - now, 0.001))
            are_moved = [self._move_dead_letter(entry, on_dead_letter) for entry in dead]
            if deliveries or not all(are_moved):
                return deliveries

    def _move_dead_letter(
        self, entry: StoredMessage[Payload], on_dead_letter: Callable[[StoredMessage[Payload]], None] | None
    ) -> bool:
        """Store a dead letter elsewhere and drop it, or make it visible again; return whether it is stored."""
        is_stored = True
        try:
            if on_dead_letter is not None:
                on_dead_letter(entry)
        except TemporaryStorageError:  # which has been logged
            is_stored = False
        with self._changed:
            if entry.state is not MessageState.DELETED:
                (self._drop if is_stored else self._make_visible)(entry)
        return is_stored

    def delete(self, receipt_handle: str) -> None:
        """Delete the message of the latest receipt handle; a stale or repeated one has no effect.

        On a FIFO queue a receipt handle expires with its visibility timeout and is rejected
        (https://repost.aws/knowledge-center/sqs-receipt-handle-error).

        Raises:
            MalformedReceiptError: this queue did not issue the handle.
            StaleReceiptError: the message of a FIFO queue is visible again or was delivered again.
        """
        message_id = _message_id_of(receipt_handle)
        with self._changed:
            self._requeue_expired()
            entry = self._received.get(message_id)
            if entry is None:
                return
            is_latest = entry.receipt == receipt_handle
            if self._fifo and not (is_latest and entry.state is MessageState.IN_FLIGHT):
                raise StaleReceiptError(receipt_handle)
            if is_latest:
                self._drop(entry)

    def change_visibility(self, receipt_handle: str, seconds: float) -> None:
        """Make a message in flight visible in `seconds`; 0 makes it visible at once.

        Raises:
            MalformedReceiptError: this queue did not issue the handle.
            StaleReceiptError: the message was deleted or delivered again.
            NotInFlightError: the message is already visible.
        """
        message_id = _message_id_of(receipt_handle)
        with self._changed:
            self._requeue_expired()
            entry = self._received.get(message_id)
            if entry is None or entry.receipt != receipt_handle:
                raise StaleReceiptError(receipt_handle)
            if entry.state is not MessageState.IN_FLIGHT:
                raise NotInFlightError(receipt_handle)
            if seconds > 0:
                self._set_timer(entry, self._clock() + seconds)
            else:
                self._make_visible(entry)
            self._record.add_delivery(entry, seconds)

    def counts(self, seconds_ago: float = 0) -> MessageCounts:
        """Return the numbers of messages by state, now or `seconds_ago`, in constant time."""
        with self._changed:
            self._requeue_expired()
            if not seconds_ago:
                return self._count()
            return self._past.value_ago(seconds_ago) or MessageCounts(0, 0, 0)

    def _count(self) -> MessageCounts:
        return MessageCounts(
            self._counts[MessageState.VISIBLE],
            self._counts[MessageState.IN_FLIGHT],
            self._counts[MessageState.DELAYED],
        )

    def messages(self) -> Iterator[StoredMessage[Payload]]:
        """Yield every message, some twice unless the caller deletes them; the caller holds the lock."""
        everywhere = chain(self._received.values(), self._timers.messages(), self._order.messages())
        return (entry for entry in everywhere if entry.state is not MessageState.DELETED)

    def purge(self) -> None:
        """Delete every message, in flight or not."""
        with self._changed:
            try:
                for entry in self.messages():
                    entry.state = MessageState.DELETED
                    self._record.drop(entry)
            finally:
                self._reset()

    def discard(self) -> None:
        """Delete every message of a queue that is deleted, end its long polls, and record nothing more."""
        self.purge()
        with self._changed:
            for key in self._duplicates:
                self._record.drop_duplicate(key)
            self._record = QueueRecord(record_nothing, self._wall)
        self.close()

    def restore(
        self, messages: Iterable[RestoredMessage[Payload]], duplicates: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Add the messages of an earlier process, as they were sent, and the duplicates that it knew; record nothing.

        A message in flight stays so until its visibility timeout ends, and its receipt handle is valid.
        """
        with self._changed:
            now, wall = self._clock(), self._wall()
            known = sorted(duplicates.items(), key=lambda item: float(item[1]["ends_at"]))
            # Sequence numbers of deleted messages are not known: the time in microseconds is greater than theirs.
            self._sequence = max([self._sequence, int(wall * 1e6), *(int(each["sequence"]) for _, each in known)])
            for key, each in known:
                sent = SentMessage(each["message_id"], each["sequence"])
                self._duplicates[key] = (now + min(each["ends_at"] - wall, DEDUPLICATION_SECONDS), sent)
            for message in messages:
                self._sequence = max(self._sequence, message.sequence)
                self._restore_message(message, now, wall)
            if isinstance(self._order, FifoOrder):
                self._order.end_receive(e for e in self._received.values() if e.state is MessageState.IN_FLIGHT)
            self._past.record(self._count())

    def _restore_message(self, message: RestoredMessage[Payload], now: float, wall: float) -> None:
        entry = message.stored(now - (wall - message.sent_at))
        self._add(entry)
        if message.receipt is not None:
            self._received[entry.message_id] = entry
        left = min(message.visible_at - wall, message.hidden_seconds)
        if left <= 0:
            self._make_visible(entry)
            return
        if message.receipt is not None:
            self._move(entry, MessageState.IN_FLIGHT)
        self._set_timer(entry, now + left)

    def _add(self, entry: StoredMessage[Payload]) -> None:
        self._order.record_sent(entry)
        self._counts[entry.state] += 1

    def close(self) -> None:
        """End every long poll with an empty answer; later receives do not wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _claim(
        self, limit: int, max_in_flight: int | None, retention_seconds: float | None
    ) -> list[StoredMessage[Payload]]:
        self._requeue_expired()
        if max_in_flight is not None:
            limit = min(limit, max_in_flight - self._counts[MessageState.IN_FLIGHT])
        claimed: list[StoredMessage[Payload]] = []
        try:
            while len(claimed) < limit and (entry := self._order.pop()) is not None:
                if retention_seconds is not None and entry.sent_at + retention_seconds <= self._clock():
                    self._drop(entry)
                else:
                    self._received[entry.message_id] = entry
                    self._move(entry, MessageState.IN_FLIGHT)
                    claimed.append(entry)
        except TemporaryStorageError:
            if not claimed:
                raise
        if isinstance(self._order, FifoOrder):
            self._order.end_receive(claimed)
        return claimed

    def _deliver(self, entry: StoredMessage[Payload], visibility_seconds: float) -> MessageDelivery[Payload]:
        entry.receive_count += 1
        receipt = f"{entry.message_id} {entry.receive_count} {secrets.token_hex(8)}"
        entry.receipt = base64.urlsafe_b64encode(receipt.encode()).decode()
        entry.first_received_at = entry.first_received_at or self._wall()
        if visibility_seconds > 0:
            self._set_timer(entry, self._clock() + visibility_seconds)
        else:
            self._make_visible(entry)
        self._record.add_delivery(entry, visibility_seconds)
        return MessageDelivery(
            entry.message_id,
            entry.payload,
            entry.sequence,
            entry.receipt,
            entry.receive_count,
            entry.first_received_at,
            entry.group,
        )

    def _drop(self, entry: StoredMessage[Payload]) -> None:
        self._received.pop(entry.message_id, None)
        self._record.drop(entry)
        self._move(entry, MessageState.DELETED)
        self._drop_stale_timers()

    def _drop_stale_timers(self) -> None:
        self._timers.drop_stale(self._counts[MessageState.IN_FLIGHT] + self._counts[MessageState.DELAYED])

    def _make_visible(self, entry: StoredMessage[Payload]) -> None:
        entry.timer = 0
        self._move(entry, MessageState.VISIBLE)

    def _move(self, entry: StoredMessage[Payload], state: MessageState) -> None:
        before, entry.state = entry.state, state
        self._counts[before] -= 1
        self._counts[state] += 1
        self._past.record(self._count())
        if self._order.record_move(entry, before):
            self._changed.notify()

    def _set_timer(self, entry: StoredMessage[Payload], at: float) -> None:
        self._drop_stale_timers()
        if self._timers.set(entry, at):
            self._changed.notify_all()  # waiting receives must wait less

    def _requeue_expired(self) -> None:
        for entry in self._timers.take_ended(self._clock()):
            self._make_visible(entry)


def _message_id_of(receipt_handle: str) -> str:
    """Return the message of a receipt handle, which is opaque and new for each delivery, as on SQS."""
    try:
        message_id, count, _ = base64.urlsafe_b64decode(receipt_handle).decode().split(" ")
        int(count)
    except ValueError:
        raise MalformedReceiptError(f"{receipt_handle!r} is not a receipt handle of this queue") from None
    return message_id
