"""The pipeline: fetch, decode, classify, publish, with bounded channels between them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.answered import report_answered
from app_tier.bundle import EngineError
from app_tier.cancellation import CancelledJobs
from app_tier.classify import Classifier, check
from app_tier.decode import Decoder, Pixels, decode
from app_tier.engines import LoadedModel
from app_tier.models import LoadedModels
from app_tier.recovery import FatalError, Step, StepRecovery, classify_error
from app_tier.sizing import Sizing
from app_tier.storage import answered_before, delete, fetch, refuse, respond, store
from app_tier.task import Task
from core.images import ImageLimits
from core.messages import CANCELLED, ClassificationResult, Failure, Prediction, crashed_worker
from core.telemetry import NO_SPANS, SpanExporter
from services.errors import NotFoundError
from services.s3 import Bucket
from services.sqs import BATCH, Queue

RESPONSE_WAIT_SECONDS = 0.02
"""How long a response waits for others: a batch of ten costs as much as one, and users do not notice the delay."""

JOIN_SECONDS = 2.0

T = TypeVar("T")

Tasks = Sequence[Task[T]]

_log = logging.getLogger(__name__)


class ChannelClosedError(Exception):
    """Raised when an item is put into a closed channel; producers must end before it is closed."""


class Channel(Generic[T]):
    """A first-in, first-out queue of at most `bound` items that can be closed.

    A full channel makes the stage before it wait, so memory cannot grow. Its waits have no time-out. They end when
    the pipeline closes the channel, and an image that hangs meanwhile is dropped by the visibility extender.

    Items with priority overtake the others, and wait for no room: `InFlightMessages` bounds their number. While both
    wait, they take turns: however many items with priority come, the others are taken.
    """

    def __init__(self, bound: int, has_priority: Callable[[T], bool] = lambda _item: False) -> None:
        self._bound, self.has_priority = bound, has_priority
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

    def put(self, item: T) -> None:
        """Append `item`, waiting while the channel is full unless it has priority.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        has_priority = self.has_priority(item)
        with self._freed:
            self._freed.wait_for(lambda: self._closed or has_priority or len(self._items) < self._bound)
            if self._closed:
                raise ChannelClosedError
            (self._first if has_priority else self._items).append(item)
            self._filled.notify()

    def get(self, wait_seconds: float | None = None) -> T | None:
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


class Stage(Generic[T]):
    """Threads that repeat one step until there is nothing more to take.

    A thread that has something to do for the first time starts the next one, so there is always one that waits, up to
    their number. Starting all of them at once would delay the first image by some 20 ms.

    Args:
        name: of the threads.
        threads: how many, at most.
        take: waits for the next tasks and returns them; an empty sequence ends the thread.
        step: does the work and passes the tasks on; it must not raise (`app_tier.recovery.Step`).
    """

    def __init__(
        self, name: str, threads: int, take: Callable[[], Tasks[T]], step: Callable[[Tasks[T]], None]
    ) -> None:
        self._name, self._max_threads, self._take, self._step = name, threads, take, step
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the first thread."""
        self._start(0)

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for all threads to end; return whether they have."""
        deadline = time.monotonic() + seconds
        for thread in self._threads:  # also those that are started meanwhile
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _start(self, number: int) -> None:
        # A daemon: a thread that hangs in a decoder must not keep the process alive.
        thread = threading.Thread(target=self._run, args=(number,), name=f"{self._name}-{number}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, number: int) -> None:
        is_last = number + 1 == self._max_threads
        while tasks := self._take():
            if not is_last:
                is_last = True
                try:
                    self._start(number + 1)
                except RuntimeError as error:  # the system has no more threads: the others go on
                    _log.warning("a stage has fewer threads", extra={"stage": self._name, "error": str(error)})
            self._step(tasks)
            del tasks  # or a thread that waits would keep the model of its last image in memory


def take_batch(
    channel: Channel[T],
    most: int,
    wait_seconds: float,
    more_to_come: Callable[[int], bool],
    clock: Callable[[], float] = time.monotonic,
) -> list[T]:
    """Wait for one item, then take those that follow: up to `most` in all, for up to `wait_seconds`.

    An item with priority is a batch of its own, since a larger one would take longer.

    Args:
        channel: source of the items.
        most: size of a full batch.
        wait_seconds: how long the first item waits for the others.
        more_to_come: returns whether waiting can help, given how many were taken; waiting items are taken in any
            case.
        clock: monotonic seconds.

    Returns:
        The batch; empty once the channel is closed and empty.
    """
    first = channel.get()
    if first is None:
        return []
    batch = [first]
    if channel.has_priority(first):
        return batch
    deadline = clock() + wait_seconds
    while len(batch) < most:
        wait = max(0.0, deadline - clock()) if more_to_come(len(batch)) else 0.0
        following = channel.get(wait)
        if following is None:
            break
        batch.append(following)
    return batch


def by_model(tasks: Tasks[Pixels]) -> list[Tasks[Pixels]]:
    """Return `tasks` as batches of one model each, none larger than the model's."""
    first = tasks[0].model
    if len(tasks) <= first.batch_size and all(task.model is first for task in tasks):
        return [tasks]
    groups: dict[LoadedModel, list[Task[Pixels]]] = {}
    for task in tasks:
        groups.setdefault(task.model, []).append(task)
    return [
        group[start : start + model.batch_size]
        for model, group in groups.items()
        for start in range(0, len(group), model.batch_size)
    ]


def _has_priority(task: Task[object]) -> bool:
    return task.delivery.has_priority


@dataclass(frozen=True)
class Services:
    """The queues and buckets that a worker uses, and where its spans go."""

    requests: Queue
    responses: Queue
    inputs: Bucket
    outputs: Bucket
    spans: SpanExporter = NO_SPANS


class Pipeline:
    """All stages after the receive; `answered` is the number of images with a sent response."""

    def __init__(
        self,
        sizing: Sizing,
        services: Services,
        classifier: Classifier,
        models: LoadedModels,
        limits: ImageLimits,
        recovery: StepRecovery,
        *,
        decoder: Decoder,
        max_tries: int,
    ) -> None:
        self._services, self._classifier, self._limits = services, classifier, limits
        self._cancelled = CancelledJobs(services.inputs)
        self._in_flight, self._recovery, self._decoder = recovery.in_flight, recovery, decoder
        self._max_tries, in_flight = max_tries, recovery.in_flight
        self.answered = 0
        self._to_fetch: Channel[Task[None]] = Channel(in_flight.capacity, _has_priority)
        # Whole files wait here: as few as keep the decoders busy.
        self._to_decode: Channel[Task[bytes]] = Channel(2 * sizing.decode_threads, _has_priority)
        self._to_classify: Channel[Task[Pixels]] = Channel(2 * sizing.streams * sizing.batch_size, _has_priority)
        self._to_store: Channel[Task[Prediction]] = Channel(in_flight.capacity, _has_priority)
        self._to_respond: Channel[Task[ClassificationResult]] = Channel(in_flight.capacity, _has_priority)
        self._models = models
        models.resume, models.refuse = self._resume, self._refuse
        classify = self._step("classify", self._classify, lambda tasks: check(tasks[0].model))

        def classify_each(tasks: Tasks[Pixels]) -> None:
            for batch in by_model(tasks):
                classify(batch)

        answer: Step[ClassificationResult] = self._step("respond", self._respond)
        next_batch = partial(
            take_batch, self._to_classify, sizing.batch_size, sizing.batch_wait_seconds, self._more_than
        )
        next_responses = partial(take_batch, self._to_respond, BATCH, RESPONSE_WAIT_SECONDS, self._more_than)
        self._stages = (
            (self._to_fetch, self._each("fetch", sizing.fetch_threads, self._to_fetch, self._fetch)),
            (self._to_decode, self._each("decode", sizing.decode_threads, self._to_decode, self._decode)),
            (self._to_classify, Stage("classify", sizing.streams, next_batch, classify_each)),
            (self._to_store, self._each("store", sizing.publish_threads, self._to_store, self._store)),
            (self._to_respond, Stage("respond", 1, next_responses, answer)),
        )

    # Life

    def start(self) -> None:
        """Start every stage."""
        for _, stage in self._stages:
            stage.start()

    def submit(self, task: Task[None]) -> None:
        """Pass an image to the first stage; if its request has no try left, answer it with a failure."""
        tries = task.delivery.tries
        if tries > self._max_tries:
            self._refuse(task, crashed_worker(tries - 1))
        else:
            self._to_fetch.put(task)

    def _resume(self, task: Task[None]) -> None:
        """Pass an image that has waited for its model to the first stage, or let the receiver do it."""
        if self._in_flight.resume(task):
            self._to_fetch.put(task)
        elif self._recovery.lifetime.over:  # and the receiver with it
            self._recovery.extender.give_back([task.delivery])

    def give_back_waiting(self) -> None:
        """Give back the deliveries that no stage has started, or that wait for a model; load no more models."""
        self._models.end()
        unstarted = [task.delivery for task in self._to_fetch.drain()]
        self._recovery.extender.give_back([*self._in_flight.outside(), *unstarted])

    def stop(self) -> bool:
        """End the stages, first to last; return False if a thread hangs, or loads a model."""
        ended = True
        for channel, stage in self._stages:
            channel.close()
            ended = stage.join(JOIN_SECONDS if ended else 0) and ended
        return ended and not self._models.is_loading

    # Stages

    def _each(self, name: str, threads: int, inbox: Channel[Task[T]], step: Callable[[Task[T]], None]) -> Stage[T]:
        """Return a stage that takes one task at a time."""

        def take() -> Sequence[Task[T]]:
            task = inbox.get()
            return () if task is None else (task,)

        of_one: Step[T] = self._step(name, lambda tasks: step(tasks[0]))
        return Stage(name, threads, take, of_one)

    def _step(
        self, name: str, do: Callable[[Tasks[T]], None], check: Callable[[Tasks[T]], None] | None = None
    ) -> Step[T]:
        return Step(name, do, self._refuse, self._recovery, check)

    def _fetch(self, task: Task[None]) -> None:
        # The worker of an earlier delivery may have died between storing the prediction and deleting the request.
        if task.delivery.redelivered and (answer := answered_before(task, self._services.outputs)):
            self._to_respond.put(answer)
            return
        if self._cancelled.has(task.delivery.request.job_id):
            self._refuse(task, CANCELLED)
            return
        admitted = task if task.assigned is not None else self._models.admit(task)
        if admitted is None:
            return
        if task.delivery.redelivered:
            # It may end the worker, which would cost them a try without one of their own.
            self._recovery.extender.give_back(self._in_flight.ahead_of(task.delivery))
        try:
            self._to_decode.put(fetch(admitted, self._services.inputs, self._limits))
        except NotFoundError:
            if (answer := answered_before(task, self._services.outputs)) is None:
                raise
            self._to_respond.put(answer)

    def _decode(self, task: Task[bytes]) -> None:
        spec = task.model.bundle.manifest.preprocess
        self._to_classify.put(decode(task, spec, self._limits, self._decoder))

    def _classify(self, tasks: Sequence[Task[Pixels]]) -> None:
        try:
            answers = self._classifier.classify(tasks)
        except EngineError as error:
            if not self._models.release_broken(tasks[0].model):
                raise
            _log.warning("a model failed", extra={"images": len(tasks), "error": str(error)}, exc_info=error)
            self._recovery.extender.leave([task.delivery for task in tasks])
            return
        for task in answers:
            self._to_store.put(task)

    def _store(self, task: Task[Prediction]) -> None:
        self._to_respond.put(store(task, self._services.outputs))

    def _respond(self, tasks: Sequence[Task[ClassificationResult]]) -> None:
        answered = respond(tasks, self._services.responses)
        # A worker has not proven itself by the work of an earlier one. This stage has one thread.
        self.answered += sum(not task.payload.repeated for task in tasks if task.delivery in answered)
        try:
            delete(answered, self._services.requests)
        except (BotoCoreError, ClientError) as error:
            # They are answered: a request that was not deleted is received again and changes nothing.
            _log.warning("requests were not deleted", extra={"messages": len(answered), "error": str(error)})
            if isinstance(fault := classify_error(error), FatalError):
                self._recovery.lifetime.fail(fault.reason)
        for delivery in answered:
            self._in_flight.remove(delivery)
        report_answered([task for task in tasks if task.delivery in answered], self._services.spans)
        self._recovery.extender.leave([task.delivery for task in tasks if task.delivery not in answered])

    def _more_than(self, taken: int) -> bool:
        return self._in_flight.started > taken

    def _refuse(self, task: Task[object], failure: Failure) -> None:
        self._to_store.put(refuse(task, failure, self._classifier.worker))
