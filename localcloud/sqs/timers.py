"""The timers of a queue: when the delay or the visibility timeout of a message ends."""

import heapq
from collections.abc import Iterator
from math import inf
from typing import Generic

from localcloud.sqs.messages import MessageState, Payload, StoredMessage

SPARE_TIMERS = 64
"""Timers beyond two for each message at which stale timers are dropped."""


class MessageTimers(Generic[Payload]):
    """The timers of the messages of a queue; the caller holds the queue's lock.

    A message has one at most: an earlier one, or one from before a change of its state, is stale.
    """

    def __init__(self) -> None:
        self._number = 0
        self._timers: list[tuple[float, int, StoredMessage[Payload]]] = []

    @property
    def first_at(self) -> float:
        """When the first timer ends; infinity without any."""
        return self._timers[0][0] if self._timers else inf

    def set(self, message: StoredMessage[Payload], at: float) -> bool:
        """Set the timer of a message; return whether it is the first to end."""
        self._number += 1
        message.timer = self._number
        heapq.heappush(self._timers, (at, message.timer, message))
        return self._timers[0][2] is message

    def take_ended(self, now: float) -> Iterator[StoredMessage[Payload]]:
        """Remove the timers that have ended, and yield their messages."""
        while self._timers and self._timers[0][0] <= now:
            _, timer, message = heapq.heappop(self._timers)
            if _is_current(timer, message):
                yield message

    def messages(self) -> list[StoredMessage[Payload]]:
        """Return every message with a timer."""
        return [message for _, timer, message in self._timers if _is_current(timer, message)]

    def drop_stale(self, messages: int) -> None:
        """Release deleted messages, with their payloads, before their last visibility timeout ends.

        Args:
            messages: number of messages that are delayed or in flight.
        """
        if len(self._timers) > 2 * messages + SPARE_TIMERS:
            self._timers = [(at, timer, each) for at, timer, each in self._timers if _is_current(timer, each)]
            heapq.heapify(self._timers)


def _is_current(timer: int, message: StoredMessage[Payload]) -> bool:
    return message.timer == timer and message.state in {MessageState.DELAYED, MessageState.IN_FLIGHT}
