"""One stage of the pipeline: threads that take from a channel and do their step, until there is nothing more."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from app_tier.task import Task

T = TypeVar("T")
Tasks = Sequence[Task[T]]


class Stage(Generic[T]):
    """Threads that repeat one step until there is nothing more to take.

    Args:
        name: of the threads.
        threads: how many.
        take: waits for the next tasks; an empty sequence ends the thread.
        step: does the work and passes it on; must not raise (`app_tier.recovery.Step`).
    """

    def __init__(
        self, name: str, threads: int, take: Callable[[], Tasks[T]], step: Callable[[Tasks[T]], None]
    ) -> None:
        self._take, self._step = take, step
        # Daemons: a thread that hangs in a decoder must not keep the process alive.
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for all threads to end; tell whether they have."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while tasks := self._take():
            self._step(tasks)
