"""A message in a queue, in its states, and what SQS tells of it."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


class StaleReceiptError(Exception):
    """Raised when a receipt handle is not the latest of a message that still exists."""


class NotInFlightError(Exception):
    """Raised when the visibility of a message that is not in flight is to be changed."""


class State(StrEnum):
    """Where a message is, as the three approximate counts of SQS see it."""

    DELAYED = "delayed"
    VISIBLE = "visible"
    IN_FLIGHT = "in flight"
    GONE = "gone"


@dataclass(eq=False, slots=True)
class Entry(Generic[Payload]):
    """One message as its queue keeps it; times are of the queue's monotonic clock."""

    message_id: str
    payload: Payload
    group: str | None
    state: State
    sent_at: float
    sequence: int
    receive_count: int = 0
    receipt: str | None = None
    timer: int = 0  # the one timer that counts; those with another number were overtaken
    first_received_at: float | None = None


@dataclass(slots=True)
class Group(Generic[Payload]):
    """A message group of a FIFO queue: what is left of it, in order, and how much of that is in flight."""

    entries: "deque[Entry[Payload]]" = field(default_factory=deque)
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """The identity that a message got; for a duplicate within the window, that of the first."""

    message_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Delivery(Generic[Payload]):
    """One message as one receive saw it.

    Attributes:
        sequence: its place in the order of sending.
        receive_count: how often it was received, this time included.
        first_received_at: wall-clock seconds of the first receive.
    """

    message_id: str
    payload: Payload
    sequence: int
    receipt_handle: str
    receive_count: int
    first_received_at: float


@dataclass(frozen=True, slots=True)
class DeadLetter(Generic[Payload]):
    """A message that was received too often, on its way to the dead-letter queue."""

    message_id: str
    payload: Payload
    group: str | None
    receive_count: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Messages by state: visible, in flight (not visible) and delayed."""

    visible: int
    in_flight: int
    delayed: int
