"""The messages of a queue: their states, deliveries and receipt handles."""

import base64
import binascii
import secrets
from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


class StaleReceiptError(Exception):
    """Raised when a receipt handle is not the latest one of an existing message."""


class NotInFlightError(Exception):
    """Raised when a call changes the visibility of a message that is not in flight."""


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


@dataclass(slots=True)
class MessageGroup(Generic[Payload]):
    """A message group of a FIFO queue: its messages in order, and the number of them in flight."""

    entries: "deque[StoredMessage[Payload]]" = field(default_factory=deque)
    in_flight: int = 0


@dataclass(frozen=True, slots=True)
class SentMessage:
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


@dataclass(frozen=True, slots=True)
class DeadLetter(Generic[Payload]):
    """A message with a receive count above its limit, on its way to the dead-letter queue."""

    message_id: str
    payload: Payload
    group: str | None
    receive_count: int


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """Numbers of messages by state: visible, in flight (not visible) and delayed."""

    visible: int
    in_flight: int
    delayed: int


class MalformedReceiptError(ValueError):
    """Raised when this queue did not issue a receipt handle."""


@dataclass(frozen=True, slots=True)
class ReceiptHandle:
    """Identifies one delivery of one message, so that a stale handle has no effect."""

    message_id: str
    receive_count: int
    nonce: str

    @classmethod
    def new(cls, message_id: str, receive_count: int) -> "ReceiptHandle":
        """Return a new handle, which no other delivery has."""
        return cls(message_id, receive_count, secrets.token_hex(8))

    @classmethod
    def parse(cls, handle: str) -> "ReceiptHandle":
        """Return the handle of a text.

        Raises:
            MalformedReceiptError: this queue did not issue the handle.
        """
        try:
            message_id, count, nonce = base64.urlsafe_b64decode(handle).decode().split(" ")
            return cls(message_id, int(count), nonce)
        except (ValueError, binascii.Error, UnicodeError):
            raise MalformedReceiptError(f"{handle!r} is not a receipt handle of this queue") from None

    def __str__(self) -> str:
        """Return the handle as opaque text, as SQS does."""
        return base64.urlsafe_b64encode(f"{self.message_id} {self.receive_count} {self.nonce}".encode()).decode()
