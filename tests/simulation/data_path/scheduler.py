"""Processes that take turns: each runs up to its next call of a service, and any other may run before that call.

Every task is a greenlet, so that the product's own code runs as it is, and a random seed decides all turns.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from types import TracebackType
from typing import Any, Final

from greenlet import getcurrent, greenlet

EPOCH: Final = datetime(2026, 3, 1, tzinfo=UTC)
"""The time of day at which the virtual clock begins."""

MAX_BURST: Final = 12
"""Calls that a task makes in a row before another may have its turn."""

MAX_TURNS: Final = 5_000
"""Turns of one round; more mean that a task never waits."""


class KilledError(BaseException):
    """Raised inside a process that was killed: no further call of it takes place."""


@dataclass(eq=False)
class Process:
    """One process of the system; a frozen one resumes later as if nothing had happened."""

    name: str
    kind: str
    alive: bool = True
    frozen: bool = False
    was_away: bool = False
    """Whether it was frozen for longer than the mark of a deleted job stays."""

    def check(self) -> None:
        """Raise KilledError if the process is dead."""
        if not self.alive:
            raise KilledError


@dataclass(eq=False)
class Task:
    """One thread of a process; `wakes_at` in seconds, `waits_for` a lock that another task holds."""

    process: Process
    name: str
    greenlet: Any
    wakes_at: float = 0.0
    waits_for: "TaskLock | None" = None

    def is_due(self, now: float) -> bool:
        """Return whether it can run at `now`."""
        return (
            self.wakes_at <= now
            and not self.process.frozen
            and (self.waits_for is None or self.waits_for.holder is None)
        )


@dataclass
class Scheduler:
    """Runs tasks in turns; `now` is in seconds."""

    random: Random
    now: float = 0.0
    rounds: int = 0
    calls: int = 0
    tasks: list[Task] = field(default_factory=list)
    _current: Task | None = None
    _burst: int = 0

    def clock(self) -> float:
        """Return the seconds."""
        return self.now

    @property
    def process(self) -> Process | None:
        """The process that is running now, or None outside any task."""
        return self._current.process if self._current else None

    def spawn(self, process: Process, name: str, function: Callable[[], object]) -> Task:
        """Add a task, which begins with the next round."""

        def run() -> None:
            with suppress(KilledError):
                function()

        task = Task(process, name, greenlet(run), self.now)
        self.tasks.append(task)
        return task

    def before_call(self) -> None:
        """Let other tasks have their turn, perhaps; to be called before each call of a service."""
        self.calls += 1
        if self._current is None:
            return
        self._burst -= 1
        if self._burst <= 0:
            self._switch()
        self._current.process.check()

    def sleep(self, seconds: float) -> None:
        """Let so many seconds pass for this task; at least until the next round."""
        if self._current is None:
            return
        self._current.wakes_at = self.now + max(seconds, 0.01)
        self._switch()
        self._current.process.check()

    def stand_still(self) -> None:
        """Let other tasks run until this task's process, which is frozen, resumes."""
        assert self._current is not None
        self._switch()
        self._current.process.check()

    def wait_for(self, lock: "TaskLock") -> None:
        """Let other tasks run until `lock` is free."""
        assert self._current is not None
        self._current.waits_for = lock
        self._switch()
        self._current.waits_for = None
        self._current.process.check()

    def round(self) -> None:
        """Let every task that is due run until it sleeps."""
        self.rounds += 1
        for _ in range(MAX_TURNS):
            ready = [task for task in self.tasks if task.is_due(self.now)]
            if not ready:
                return
            task = self.random.choice(ready)
            self._resume(task)
            if task.greenlet.dead and task in self.tasks:
                self.tasks.remove(task)
        raise AssertionError(f"tasks never wait: {sorted({task.name for task in self.tasks})}")

    def kill(self, process: Process) -> None:
        """End a process at once, wherever it is."""
        process.alive = False
        for task in [each for each in self.tasks if each.process is process]:
            if task.greenlet.gr_frame is not None and task is not self._current:
                before, self._current = self._current, task
                task.greenlet.parent = getcurrent()
                task.greenlet.throw(KilledError)
                self._current = before
            self.tasks.remove(task)

    def _resume(self, task: Task) -> None:
        self._current, self._burst = task, self.random.randint(1, MAX_BURST)
        task.greenlet.parent = getcurrent()
        try:
            task.greenlet.switch()
        finally:
            self._current = None

    def _switch(self) -> None:
        getcurrent().parent.switch()


class TaskLock:
    """A reentrant lock between tasks, in place of a lock between threads."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._depth = scheduler, 0
        self.holder: object = None

    def __enter__(self) -> None:
        """Acquire it, waiting while another task holds it."""
        while self.holder is not None and self.holder is not getcurrent():
            self._scheduler.wait_for(self)
        self.holder, self._depth = getcurrent(), self._depth + 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self._depth -= 1
        if not self._depth:
            self.holder = None
