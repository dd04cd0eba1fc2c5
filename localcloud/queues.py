"""A queue with SQS's rules, in memory: one lock, a condition for long polls, nothing scanned per call.

Times are seconds of the clocks passed in. Of a FIFO queue, a group's messages are delivered in order, and none while
an earlier delivery of the group is in flight.
"""

import heapq
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, Generic

from localcloud.eventual_consistency import ValueHistory
from localcloud.message import (
    Counts,
    DeadLetter,
    Delivery,
    Entry,
    Group,
    NotInFlightError,
    Payload,
    Sent,
    StaleReceiptError,
    State,
)
from localcloud.receipts import ReceiptHandle

DEDUPLICATION_SECONDS = 300.0

COUNTS_EVERY_SECONDS = 0.1
"""How finely what was counted is remembered."""

TIMERS_TO_SPARE = 64
"""Timers beyond two for each message at which those that no longer count are dropped."""


class MessageQueue(Generic[Payload]):
    """Messages of one queue. Every method is atomic; only `receive` may wait.

    Args:
        fifo: keep order within message groups.
        clock: monotonic seconds, for visibility and delays.
        wall: seconds since the epoch, for what a consumer is told.
    """

    def __init__(
        self,
        *,
        fifo: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._fifo, self._clock, self._wall = fifo, clock, wall
        self._changed = threading.Condition(threading.Lock())
        self._closed = False
        self._sequence = 0
        self._duplicates: OrderedDict[str, tuple[float, Sent]] = OrderedDict()
        self._past: ValueHistory[Counts] = ValueHistory(resolution_seconds=COUNTS_EVERY_SECONDS, clock=clock)
        self._reset()

    def _reset(self) -> None:
        self._entries: dict[str, Entry[Payload]] = {}
        self._visible: deque[Entry[Payload]] = deque()
        self._groups: dict[str, Group[Payload]] = {}
        self._ready_groups: OrderedDict[str, None] = OrderedDict()
        self._timers: list[tuple[float, int, Entry[Payload]]] = []
        self._counts: Counter[State] = Counter()
        self._past.record(self._count())

    def send(
        self,
        message_id: str,
        payload: Payload,
        *,
        delay_seconds: float = 0,
        group: str | None = None,
        deduplication_key: str | None = None,
        receive_count: int = 0,
    ) -> Sent:
        """Append a message; within five minutes of its first, a duplicate changes nothing.

        Args:
            message_id: unique in this queue.
            payload: what a receive returns.
            delay_seconds: how long it stays invisible.
            group: message group of a FIFO queue.
            deduplication_key: equal keys are the same message.
            receive_count: deliveries that count already, for a message that comes from another queue.
        """
        with self._changed:
            now = self._clock()
            if earlier := self._duplicate(deduplication_key, now):
                return earlier
            self._sequence += 1
            entry = Entry(message_id, payload, group, State.DELAYED, now, self._sequence, receive_count)
            sent = Sent(message_id, entry.sequence)
            self._entries[message_id] = entry
            self._counts[State.DELAYED] += 1
            if group is not None:
                self._groups.setdefault(group, Group()).entries.append(entry)
            if deduplication_key is not None:
                self._duplicates[deduplication_key] = (now + DEDUPLICATION_SECONDS, sent)
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
        bury: Callable[[DeadLetter[Payload]], None] | None = None,
    ) -> list[Delivery[Payload]]:
        """Take up to `limit` visible messages, waiting up to `wait_seconds` for the first.

        Args:
            limit: most messages to return.
            visibility_seconds: how long they stay invisible to others; 0 leaves them visible.
            wait_seconds: the long poll; ends at once when a message becomes visible or the queue is closed.
            max_in_flight: with so many messages in flight none is returned; None: without limit.
            max_receive_count: a message received this often goes to `bury` instead.
            retention_seconds: older messages are dropped.
            bury: stores a dead letter elsewhere; called without the lock, the message counts as in flight meanwhile.
        """
        deadline = self._clock() + wait_seconds
        while True:
            with self._changed:
                taken = self._take(limit, max_in_flight, retention_seconds)
                dead = [e for e in taken if max_receive_count and e.receive_count >= max_receive_count]
                deliveries = [self._deliver(e, visibility_seconds) for e in taken if e not in dead]
                if not taken and not self._wait(deadline):
                    return []
            for entry in dead:
                self._bury(entry, bury)
            if deliveries:
                return deliveries

    def delete(self, receipt_handle: str) -> None:
        """Delete the message of the latest receipt; a stale or repeated receipt changes nothing.

        On a FIFO queue a receipt expires with its visibility timeout, and is refused
        (https://repost.aws/knowledge-center/sqs-receipt-handle-error).

        Raises:
            MalformedReceiptError: the handle is none of ours.
            StaleReceiptError: the message of a FIFO queue is visible again or was delivered again.
        """
        receipt = ReceiptHandle.parse(receipt_handle)
        with self._changed:
            self._wake_due()
            entry = self._entries.get(receipt.message_id)
            if entry is None:
                return
            is_latest = entry.receipt == receipt_handle
            if self._fifo and not (is_latest and entry.state is State.IN_FLIGHT):
                raise StaleReceiptError(receipt_handle)
            if is_latest:
                self._drop(entry)

    def change_visibility(self, receipt_handle: str, seconds: float) -> None:
        """Let a message in flight become visible `seconds` from now; 0 gives it back at once.

        Raises:
            MalformedReceiptError: the handle is none of ours.
            StaleReceiptError: the message is gone or was delivered again.
            NotInFlightError: it is visible already.
        """
        receipt = ReceiptHandle.parse(receipt_handle)
        with self._changed:
            self._wake_due()
            entry = self._entries.get(receipt.message_id)
            if entry is None or entry.receipt != receipt_handle:
                raise StaleReceiptError(receipt_handle)
            if entry.state is not State.IN_FLIGHT:
                raise NotInFlightError(receipt_handle)
            if seconds > 0:
                self._set_timer(entry, self._clock() + seconds)
            else:
                self._make_visible(entry)

    def counts(self, seconds_ago: float = 0) -> Counts:
        """Count the messages by state, now or as it was so long ago; costs nothing per message."""
        with self._changed:
            self._wake_due()
            if not seconds_ago:
                return self._count()
            return self._past.value_ago(seconds_ago) or Counts(0, 0, 0)

    def _count(self) -> Counts:
        return Counts(self._counts[State.VISIBLE], self._counts[State.IN_FLIGHT], self._counts[State.DELAYED])

    def purge(self) -> None:
        """Forget every message, in flight or not."""
        with self._changed:
            for entry in self._entries.values():
                entry.state = State.GONE
            self._reset()

    def close(self) -> None:
        """End every long poll with an empty answer, and let none wait from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _duplicate(self, key: str | None, now: float) -> Sent | None:
        while self._duplicates and next(iter(self._duplicates.values()))[0] <= now:
            self._duplicates.popitem(last=False)
        return self._duplicates[key][1] if key is not None and key in self._duplicates else None

    def _take(self, limit: int, max_in_flight: int | None, retention_seconds: float | None) -> list[Entry[Payload]]:
        self._wake_due()
        if max_in_flight is not None:
            limit = min(limit, max_in_flight - self._counts[State.IN_FLIGHT])
        taken: list[Entry[Payload]] = []
        while len(taken) < limit and (entry := self._next_visible()) is not None:
            if retention_seconds is not None and entry.sent_at + retention_seconds <= self._clock():
                self._drop(entry)
            else:
                self._move(entry, State.IN_FLIGHT)
                taken.append(entry)
        for entry in taken:  # nothing more of these groups until what was taken is settled
            self._ready_groups.pop(entry.group or "", None)
        return taken

    def _next_visible(self) -> Entry[Payload] | None:
        if self._fifo:
            return self._next_of_groups()
        while self._visible:
            entry = self._visible.popleft()
            if entry.state is State.VISIBLE:  # others were deleted while they waited here
                return entry
        return None

    def _next_of_groups(self) -> Entry[Payload] | None:
        while self._ready_groups:
            group = self._groups[next(iter(self._ready_groups))]
            entry = next((e for e in group.entries if e.state is not State.IN_FLIGHT), None)
            if entry is not None and entry.state is State.VISIBLE:
                return entry
            self._ready_groups.popitem(last=False)
        return None

    def _deliver(self, entry: Entry[Payload], visibility_seconds: float) -> Delivery[Payload]:
        entry.receive_count += 1
        entry.receipt = str(ReceiptHandle.new(entry.message_id, entry.receive_count))
        entry.first_received_at = entry.first_received_at or self._wall()
        if visibility_seconds > 0:
            self._set_timer(entry, self._clock() + visibility_seconds)
        else:
            self._make_visible(entry)
        return Delivery(
            entry.message_id,
            entry.payload,
            entry.sequence,
            entry.receipt,
            entry.receive_count,
            entry.first_received_at,
        )

    def _bury(self, entry: Entry[Payload], bury: Callable[[DeadLetter[Payload]], None] | None) -> None:
        if bury is not None:
            bury(DeadLetter(entry.message_id, entry.payload, entry.group, entry.receive_count))
        with self._changed:
            if entry.state is not State.GONE:
                self._drop(entry)

    def _drop(self, entry: Entry[Payload]) -> None:
        del self._entries[entry.message_id]
        self._move(entry, State.GONE)
        self._forget_overtaken_timers()
        if entry.group is not None:
            self._groups[entry.group].entries.remove(entry)
            self._offer(entry.group)

    def _make_visible(self, entry: Entry[Payload]) -> None:
        entry.timer = 0
        self._move(entry, State.VISIBLE)
        if self._fifo and entry.group is not None:
            self._offer(entry.group)
        else:
            self._visible.append(entry)
            self._changed.notify()

    def _offer(self, name: str) -> None:
        """Make a FIFO group receivable if nothing of it is in flight and its first message is visible."""
        group = self._groups[name]
        if not group.entries:
            del self._groups[name]
            self._ready_groups.pop(name, None)
        elif not group.in_flight and group.entries[0].state is State.VISIBLE:
            self._ready_groups.setdefault(name)
            self._changed.notify()

    def _move(self, entry: Entry[Payload], state: State) -> None:
        if self._fifo and entry.group is not None:
            self._groups[entry.group].in_flight += (state is State.IN_FLIGHT) - (entry.state is State.IN_FLIGHT)
        self._counts[entry.state] -= 1
        self._counts[state] += 1
        entry.state = state
        self._past.record(self._count())

    def _set_timer(self, entry: Entry[Payload], at: float) -> None:
        self._forget_overtaken_timers()
        self._sequence += 1
        entry.timer = self._sequence
        heapq.heappush(self._timers, (at, entry.timer, entry))
        if self._timers[0][2] is entry:  # the earliest now: those who wait must wait less
            self._changed.notify_all()

    def _wake_due(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            _, timer, entry = heapq.heappop(self._timers)
            if _counts(timer, entry):
                self._make_visible(entry)

    def _forget_overtaken_timers(self) -> None:
        """Keep no deleted message, nor its payload, until the visibility timeout that it no longer has."""
        if len(self._timers) > 2 * len(self._entries) + TIMERS_TO_SPARE:
            self._timers = [(at, timer, entry) for at, timer, entry in self._timers if _counts(timer, entry)]
            heapq.heapify(self._timers)

    def _wait(self, deadline: float) -> bool:
        """Wait for a change, the next timer or the deadline; False once the deadline has passed."""
        now = self._clock()
        if self._closed or now >= deadline:
            return False
        until = min(deadline, self._timers[0][0]) if self._timers else deadline
        self._changed.wait(max(until - now, 0.001))
        return True


def _counts(timer: int, entry: Entry[Any]) -> bool:
    return entry.timer == timer and entry.state in {State.DELAYED, State.IN_FLIGHT}
