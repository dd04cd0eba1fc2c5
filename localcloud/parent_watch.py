"""The processes of a cloud end with the command that started them, also when it is killed by kill -9.

Only the command holds the write end of a pipe, the lifeline: when the command ends, every reader sees the end of the
pipe. A parent-death signal is not enough: it follows the thread that started the process, and a hypervisor may die
while its instances live on. The read end is inherited by number through any chain of processes.

The guard outlives the hypervisor and ends the instances when the lifeline ends. It holds nothing but the lifeline and
a lock in the state directory.
"""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from localcloud.machines.machine import end_all


class Lifeline:
    """Both ends of the pipe, in the command; the other processes end with it.

    The write end is not inherited through exec; a process that is forked without exec must close it.
    """

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()

    def cut(self) -> None:
        """Close both ends, so that every process that watches the lifeline ends."""
        for end in (self._write_end, self.read_end):
            try:
                os.close(end)
            except OSError:
                continue  # already closed


def watch_lifeline(read_end: int, on_end: Callable[[], None]) -> threading.Thread:
    """Start a thread that calls `on_end` when the lifeline ends."""

    def wait() -> None:
        while os.read(read_end, 1):
            pass
        on_end()

    thread = threading.Thread(target=wait, name="lifeline", daemon=True)
    thread.start()
    return thread


class LockHeldError(RuntimeError):
    """Raised when another process holds the lock of a file; the message names the file."""


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a file while the block runs; the kernel releases the lock when the process ends.

    Raises:
        LockHeldError: another process holds the lock.
    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockHeldError(f"{path} is locked by another process; end that first") from None
        yield


def is_locked(path: Path) -> bool:
    """Return True if any process holds the lock of a file."""
    if not path.exists():
        return False
    try:
        with file_lock(path):
            return False
    except LockHeldError:
        return True


HYPERVISOR_LOCK = "hypervisor.lock"

GUARD_LOCK = "guard.lock"

GRACE_SECONDS = 2.0

MAX_SWEEP_SECONDS = 10.0


def guard(state_dir: Path, lifeline: int) -> None:
    """Wait for the end of the lifeline, then end every instance. Returns at once if another guard runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground group
    try:
        with file_lock(state_dir / GUARD_LOCK):
            while os.read(lifeline, 1):
                pass
            _sweep(state_dir)
    except LockHeldError:
        return


def _sweep(state_dir: Path) -> None:
    """End instances until none is left and no hypervisor runs that could start one: the lifeline ends it, too."""
    started = time.monotonic()
    end_all(state_dir, signal.SIGTERM)
    while end_all(state_dir, 0) or is_locked(state_dir / HYPERVISOR_LOCK):
        waited = time.monotonic() - started
        if waited > MAX_SWEEP_SECONDS:
            break
        if waited > GRACE_SECONDS:
            end_all(state_dir, signal.SIGKILL)
        time.sleep(0.05)
    end_all(state_dir, signal.SIGKILL)
