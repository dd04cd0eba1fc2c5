"""How many bytes of images may be in memory at once: while requests are read, and on the way to the input bucket."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.errors import FleetsightError

WAIT_SECONDS = 60.0


class BusyError(FleetsightError):
    """Raised when clients send, or the input bucket takes, so slowly that no memory came free in `WAIT_SECONDS`."""


class MemoryLimiter:
    """A bound that many threads share: who wants more than is free waits, which in turn slows its client down."""

    def __init__(self, capacity: int) -> None:
        self._capacity = self._free = capacity
        self._changed = threading.Condition()

    def take(self, size: int, wait_seconds: float = WAIT_SECONDS) -> None:
        """Take `size` bytes, waiting until they are free; more than there are in all is taken alone.

        Raises:
            BusyError: when they did not come free.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= min(size, self._capacity), wait_seconds):
                raise BusyError(f"no room for {size} bytes after {wait_seconds:g} s; try again later")
            self._free -= size

    def take_now(self, size: int) -> bool:
        """Take `size` bytes if they are free; tell whether they were."""
        with self._changed:
            is_free = self._free >= min(size, self._capacity)
            self._free -= size if is_free else 0
            return is_free

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._free += size
            self._changed.notify_all()

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Take `size` bytes for as long as the context lasts.

        Raises:
            BusyError: when they did not come free.
        """
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)
