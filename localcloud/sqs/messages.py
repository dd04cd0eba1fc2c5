"""A message in a queue, and its state."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

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
    position: int = 0  # in the order in which messages became visible
    receipt: str | None = None
    timer: int = 0  # number of the current timer; timers with other numbers are stale
    first_received_at: float | None = None
    in_flight_since: float = 0.0
