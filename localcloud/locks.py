"""Locks that the kernel releases with the process that holds them, however it ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class LockHeldError(RuntimeError):
    """Raised when another process holds the lock; the message names its file."""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file for as long as the block runs.

    Raises:
        LockHeldError: another process holds it.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeldError(f"{path} is locked by another process; end that first") from None
        yield


def is_held(path: Path) -> bool:
    """Return True if a process holds the lock of a file."""
    if not path.exists():
        return False
    try:
        with held(path):
            return False
    except LockHeldError:
        return True
