"""What this worker has received and not yet answered or given back: the one place that knows."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app_tier.task import Delivery


@dataclass(slots=True)
class _Entry:
    delivery: Delivery
    held_since: float
    hidden_until: float
    started: bool = False


class InFlightMessages:
    """Deliveries, by receipt: held when received, started when the pipeline gets them, removed at the end.

    Args:
        capacity: most deliveries at once; what bounds the worker's memory, and what it takes from idle colleagues.
        visibility_seconds: the queue's visibility timeout.
        clock: monotonic seconds.
    """

    def __init__(self, capacity: int, visibility_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.capacity = capacity
        self._visibility_seconds = visibility_seconds
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._steps: dict[int, tuple[float, Sequence[Delivery]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._busy_until = clock()

    def __len__(self) -> int:
        """Count what is in hand."""
        return len(self._entries)

    @property
    def started(self) -> int:
        """How many are in the pipeline."""
        with self._changed:
            return self._count_started()

    def hold(self, deliveries: Sequence[Delivery], asked_at: float) -> None:
        """Add what was received; `asked_at` is when the receive began, and the earliest that a timeout did."""
        with self._changed:
            for delivery in deliveries:
                self._entries[delivery.receipt] = _Entry(delivery, self._clock(), asked_at + self._visibility_seconds)
            self._changed.notify_all()

    def start(self, delivery: Delivery) -> bool:
        """Note that the pipeline gets `delivery`; return False if it is out of hand already, as after 12 hours."""
        with self._changed:
            if (entry := self._entries.get(delivery.receipt)) is None:
                return False
            entry.started = True
            return True

    def remove(self, delivery: Delivery) -> bool:
        """Take `delivery` out of hand; False when it was out already, so that only one decides what becomes of it."""
        with self._changed:
            there = self._entries.pop(delivery.receipt, None) is not None
            self._busy_until = self._clock()
            self._changed.notify_all()
            return there

    def take_back(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Take `deliveries` out of hand; return those that are still invisible to other workers.

        A message is back in the queue once its visibility timeout has ended.
        """
        now = self._clock()
        with self._changed:
            entries = [self._entries.pop(delivery.receipt, None) for delivery in deliveries]
            self._busy_until = now
            self._changed.notify_all()
        return [entry.delivery for entry in entries if entry is not None and entry.hidden_until > now]

    def held(self) -> list[Delivery]:
        """Return what has not been started."""
        with self._changed:
            return [entry.delivery for entry in self._entries.values() if not entry.started]

    def everything(self) -> list[Delivery]:
        """Return all that is in hand."""
        with self._changed:
            return [entry.delivery for entry in self._entries.values()]

    # Time

    def idle_seconds(self) -> float:
        """Return how long nothing has been in hand; 0 while something is."""
        with self._changed:
            return 0.0 if self._entries else self._clock() - self._busy_until

    def expiring(self) -> list[Delivery]:
        """Return what has used up half of its visibility timeout or more."""
        soon = self._clock() + self._visibility_seconds / 2
        with self._changed:
            return [entry.delivery for entry in self._entries.values() if entry.hidden_until <= soon]

    def older_than(self, seconds: float) -> list[Delivery]:
        """Return what has been in hand for longer than `seconds`."""
        before = self._clock() - seconds
        with self._changed:
            return [entry.delivery for entry in self._entries.values() if entry.held_since < before]

    def extended(self, deliveries: Sequence[Delivery], asked_at: float) -> None:
        """Note that the visibility timeout of `deliveries` began anew at `asked_at`."""
        with self._changed:
            for delivery in deliveries:
                if entry := self._entries.get(delivery.receipt):
                    entry.hidden_until = asked_at + self._visibility_seconds

    # Steps of the pipeline

    def begin_step(self, deliveries: Sequence[Delivery]) -> None:
        """Note that the calling thread begins a step for `deliveries`; without a lock, since only it does."""
        self._steps[threading.get_ident()] = (self._clock(), deliveries)

    def end_step(self) -> None:
        """Note that the calling thread has ended its step."""
        del self._steps[threading.get_ident()]

    def stuck(self, seconds: float) -> list[Delivery]:
        """Return what is in hand and has been in one step for longer than `seconds`."""
        before = self._clock() - seconds
        slow = [one for since, deliveries in list(self._steps.values()) if since < before for one in deliveries]
        return [one for one in slow if one.receipt in self._entries]

    # Waiting

    def wait_for_room(self, room: int, seconds: float) -> bool:
        """Wait until `room` more can be held; False after `seconds`, or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._room() >= room, seconds)
            return not self._closed and self._room() >= room

    def wait_until_none_started(self, seconds: float) -> bool:
        """Wait until the pipeline is empty; False after `seconds`, or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._count_started(), seconds)
            return not self._closed and not self._count_started()

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until nothing is in hand, closed or not; False after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._entries, seconds)

    def close(self) -> None:
        """End the waits of those who want to take more; what is in hand stays."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _room(self) -> int:
        return self.capacity - len(self._entries)

    def _count_started(self) -> int:
        return sum(entry.started for entry in self._entries.values())
