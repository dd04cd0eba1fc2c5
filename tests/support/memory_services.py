"""A queue in memory, of the real class, for tests of the controller that start no process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.ids import new_id
from core.messages import RequestMessage
from services.sqs import BATCH, OutgoingMessage, Queue, QueueCounts, ReceivedMessage


@dataclass
class ClockedMessage:
    """A message of a `ClockedQueue`."""

    body: str
    receives: int = 0
    visible_at: float = 0.0
    receipt: str = ""


@dataclass(frozen=True)
class ClockedQueue(Queue):
    """A standard queue; `clock` is in seconds.

    Attributes:
        batch: most messages that a receive brings: SQS may bring fewer than there are.
        sent: how many messages were sent in all.
    """

    client: Any = None
    url: str = "memory"
    clock: Callable[[], float] = lambda: 0.0
    visibility_seconds: float = 30.0
    messages: list[ClockedMessage] = field(default_factory=list)
    sent: list[OutgoingMessage] = field(default_factory=list)
    batch: list[int] = field(default_factory=lambda: [BATCH])
    waits: list[int] = field(default_factory=list)

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Take messages."""
        self.sent.extend(messages)
        self.messages.extend(ClockedMessage(each.body) for each in messages)
        return []

    def receive(self, most: int = BATCH, wait_seconds: int = 20) -> list[ReceivedMessage]:
        """Return messages that are visible."""
        self.waits.append(wait_seconds)
        now = self.clock()
        found = [each for each in self.messages if each.visible_at <= now][: min(most, self.batch[0])]
        for each in found:
            each.receives, each.visible_at, each.receipt = each.receives + 1, now + self.visibility_seconds, new_id()
        return [ReceivedMessage(each.receipt, each.receipt, each.body, each.receives, 0.0, 0.0) for each in found]

    def delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete messages."""
        self.messages[:] = [each for each in self.messages if each.receipt not in receipts]
        return []

    def change_visibility(self, receipts: Sequence[str], seconds: int) -> list[str]:
        """Hide messages for so long."""
        for each in self.messages:
            if each.receipt in receipts:
                each.visible_at = self.clock() + seconds
        return []

    def counts(self) -> QueueCounts:
        """Return how many there are."""
        visible = sum(each.visible_at <= self.clock() for each in self.messages)
        return QueueCounts(visible, len(self.messages) - visible, 0)

    def requests(self) -> list[tuple[str, int]]:
        """Return image and attempt of each request that was sent."""
        sent = [RequestMessage.from_json(each.body) for each in self.sent]
        return [(request.image_id, request.attempt) for request in sent]
