"""Memory of a web process: limits the bytes of images in it, and returns their memory to the system.

The controller, too, collects garbage as `collect_less_often` says.

A limiter bounds images while requests are read, and until the images are stored.

glibc returns freed large blocks to the system, but once it has seen one freed it keeps blocks of that
size (https://man7.org/linux/man-pages/man3/mallopt.3.html), in an arena for every few threads. Measured with 300
images of 1.2 MB at once in two processes: 387 MB at the peak and 285 MB afterwards without these settings, 253 and
150 MB with them.
"""

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from services.errors import FleetsightError
from services.threads import DaemonThread

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h

LARGE_BYTES = 256 * 1024
"""Freed blocks of at least this size are returned to the system."""

ARENAS = 4

COLLECT_AFTER = 20_000
"""Number of new objects after which the interpreter collects garbage. Most requests leave no cycles. With the default
of 700, collections took a tenth of a process's CPU time."""

WAIT_SECONDS = 60.0
"""Maximum time for which a request waits until a limiter has memory."""

RECLAIM_SECONDS = 1.0
"""Time after which a request that waits for memory reclaims what others keep without need."""


def return_freed_memory() -> None:
    """Configure glibc's allocator for this process and its children; does nothing with another C library."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_ARENA_MAX, ARENAS)


def collect_less_often() -> None:
    """Collect garbage after `COLLECT_AFTER` new objects, and never the objects of the present, such as modules."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def is_exhausted() -> bool:
    """Return True if this process has no memory for one more thread, which every upload needs."""
    try:
        DaemonThread(lambda: None, name="probe").start()
    except (RuntimeError, MemoryError):
        return True
    return False


class BusyError(FleetsightError):
    """Raised when no memory became free in `WAIT_SECONDS`, because clients send or the bucket stores too slowly."""


class MemoryLimiter:
    """A number of bytes that threads share: a thread that needs more than is free waits, which slows its client."""

    def __init__(self, capacity: int) -> None:
        self._capacity = self._free = capacity
        self._changed = threading.Condition()

    def acquire(
        self, size: int, wait_seconds: float = WAIT_SECONDS, reclaim: Callable[[], None] = lambda: None
    ) -> None:
        """Acquire `size` bytes, waiting until they are free; more than the capacity is acquired alone.

        `reclaim` is called each `RECLAIM_SECONDS` meanwhile; it may have others release theirs.

        Raises:
            BusyError: they did not become free.
        """
        left = wait_seconds
        while not self._acquire_within(min(left, RECLAIM_SECONDS), size):
            left -= RECLAIM_SECONDS
            if left <= 0:
                raise BusyError(f"no room for {size} bytes after {wait_seconds:g} s; try again later")
            reclaim()

    def _acquire_within(self, seconds: float, size: int) -> bool:
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= min(size, self._capacity), seconds):
                return False
            self._free -= size
            return True

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
