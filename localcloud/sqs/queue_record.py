"""What a queue records of its changes, so that a later process can restore it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from localcloud.sqs.messages import MessageState, Payload, StoredMessage

DEDUPLICATION_SECONDS = 300.0
"""Seconds in which a second message with the same deduplication key is a duplicate, as on SQS."""

MAX_INVISIBLE_SECONDS = 43_200.0
"""Longest visibility timeout in seconds, as on SQS. A message that was recorded with a wrong clock is restored with
at most this."""

RecordChange = Callable[[str, str, dict[str, Any] | None], None]
"""Records a change: its kind (message, delivery or duplicate), the id of the message or the deduplication key, and
the new value, or None if there is none any more."""


def record_nothing(_kind: str, _name: str, _value: dict[str, Any] | None) -> None:
    """Forget a change."""


@dataclass(frozen=True, slots=True)
class RestoredMessage(Generic[Payload]):
    """A message as it was recorded; times are seconds since the epoch.

    Attributes:
        visible_at: end of its delay or of its visibility timeout.
        hidden_seconds: length of either, which bounds it if the clock is set back before the next start.
        receipt: its latest receipt handle, or None if it was never received.
    """

    message_id: str
    payload: Payload
    group: str | None
    sent_at: float
    sequence: int
    visible_at: float
    receive_count: int = 0
    receipt: str | None = None
    first_received_at: float | None = None
    hidden_seconds: float = MAX_INVISIBLE_SECONDS

    def stored(self, sent_at: float) -> StoredMessage[Payload]:
        """Return the message of the queue; `sent_at` is of its monotonic clock."""
        return StoredMessage(
            self.message_id,
            self.payload,
            self.group,
            MessageState.DELAYED,
            sent_at,
            self.sequence,
            self.receive_count,
            receipt=self.receipt,
            first_received_at=self.first_received_at,
        )


@dataclass(frozen=True)
class QueueRecord:
    """Records what `RestoredMessage` has, by the `wall` clock: seconds since the epoch."""

    record: RecordChange
    wall: Callable[[], float]

    def add_sent(self, entry: StoredMessage[Any], delay_seconds: float, key: str | None) -> None:
        """Record a new message, and its deduplication key if it has one."""
        wall = self.wall()
        sent = {
            "payload": entry.payload,
            "group": entry.group,
            "sent_at": wall,
            "sequence": entry.sequence,
            "visible_at": wall + delay_seconds,
            "hidden_seconds": delay_seconds,
            "receive_count": entry.receive_count,
        }
        self.record("message", entry.message_id, sent)
        if key is not None:
            duplicate = {
                "ends_at": wall + DEDUPLICATION_SECONDS,
                "message_id": entry.message_id,
                "sequence": entry.sequence,
            }
            self.record("duplicate", key, duplicate)

    def add_delivery(self, entry: StoredMessage[Any], seconds: float) -> None:
        """Record that a message was received, or how long it stays invisible from now on."""
        delivery = {
            "receipt": entry.receipt,
            "receive_count": entry.receive_count,
            "first_received_at": entry.first_received_at,
            "visible_at": self.wall() + seconds,
            "hidden_seconds": seconds,
        }
        self.record("delivery", entry.message_id, delivery)

    def drop(self, entry: StoredMessage[Any]) -> None:
        """Record that a message is gone."""
        self.record("message", entry.message_id, None)
        if entry.receipt is not None:
            self.record("delivery", entry.message_id, None)

    def drop_duplicate(self, key: str | None) -> None:
        """Record that another message with a deduplication key would be no duplicate any more."""
        self.record("duplicate", str(key), None)
