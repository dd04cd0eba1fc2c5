"""A limit for the bytes of images in memory: while requests are read, and until the images are stored."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from services.errors import FleetsightError

WAIT_SECONDS = 60.0
"""Seconds that a thread waits for memory."""


class BusyError(FleetsightError):
    """Raised when no memory became free in `WAIT_SECONDS`, because clients send or the bucket stores too slowly."""


class MemoryLimiter:
    """A number of bytes that threads share: a thread that needs more than is free waits, which slows its client."""

    def __init__(self, capacity: int) -> None:
        self._capacity = self._free = capacity
        self._changed = threading.Condition()

    def acquire(self, size: int, wait_seconds: float = WAIT_SECONDS) -> None:
        """Acquire `size` bytes, waiting until they are free; more than the capacity is acquired alone.

        Raises:
            BusyError: they did not become free.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= min(size, self._capacity), wait_seconds):
                raise BusyError(f"no room for {size} bytes after {wait_seconds:g} s; try again later")
            self._free -= size

    def try_acquire(self, size: int) -> bool:
        """Acquire `size` bytes if they are free; return whether they were."""
        with self._changed:
            is_free = self._free >= min(size, self._capacity)
            self._free -= size if is_free else 0
            return is_free

    def release(self, size: int) -> None:
        """Release acquired bytes."""
        with self._changed:
            self._free += size
            self._changed.notify_all()

    @contextmanager
    def acquired(self, size: int) -> Iterator[None]:
        """Hold `size` bytes while the context lasts.

        Raises:
            BusyError: they did not become free.
        """
        self.acquire(size)
        try:
            yield
        finally:
            self.release(size)
