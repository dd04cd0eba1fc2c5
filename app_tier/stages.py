"""The stages of a pipeline: threads that do one kind of work, and the bounded channels between them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from app_tier.recovery import Step, StepRecovery
from app_tier.task import Task
from core.messages import Failure
from services.clock import CLOCK, Clock
from services.threads import DaemonThread

T = TypeVar("T")

Tasks = Sequence[Task[T]]

_log = logging.getLogger(__name__)


class ChannelClosedError(Exception):
    """Raised when an item is added to a closed channel; producers must end before it is closed."""


class Channel(Generic[T]):
    """A first-in, first-out queue of at most `bound` items that can be closed.

    A full channel makes the stage before it wait, so memory cannot grow. Its waits have no time-out. They end when
    the pipeline closes the channel, and an image that hangs meanwhile is dropped by the visibility extender.

    Items with priority overtake the others, and wait for no room: `InFlightMessages` bounds their number. While both
    wait, they take turns: however many items with priority come, the others are taken.
    """

    def __init__(self, bound: int, has_priority: Callable[[T], bool] = lambda _item: False) -> None:
        self._bound, self._has_priority = bound, has_priority
        self._first: deque[T] = deque()
        self._items: deque[T] = deque()
        self._has_overtaken = False
        lock = threading.Lock()
        # Two conditions, so that each item wakes one thread and not all that wait.
        self._filled, self._freed = threading.Condition(lock), threading.Condition(lock)
        self._closed = False

    def __len__(self) -> int:
        """Return the number of waiting items."""
        return len(self._first) + len(self._items)

    def enqueue(self, item: T) -> None:
        """Append `item`, waiting while the channel is full unless it has priority.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        has_priority = self._has_priority(item)
        with self._freed:
            self._freed.wait_for(lambda: self._closed or has_priority or len(self._items) < self._bound)
            if self._closed:
                raise ChannelClosedError
            (self._first if has_priority else self._items).append(item)
            self._filled.notify()

    def dequeue(self, wait_seconds: float | None = None) -> T | None:
        """Remove and return the first item; None after `wait_seconds`, or if the channel is closed and empty."""
        with self._filled:
            self._filled.wait_for(lambda: self._first or self._items or self._closed, wait_seconds)
            if self._first and not (self._items and self._has_overtaken):
                self._has_overtaken = True
                return self._first.popleft()
            if not self._items:
                return None
            self._has_overtaken = False
            self._freed.notify()
            return self._items.popleft()

    def dequeue_batch(
        self,
        max_items: int,
        wait_seconds: float,
        more_to_come: Callable[[int], bool],
        clock: Clock = CLOCK,
    ) -> list[T]:
        """Wait for one item, then remove and return it with those that follow, up to `max_items` in all.

        An item with priority is a batch of its own, since a larger one would take longer.

        Args:
            max_items: size of a full batch.
            wait_seconds: how long the first item waits for the others.
            more_to_come: returns whether waiting can help, given how many were removed; waiting items are removed in
                any case.
            clock: measures the wait.

        Returns:
            The batch; empty once the channel is closed and empty.
        """
        first = self.dequeue()
        if first is None:
            return []
        batch = [first]
        if self._has_priority(first):
            return batch
        deadline = clock.monotonic() + wait_seconds
        while len(batch) < max_items:
            wait = max(0.0, deadline - clock.monotonic()) if more_to_come(len(batch)) else 0.0
            following = self.dequeue(wait)
            if following is None:
                break
            batch.append(following)
        return batch

    def drain(self) -> list[T]:
        """Remove and return all items."""
        with self._freed:
            items = [*self._first, *self._items]
            self._first.clear()
            self._items.clear()
            self._freed.notify_all()
            return items

    def close(self) -> None:
        """Accept no more items; waiting ones can still be taken."""
        with self._filled:
            self._closed = True
            self._filled.notify_all()
            self._freed.notify_all()


@dataclass(frozen=True)
class Stage(Generic[T]):
    """One stage: a row of the pipeline's table.

    Attributes:
        name: of the stage, its step and its threads.
        max_threads: how many threads do its work at once, at most.
        inbox: where the tasks of this stage wait.
        work: does the work for a batch and passes its tasks on; `app_tier.recovery` decides what follows an error.
        batch_size: tasks in a batch, at most.
        batch_wait_seconds: how long the first task of a batch waits for others.
        split: divides a batch into those for which `work` is called.
        check: does the same work for a batch without any image, if possible; raises if it fails.
    """

    name: str
    max_threads: int
    inbox: Channel[Task[T]]
    work: Callable[[Tasks[T]], None]
    batch_size: int = 1
    batch_wait_seconds: float = 0.0
    split: Callable[[Tasks[T]], Sequence[Tasks[T]]] = lambda batch: (batch,)
    check: Callable[[Tasks[T]], object] | None = None


class StageThreads(Generic[T]):
    """Threads that repeat the work of one stage until its inbox is closed and empty.

    A thread that has something to do for the first time starts the next one, so there is always one that waits, up to
    their number. Starting all of them at once would delay the first image by some 20 ms.

    `refuse` and `postpone` pass on a task that cannot be done, ever or now, as for `Step`.
    """

    def __init__(
        self,
        stage: Stage[T],
        refuse: Callable[[Task[object], Failure], None],
        postpone: Callable[[Task[object]], None],
        recovery: StepRecovery,
    ) -> None:
        self.stage, self._in_flight = stage, recovery.in_flight
        self._step: Step[T] = Step(stage.name, stage.work, refuse, postpone, recovery, stage.check)
        self._threads: list[DaemonThread] = []

    def start(self) -> None:
        """Start the first thread."""
        self._start(0)

    def stop(self, seconds: float) -> bool:
        """Close the inbox and wait up to `seconds` for all threads to end; return whether they have."""
        self.stage.inbox.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:  # also those that are started meanwhile
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def next_batch(self) -> Tasks[T]:
        """Wait for the next batch and return it; an empty one once the inbox is closed and empty."""
        stage = self.stage
        return stage.inbox.dequeue_batch(
            stage.batch_size, stage.batch_wait_seconds, lambda size: self._in_flight.started > size
        )

    def process(self, batch: Tasks[T]) -> None:
        """Do the work for a batch; an error of it is recovered from, never raised."""
        for tasks in self.stage.split(batch):
            self._step(tasks)

    def _start(self, number: int) -> None:
        # A daemon: a thread that hangs in a decoder must not keep the process alive.
        thread = DaemonThread(self._run, number, name=f"{self.stage.name}-{number}")
        thread.start()
        self._threads.append(thread)

    def _run(self, number: int) -> None:
        is_last = number + 1 == self.stage.max_threads
        while batch := self.next_batch():
            if not is_last:
                is_last = True
                try:
                    self._start(number + 1)
                except (RuntimeError, MemoryError) as error:  # the others go on
                    _log.warning("a stage has fewer threads", extra={"stage": self.stage.name, "error": str(error)})
            self.process(batch)
            del batch  # or a thread that waits would keep the model of its last image in memory
