"""The pipeline: fetch, decode, classify, publish, with bounded channels between them."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.batch import take_batch
from app_tier.channel import Channel
from app_tier.classify import Classifier
from app_tier.decode import Pixels, Squares, decode
from app_tier.faults import FatalError, meaning_of
from app_tier.fetch import fetch
from app_tier.publish import answered_before, delete, refuse, respond, store
from app_tier.recovery import Recovery, Step
from app_tier.sizing import Sizing
from app_tier.stage import Stage
from app_tier.task import Delivery, Task, begin
from core.image_limits import ImageLimits
from core.messages import Failure, Prediction, Response, crashed_worker
from services.errors import NotFoundError
from services.s3 import Bucket
from services.sqs import BATCH, Queue

RESPONSE_WAIT_SECONDS = 0.02
"""How long a response waits for others: a batch of ten costs as much as one, a person notices nothing."""

JOIN_SECONDS = 2.0

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    """The queues and buckets that a worker uses."""

    requests: Queue
    responses: Queue
    inputs: Bucket
    outputs: Bucket


class Pipeline:
    """All stages after the receive.

    Args:
        sizing: threads and batches.
        services: queues and buckets.
        classifier: the model, for as many threads as there are streams.
        limits: of an image.
        recovery: decides what follows when a step fails.
        squares: decodes.
        max_tries: how often a request is tried.

    Attributes:
        answered: images with a response that was sent, so far.
    """

    def __init__(
        self,
        sizing: Sizing,
        services: Services,
        classifier: Classifier,
        limits: ImageLimits,
        recovery: Recovery,
        *,
        squares: Squares,
        max_tries: int,
    ) -> None:
        self._sizing, self._services, self._classifier, self._limits = sizing, services, classifier, limits
        self._in_hand, self._recovery, self._squares = recovery.in_hand, recovery, squares
        self._max_tries, in_hand = max_tries, recovery.in_hand
        self.answered = 0
        self._to_fetch: Channel[Task[None]] = Channel(in_hand.capacity)
        # Whole files wait here: as few as keep the decoders busy.
        self._to_decode: Channel[Task[bytes]] = Channel(2 * sizing.decode_threads)
        self._to_classify: Channel[Task[Pixels]] = Channel(2 * sizing.streams * sizing.batch_size)
        self._to_store: Channel[Task[Prediction]] = Channel(in_hand.capacity)
        self._to_respond: Channel[Task[Response]] = Channel(in_hand.capacity)
        classify = self._step("classify", self._classify, classifier.check)
        answer: Step[Response] = self._step("respond", self._respond)
        self._stages = (
            (self._to_fetch, self._each("fetch", sizing.fetch_threads, self._to_fetch, self._fetch)),
            (self._to_decode, self._each("decode", sizing.decode_threads, self._to_decode, self._decode)),
            (self._to_classify, Stage("classify", sizing.streams, self._batch, classify)),
            (self._to_store, self._each("store", sizing.publish_threads, self._to_store, self._store)),
            (self._to_respond, Stage("respond", 1, self._answers, answer)),
        )

    # Life

    def start(self) -> None:
        """Start every stage."""
        for _, stage in self._stages:
            stage.start()

    def submit(self, delivery: Delivery) -> None:
        """Put a delivery before the first stage; answer one of a request that has no try left."""
        if delivery.tries > self._max_tries:
            self._refuse(begin(delivery), crashed_worker(delivery.tries - 1))
        else:
            self._to_fetch.put(begin(delivery))

    def give_back_waiting(self) -> None:
        """Give back what no stage has started on."""
        self._recovery.extender.give_back([task.delivery for task in self._to_fetch.drain()])

    def stop(self) -> bool:
        """End the stages, first to last; False when a thread hangs."""
        ended = True
        for channel, stage in self._stages:
            channel.close()
            ended = stage.join(JOIN_SECONDS if ended else 0) and ended
        return ended

    # Stages

    def _each(self, name: str, threads: int, inbox: Channel[Task[T]], step: Callable[[Task[T]], None]) -> Stage[T]:
        """Return a stage that takes one task at a time."""

        def take() -> Sequence[Task[T]]:
            task = inbox.get()
            return () if task is None else (task,)

        of_one: Step[T] = self._step(name, lambda tasks: step(tasks[0]))
        return Stage(name, threads, take, of_one)

    def _step(
        self, name: str, do: Callable[[Sequence[Task[T]]], None], check: Callable[[], None] | None = None
    ) -> Step[T]:
        return Step(name, do, self._refuse, self._recovery, check)

    def _fetch(self, task: Task[None]) -> None:
        # The worker of an earlier delivery may have died between storing the prediction and deleting the request.
        if task.delivery.redelivered and (answer := answered_before(task, self._services.outputs)):
            self._to_respond.put(answer)
            return
        try:
            self._to_decode.put(fetch(task, self._services.inputs, self._limits))
        except NotFoundError:
            if (answer := answered_before(task, self._services.outputs)) is None:
                raise
            self._to_respond.put(answer)

    def _decode(self, task: Task[bytes]) -> None:
        spec = self._classifier.bundle.manifest.preprocess
        self._to_classify.put(decode(task, spec, self._limits, self._squares))

    def _batch(self) -> list[Task[Pixels]]:
        sizing = self._sizing
        return take_batch(self._to_classify, sizing.batch_size, sizing.batch_wait_seconds, self._more_than)

    def _classify(self, tasks: Sequence[Task[Pixels]]) -> None:
        for task in self._classifier.classify(tasks):
            self._to_store.put(task)

    def _store(self, task: Task[Prediction]) -> None:
        self._to_respond.put(store(task, self._services.outputs))

    def _answers(self) -> list[Task[Response]]:
        return take_batch(self._to_respond, BATCH, RESPONSE_WAIT_SECONDS, self._more_than)

    def _respond(self, tasks: Sequence[Task[Response]]) -> None:
        answered = respond(tasks, self._services.responses)
        self.answered += len(answered)  # this stage has one thread
        try:
            delete(answered, self._services.requests)
        except (BotoCoreError, ClientError) as error:
            # Answered is answered: a request that was not deleted comes again, alone, and changes nothing.
            _log.warning("requests were not deleted", extra={"messages": len(answered), "error": str(error)})
            if isinstance(fault := meaning_of(error), FatalError):
                self._recovery.lifetime.fail(fault.reason)
        for delivery in answered:
            self._in_hand.remove(delivery)
        self._recovery.extender.leave([task.delivery for task in tasks if task.delivery not in answered])

    def _more_than(self, taken: int) -> bool:
        return self._in_hand.started > taken

    def _refuse(self, task: Task[object], failure: Failure) -> None:
        self._to_store.put(refuse(task, failure, self._classifier.worker))
