"""The visible messages of a tenant of a standard queue; of many, most are in the temporary files."""

import heapq
import pickle  # nosec B403 (reads only what this process has written)
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Any, Generic

from localcloud.sqs.messages import MessageState, Payload, StoredMessage
from localcloud.temporary import StoredContent

MAX_BLOCK_MESSAGES = 1_000
"""Largest number of messages in a block of the temporary files; to read one takes 2 ms."""

MIN_BLOCK_MESSAGES = 20
"""Smallest number of messages in a block, each of which costs 0.1 ms to write and read, however small it is."""


class Backlog(Generic[Payload]):
    """The visible messages of a tenant by their positions.

    Memory has the first and the last ones. The others are in blocks in the temporary files, except those that were
    received before: their receipt handles are valid, so that they may be deleted at any time.
    """

    __slots__ = ("_blocks", "_first", "_last", "_received")

    def __init__(self) -> None:
        self._received: list[tuple[int, StoredMessage[Payload]]] = []  # a heap by position
        self._first: list[StoredMessage[Payload]] = []  # in reverse
        self._blocks: tuple[StoredContent, ...] = ()
        self._last: list[StoredMessage[Payload]] = []

    def append(self, message: StoredMessage[Payload]) -> None:
        """Add a message that has become visible."""
        if message.receipt is None:
            self._last.append(message)
        else:
            heapq.heappush(self._received, (message.position, message))

    def write_block(self, messages: int) -> None:
        """Write the last messages to a block if memory has about so many; those of a failed write stay."""
        if len(self._last) >= min(max(messages, MIN_BLOCK_MESSAGES), MAX_BLOCK_MESSAGES):
            block = pickle.dumps([_block_fields(each) for each in self._last])
            self._blocks = (*self._blocks, StoredContent.create(block))
            self._last = []

    def peek(self) -> StoredMessage[Payload] | None:
        """Return the next message, if there is one; it stays until `remove`, and its block until it was read."""
        while self._received and self._received[0][1].state is MessageState.DELETED:
            heapq.heappop(self._received)
        if not self._first and self._blocks:
            self._first = _read_block(self._blocks[0])[::-1]
            self._blocks = self._blocks[1:]
        elif not self._first:
            self._first, self._last = self._last[::-1], []
        if self._received and not (self._first and self._first[-1].position < self._received[0][0]):
            return self._received[0][1]
        return self._first[-1] if self._first else None

    def remove(self, message: StoredMessage[Payload]) -> None:
        """Remove the message that `peek` has returned."""
        if self._first and self._first[-1] is message:
            self._first.pop()
        else:
            heapq.heappop(self._received)

    def __iter__(self) -> Iterator[StoredMessage[Payload]]:
        """Yield every message in any order, and some that were deleted."""
        blocks = chain.from_iterable(map(_read_block, self._blocks))
        return chain((message for _, message in self._received), self._first, blocks, self._last)


_block_fields = attrgetter(
    "message_id", "payload", "group", "state", "sent_at", "sequence", "receive_count", "position"
)
"""What a message has that is visible and was never received, in the order of `StoredMessage`."""


def _read_block(block: StoredContent) -> "list[StoredMessage[Any]]":
    fields = pickle.loads(block.read())  # noqa: S301  # nosec B301 (this process has written it)
    return [StoredMessage(*each) for each in fields]
