"""A pipe with a write end that only the top command holds: when that ends, by kill -9 too, every reader knows.

A parent-death signal would not do: it follows the thread that started the process, and a hypervisor may die while its
instances live on. The read end is inherited by number through any chain of processes.
"""

import os
import threading
from collections.abc import Callable


class Lifeline:
    """Both ends of the pipe, in the process with which others end.

    The write end is never inherited through exec; a process that is forked without exec must close it.
    """

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()

    def cut(self) -> None:
        """End the lifeline: everybody who watches it ends."""
        for end in (self._write_end, self.read_end):
            try:
                os.close(end)
            except OSError:
                continue  # cut before


def watch(read_end: int, on_end: Callable[[], None]) -> threading.Thread:
    """Call `on_end` in a thread of its own once the lifeline has ended."""

    def wait() -> None:
        while os.read(read_end, 1):
            pass
        on_end()

    thread = threading.Thread(target=wait, name="lifeline", daemon=True)
    thread.start()
    return thread
