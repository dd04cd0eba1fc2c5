"""The order in which a standard queue delivers its visible messages: oldest first, quiet tenants before noisy ones.

The rules are those of SQS's fair queues. A tenant is a message group. A message without a group is its own tenant;
here all these are one, which is never noisy.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html

AWS calls its thresholds approximate, and does not document over which time it measures processing. Nor does it
document whether a tenant that has become quiet, since it sent nothing, is marked again while its messages are in
flight. Here it is: the condition for that says nothing about sends.
"""

import heapq
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter
from typing import Generic

from localcloud.sqs.backlog import Backlog
from localcloud.sqs.messages import MessageState, Payload, StoredMessage

NOISY_SHARE = 0.1
"""A tenant with more than this share of the messages in flight, or of the recent processing time, is noisy."""

NOISY_IN_FLIGHT = 30
"""Messages that a tenant has in flight, at least, to be noisy by its share of them."""

SILENT_SECONDS = 300.0
"""A tenant that has sent nothing for this long is no longer noisy."""

RECENT_SECONDS = 60.0
"""Time constant with which processing time that has passed loses its weight."""

MEMORY_MESSAGES = 10_000
"""Messages at the ends of all tenants' backlogs in memory, as far as the smallest block of a backlog allows."""


@dataclass(slots=True)
class RecentSeconds:
    """Seconds of processing, of which those longer ago count less."""

    seconds: float = 0.0
    at: float = 0.0

    def add(self, seconds: float, now: float) -> None:
        """Add `seconds` that ended `now`."""
        self.seconds, self.at = self.value(now) + seconds, now

    def value(self, now: float) -> float:
        """Return the weighted sum."""
        return self.seconds * math.exp((self.at - now) / RECENT_SECONDS)


@dataclass(slots=True)
class Tenant(Generic[Payload]):
    """A message group of a standard queue.

    Attributes:
        sent_at: when it last sent a message.
        waiting: its messages that are not in flight.
        processing: the time that its messages were in flight.
        backlog: its visible messages.
        position: the place among the quiet tenants that it has or had last, at most that of its next message.
        is_listed: whether it is among the quiet tenants.
    """

    sent_at: float = 0.0
    waiting: int = 0
    in_flight: int = 0
    processing: RecentSeconds = field(default_factory=RecentSeconds)
    backlog: Backlog[Payload] = field(default_factory=Backlog)
    position: int = 0
    is_listed: bool = False


class FairOrder(Generic[Payload]):
    """The visible messages of a standard queue; the caller holds the queue's lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._position = 0
        self._tenants: defaultdict[str | None, Tenant[Payload]] = defaultdict(Tenant)
        self._quiet: list[tuple[int, Tenant[Payload]]] = []  # a heap by position; no two tenants have the same
        self._noisy: dict[str | None, Tenant[Payload]] = {}
        self._in_flight = 0
        self._processing = RecentSeconds()

    def record_sent(self, message: StoredMessage[Payload]) -> None:
        """Count a new message; before that write others of its tenant to the temporary files if memory has many.

        Raises:
            TemporaryStorageError: the disk is full or fails; nothing has changed.
        """
        tenant = self._tenants[message.group]
        share = MEMORY_MESSAGES // len(self._tenants)
        tenant.backlog.write_block(share)
        tenant.sent_at = self._clock()
        tenant.waiting += 1

    def record_move(self, message: StoredMessage[Payload], before: MessageState) -> bool:
        """Count a message after a change of its state; return whether it can be received now."""
        now, was_in_flight = self._clock(), before is MessageState.IN_FLIGHT
        is_in_flight, is_visible = message.state is MessageState.IN_FLIGHT, message.state is MessageState.VISIBLE
        if is_in_flight and not was_in_flight:
            message.in_flight_since = now
        processed = now - message.in_flight_since if was_in_flight and not is_in_flight else 0.0
        self._in_flight += is_in_flight - was_in_flight
        self._processing.add(processed, now)
        tenant = self._tenants[message.group]
        if is_visible:
            self._position += 1
            message.position = self._position
            tenant.backlog.append(message)
            if not tenant.is_listed and message.group not in self._noisy:
                tenant.position = message.position
                self._list(tenant)
        tenant.in_flight += is_in_flight - was_in_flight
        tenant.processing.add(processed, now)
        tenant.waiting += (not is_in_flight and message.state is not MessageState.DELETED) - (not was_in_flight)
        if not tenant.waiting:
            self._noisy.pop(message.group, None)
            if not tenant.in_flight:
                del self._tenants[message.group]
        return is_visible

    def _list(self, tenant: Tenant[Payload]) -> None:
        tenant.is_listed = True
        heapq.heappush(self._quiet, (tenant.position, tenant))

    def pop(self) -> StoredMessage[Payload] | None:
        """Remove and return the next visible message, if there is one.

        Raises:
            TemporaryStorageError: the message cannot be read; it stays the next one.
        """
        now = self._clock()
        for group, tenant in list(self._noisy.items()):
            if now - tenant.sent_at >= SILENT_SECONDS:
                del self._noisy[group]
                self._list(tenant)
        while self._quiet:
            position, tenant = self._quiet[0]
            message = tenant.backlog.peek()
            if message is not None and message.position > position:
                heapq.heapreplace(self._quiet, (message.position, tenant))
            elif message is None or self._is_noisy(message.group, tenant, now):
                heapq.heappop(self._quiet)
                tenant.is_listed = False
            else:
                tenant.backlog.remove(message)
                return message
        for tenant in sorted(self._noisy.values(), key=attrgetter("in_flight")):
            if (message := tenant.backlog.peek()) is not None:
                tenant.backlog.remove(message)
                return message
        return None

    def messages(self) -> Iterator[StoredMessage[Payload]]:
        """Yield every visible message, and some that were deleted."""
        return chain.from_iterable(tenant.backlog for tenant in self._tenants.values())

    def _is_noisy(self, group: str | None, tenant: Tenant[Payload], now: float) -> bool:
        """Mark a tenant if it is noisy; return whether it is."""
        if group is None:
            return False
        has_share = tenant.in_flight > NOISY_SHARE * self._in_flight and tenant.in_flight >= NOISY_IN_FLIGHT
        takes_time = tenant.processing.value(now) > NOISY_SHARE * self._processing.value(now)
        if has_share or takes_time:
            self._noisy[group] = tenant
        return group in self._noisy
