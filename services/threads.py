"""Daemon threads with a start that ends, also in a process that has no memory for them."""

import _thread
import threading
from collections.abc import Callable

BEGIN_SECONDS = 10.0
"""Maximum time until a new thread begins, on a busy machine."""


class DaemonThread(threading.Thread):
    """A daemon thread that calls `run` with `args`.

    A thread needs memory before its first line. Without it the thread dies, and the start of `threading.Thread`
    waits for it for ever. Here that wait is in a thread of its own.
    """

    def __init__(self, run: Callable[..., object], *args: object, name: str) -> None:
        super().__init__(target=run, args=args, name=name, daemon=True)
        self._has_begun, self._first_claim = threading.Event(), threading.Lock()

    def start(self) -> None:
        """Start the thread and wait up to `BEGIN_SECONDS` until it has begun; a later begin does nothing.

        Raises:
            RuntimeError: the system has no more threads.
            MemoryError: the thread has not begun.
        """
        _thread.start_new_thread(super().start, ())
        if not self._has_begun.wait(BEGIN_SECONDS) and self._first_claim.acquire(blocking=False):
            raise MemoryError(f"there is no memory for the thread {self.name!r}")

    def run(self) -> None:
        """Call the function, unless the start has failed."""
        if self._first_claim.acquire(blocking=False):
            self._has_begun.set()
            super().run()
