"""The bounded queue between two stages: a full one makes the stage before it wait, so memory cannot grow."""

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ChannelClosedError(Exception):
    """Raised when something is put into a channel that has been closed; producers must end before it is closed."""


class Channel(Generic[T]):
    """A first-in, first-out queue of at most `bound` items that can be closed.

    Its waits have no time-out of their own. They end when the channel is closed, which the pipeline does at its end
    in each case, and what stands still in the meantime is ended by the extender's bound for each image.
    """

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._items: deque[T] = deque()
        lock = threading.Lock()
        # Two conditions, so that each item wakes one thread and not all that wait.
        self._filled, self._freed = threading.Condition(lock), threading.Condition(lock)
        self._closed = False

    def __len__(self) -> int:
        """Count the items that wait."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Append `item`, waiting while the channel is full.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        with self._freed:
            self._freed.wait_for(lambda: self._closed or len(self._items) < self._bound)
            if self._closed:
                raise ChannelClosedError
            self._items.append(item)
            self._filled.notify()

    def get(self, wait_seconds: float | None = None) -> T | None:
        """Take the first item, waiting for it; None once the wait is over, or the channel is closed and empty."""
        with self._filled:
            self._filled.wait_for(lambda: self._items or self._closed, wait_seconds)
            if not self._items:
                return None
            self._freed.notify()
            return self._items.popleft()

    def drain(self) -> list[T]:
        """Take everything that waits."""
        with self._freed:
            items = list(self._items)
            self._items.clear()
            self._freed.notify_all()
            return items

    def close(self) -> None:
        """Take no more; what waits can still be taken."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._freed.notify_all()
