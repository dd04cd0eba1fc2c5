"""The order in which a FIFO queue delivers: its groups in turn, and the messages of a group in order."""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic

from localcloud.sqs.messages import MessageState, Payload, StoredMessage


@dataclass(slots=True)
class FifoGroup(Generic[Payload]):
    """The messages of a group in order, and the number of them in flight."""

    messages: "deque[StoredMessage[Payload]]" = field(default_factory=deque)
    in_flight: int = 0


class FifoOrder(Generic[Payload]):
    """The messages of a FIFO queue; the caller holds the queue's lock.

    A group gives no message while some that an earlier receive has returned are in flight.
    """

    def __init__(self) -> None:
        self._groups: dict[str, FifoGroup[Payload]] = {}
        self._ready: OrderedDict[str, None] = OrderedDict()

    def record_sent(self, message: StoredMessage[Payload]) -> None:
        """Add a new message."""
        self._groups.setdefault(_group_of(message), FifoGroup()).messages.append(message)

    def record_move(self, message: StoredMessage[Payload], before: MessageState) -> bool:
        """Count a message after a change of its state; return whether one of its group can be received now."""
        name = _group_of(message)
        group, is_in_flight = self._groups[name], message.state is MessageState.IN_FLIGHT
        group.in_flight += is_in_flight - (before is MessageState.IN_FLIGHT)
        if message.state is MessageState.DELETED:
            group.messages.remove(message)
        if not group.messages:
            del self._groups[name]
            self._ready.pop(name, None)
            return False
        is_ready = not group.in_flight and group.messages[0].state is MessageState.VISIBLE
        if is_ready:
            self._ready.setdefault(name)
        return is_ready

    def pop(self) -> StoredMessage[Payload] | None:
        """Return the next message to receive, if there is one; it stays that until its state changes."""
        while self._ready:
            group = self._groups[next(iter(self._ready))]
            message = next((each for each in group.messages if each.state is not MessageState.IN_FLIGHT), None)
            if message is not None and message.state is MessageState.VISIBLE:
                return message
            self._ready.popitem(last=False)
        return None

    def messages(self) -> Iterator[StoredMessage[Payload]]:
        """Yield every message that is not deleted."""
        return chain.from_iterable(group.messages for group in self._groups.values())

    def end_receive(self, received: Iterable[StoredMessage[Payload]]) -> None:
        """Give no more messages of the groups of a receive until these are deleted or visible again."""
        for message in received:
            self._ready.pop(_group_of(message), None)


def _group_of(message: StoredMessage[Payload]) -> str:
    return message.group or ""
