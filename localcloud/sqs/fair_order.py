"""The order in which a standard queue delivers its visible messages: oldest first, quiet tenants before noisy ones.

The rules are those of SQS's fair queues. A tenant is a message group. A message without a group is its own tenant.
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-fair-queues-detailed.html

AWS calls its thresholds approximate, and does not document over which time it measures processing. Nor does it
document whether a tenant that has become quiet, since it sent nothing, is marked again while its messages are in
flight. Here it is: the condition for that says nothing about sends.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

NOISY_SHARE = 0.1
"""A tenant with more than this share of the messages in flight, or of the recent processing time, is noisy."""

NOISY_IN_FLIGHT = 30
"""Messages that a tenant has in flight, at least, to be noisy by its share of them."""

SILENT_SECONDS = 300.0
"""A tenant that has sent nothing for this long is no longer noisy."""

RECENT_SECONDS = 60.0
"""Time constant with which processing time that has passed loses its weight."""

Payload = TypeVar("Payload")


class MessageState(StrEnum):
    """The state of a message: the three that SQS counts, and deleted."""

    DELAYED = "delayed"
    VISIBLE = "visible"
    IN_FLIGHT = "in flight"
    DELETED = "deleted"


@dataclass(eq=False, slots=True)
class StoredMessage(Generic[Payload]):
    """A message in its queue; times are of the queue's monotonic clock."""

    message_id: str
    payload: Payload
    group: str | None
    state: MessageState
    sent_at: float
    sequence: int
    receive_count: int = 0
    receipt: str | None = None
    timer: int = 0  # number of the current timer; timers with other numbers are stale
    first_received_at: float | None = None
    in_flight_since: float = 0.0


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
        deferred: its visible messages that quiet tenants have overtaken.
    """

    sent_at: float
    waiting: int = 0
    in_flight: int = 0
    processing: RecentSeconds = field(default_factory=RecentSeconds)
    deferred: "deque[StoredMessage[Payload]]" = field(default_factory=deque)


class FairOrder(Generic[Payload]):
    """The visible messages of a standard queue; the caller holds the queue's lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._visible: deque[StoredMessage[Payload]] = deque()
        self._tenants: dict[str, Tenant[Payload]] = {}
        self._noisy: dict[str, Tenant[Payload]] = {}
        self._in_flight = 0
        self._processing = RecentSeconds()

    def record_sent(self, message: StoredMessage[Payload]) -> None:
        """Count a new message."""
        if message.group is not None:
            tenant = self._tenants.setdefault(message.group, Tenant(self._clock()))
            tenant.sent_at = self._clock()
            tenant.waiting += 1

    def record_move(self, message: StoredMessage[Payload], before: MessageState) -> bool:
        """Count a message after a change of its state; return whether it can be received now."""
        now, was_in_flight = self._clock(), before is MessageState.IN_FLIGHT
        is_in_flight, is_visible = message.state is MessageState.IN_FLIGHT, message.state is MessageState.VISIBLE
        if is_visible:
            self._visible.append(message)
        if is_in_flight and not was_in_flight:
            message.in_flight_since = now
        processed = now - message.in_flight_since if was_in_flight and not is_in_flight else 0.0
        self._in_flight += is_in_flight - was_in_flight
        self._processing.add(processed, now)
        if message.group is None:
            return is_visible
        tenant = self._tenants[message.group]
        tenant.in_flight += is_in_flight - was_in_flight
        tenant.processing.add(processed, now)
        tenant.waiting += (not is_in_flight and message.state is not MessageState.DELETED) - (not was_in_flight)
        if not tenant.waiting:  # its backlog has been delivered; what it has deferred was deleted
            self._noisy.pop(message.group, None)
            tenant.deferred.clear()
            if not tenant.in_flight:
                del self._tenants[message.group]
        return is_visible

    def pop(self) -> StoredMessage[Payload] | None:
        """Remove and return the next visible message, if there is one."""
        now = self._clock()
        for group, tenant in list(self._noisy.items()):
            if now - tenant.sent_at >= SILENT_SECONDS:
                del self._noisy[group]
                self._visible.extendleft(reversed(tenant.deferred))
                tenant.deferred.clear()
        while self._visible:
            message = self._visible.popleft()
            if message.state is not MessageState.VISIBLE:  # it was deleted while it was in this list
                continue
            if message.group is None or not self._is_noisy(message.group, now):
                return message
            self._tenants[message.group].deferred.append(message)
        while noisy := [tenant for tenant in self._noisy.values() if tenant.deferred]:
            message = min(noisy, key=lambda tenant: tenant.in_flight).deferred.popleft()
            if message.state is MessageState.VISIBLE:
                return message
        return None

    def _is_noisy(self, group: str, now: float) -> bool:
        """Mark a tenant if it is noisy; return whether it is."""
        tenant = self._tenants[group]
        has_share = tenant.in_flight > NOISY_SHARE * self._in_flight and tenant.in_flight >= NOISY_IN_FLIGHT
        takes_time = tenant.processing.value(now) > NOISY_SHARE * self._processing.value(now)
        if has_share or takes_time:
            self._noisy[group] = tenant
        return group in self._noisy
