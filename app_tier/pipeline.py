"""The pipeline: what a worker does with an image once it has received it. `Pipeline` lists the stages in order."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle import EngineError
from app_tier.classify import Classifier, check_engine
from app_tier.decode import Decoder, Pixels, decode
from app_tier.engines import LoadedModel
from app_tier.models import LoadedModels
from app_tier.network_process import IsolatedNetworks, NoNetworkError
from app_tier.recovery import At, StepRecovery, classify_error
from app_tier.sizing import Sizing
from app_tier.stages import Channel, Stage, StageThreads, Tasks
from app_tier.storage import CancelledJobs, answered_before, delete, fetch, respond, store
from app_tier.task import Delivery, Task, refuse
from core.images import ImageLimits
from core.jobs.buckets import InputBucket, OutputBucket
from core.messages import CANCELLED, CRASHED_ALONE, ClassificationResult, Failure, Prediction, crashed_worker
from core.sandbox.process import CrashedError
from core.telemetry import SPANS
from core.tracing import child_of, trace_id
from services.clock import epoch_seconds
from services.errors import NotFoundError
from services.sqs import BATCH, Queue

RESPONSE_WAIT_SECONDS = 0.02
"""How long a response waits for others: a batch of ten costs as much as one, and users do not notice the delay."""

JOIN_SECONDS = 2.0

UNRECORDED_RECEIVES: Final = 2
"""Receives of a message up to which no try is stored: few messages come more often, and a try takes two calls."""

MAX_TRIES: Final = 3
"""Stored tries of a message, which have ended their workers, after which its image fails: at the sixth receive."""

NO_CHILD_SECONDS: Final = 10
"""How long an image is delayed that needs a process of its own, while none can be started."""

_log = logging.getLogger(__name__)


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
    """The queues and buckets that a worker uses."""

    requests: Queue
    dead_letters: Queue
    responses: Queue
    inputs: InputBucket
    outputs: OutputBucket


class Pipeline:
    """All stages after the receive; `answered` is the number of images with a sent response.

    A message that comes again may have ended its worker. So only the first receive is classified in a batch in this
    process, and each later one alone in a child process (`app_tier.network_process`), beside the batches. That ends
    no worker, unless the image takes the whole machine down. Such an image fails after `MAX_TRIES`, each of which is
    stored before it begins (`OutputBucket.add_try`). A receive is no try: a worker may end while the image waits, and
    a delivery may reach no worker.
    """

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
        isolated: IsolatedNetworks,
    ) -> None:
        self._services, self._classifier, self._limits = services, classifier, limits
        self._cancelled = CancelledJobs(services.inputs)
        self._in_flight, self._recovery, self._decoder = recovery.in_flight, recovery, decoder
        self._isolated, capacity = isolated, recovery.in_flight.capacity
        self.answered = 0
        self._to_fetch: Channel[Task[None]] = Channel(capacity, _has_priority)
        # Whole files wait here: as few as keep the decoders busy.
        self._to_decode: Channel[Task[bytes]] = Channel(2 * sizing.decode_threads, _has_priority)
        self._to_classify: Channel[Task[Pixels]] = Channel(2 * sizing.streams * sizing.batch_size, _has_priority)
        # It has room for all, so that it makes no other stage wait.
        self._to_isolate: Channel[Task[None]] = Channel(capacity)
        self._to_store: Channel[Task[Prediction]] = Channel(capacity, _has_priority)
        self._to_respond: Channel[Task[ClassificationResult]] = Channel(capacity, _has_priority)
        self._models = models
        models.resume, models.refuse = self._resume, self._refuse
        # `app_tier.receiver` submits what it receives to the first stage. An image that cannot be classified leaves
        # its stage for "store", with its failure; `app_tier.recovery` decides what follows any other error.
        stages: tuple[Stage[Any], ...] = (
            Stage("fetch", sizing.fetch_threads, self._to_fetch, self._fetch),
            Stage("decode", sizing.decode_threads, self._to_decode, self._decode),
            Stage(
                "classify",
                sizing.streams,
                self._to_classify,
                self._classify,
                batch_size=sizing.batch_size,
                batch_wait_seconds=sizing.batch_wait_seconds,
                split=by_model,
                check=lambda tasks: check_engine(tasks[0].model),
            ),
            Stage(
                "classify alone",
                1,
                self._to_isolate,
                self._classify_alone,
                check=lambda tasks: isolated.ready(tasks[0].model.bundle),
            ),
            Stage("store", sizing.publish_threads, self._to_store, self._store),
            Stage(
                "respond",
                1,
                self._to_respond,
                self._respond,
                batch_size=BATCH,
                batch_wait_seconds=RESPONSE_WAIT_SECONDS,
            ),
        )
        self._stages = tuple(StageThreads(stage, self._refuse, recovery) for stage in stages)

    # Life

    def start(self) -> None:
        """Start every stage."""
        for stage in self._stages:
            stage.start()

    def submit(self, task: Task[None]) -> None:
        """Pass an image to the first stage."""
        self._to_fetch.enqueue(task)

    def _resume(self, task: Task[None]) -> None:
        """Pass an image that has waited for its model to the first stage, unless the worker ends."""
        if self._in_flight.start(task.delivery):
            self._to_fetch.enqueue(task)
        else:
            self._recovery.extender.give_back([task.delivery])

    def give_back_waiting(self) -> None:
        """Give back the deliveries that no stage has started, or that wait for a model; load no more models."""
        self._models.end()
        unstarted = [task.delivery for task in self._to_fetch.drain()]
        self._recovery.extender.give_back([*self._in_flight.outside(), *unstarted])

    def stop(self) -> bool:
        """End the stages, first to last; return False if a thread hangs, or loads a model."""
        ended = True
        for stage in self._stages:
            ended = stage.stop(JOIN_SECONDS if ended else 0) and ended
        return ended and not self._models.is_loading

    # Stages

    def _fetch(self, tasks: Tasks[None]) -> None:
        (task,) = tasks
        # The worker of an earlier delivery may have died between storing the prediction and deleting the request.
        if task.delivery.is_suspect and (answer := answered_before(task, self._services.outputs)):
            self._to_respond.enqueue(answer)
            return
        if self._cancelled.has(task.delivery.request.job_id):
            self._refuse(task, CANCELLED)
            return
        admitted = task if task.assigned is not None else self._models.admit(task)
        if admitted is None:
            return
        if task.delivery.is_suspect:
            self._to_isolate.enqueue(admitted)
        elif (fetched := self._read(admitted)) is not None:
            self._to_decode.enqueue(fetched)

    def _read(self, task: Task[None]) -> Task[bytes] | None:
        """Return the task with its image; None if the image is gone since an earlier delivery was answered."""
        try:
            return fetch(task, self._services.inputs, self._limits)
        except NotFoundError:
            if (answer := answered_before(task, self._services.outputs)) is None:
                raise
            self._to_respond.enqueue(answer)
            return None

    def _decode(self, tasks: Tasks[bytes]) -> None:
        (task,) = tasks
        self._to_classify.enqueue(self._decoded(task))

    def _decoded(self, task: Task[bytes]) -> Task[Pixels]:
        return decode(task, task.model.bundle.manifest.preprocess, self._limits, self._decoder)

    def _classify(self, tasks: Tasks[Pixels]) -> None:
        try:
            answers = self._classifier.classify(tasks)
        except EngineError as error:
            # One of the images may be the cause: the next time each of them is alone.
            self._in_flight.remove([task.delivery for task in tasks])
            _log.warning("a model failed", extra={"images": len(tasks), "error": str(error)}, exc_info=error)
            if not self._models.release_broken(tasks[0].model):
                self._recovery.lifetime.fail(f"the engine is broken: {error}")
            return
        for answer in answers:
            self._to_store.enqueue(answer)

    def _classify_alone(self, tasks: Tasks[None]) -> None:
        (task,) = tasks
        try:
            self._try_alone(task)
        except NoNetworkError as error:
            _log.error("an image cannot be classified alone", extra={"error": str(error)})
            # It is tried in a batch again: this may last.
            self._recovery.extender.give_back([replace(task.delivery, is_suspect=False)], NO_CHILD_SECONDS)
        finally:
            if not self._to_isolate:
                self._isolated.close()

    def _try_alone(self, task: Task[None]) -> None:
        if (fetched := self._read(task)) is None:
            return
        # A try begins when nothing is left to do but what the image itself may end. The shorter it is, the fewer
        # workers end in it for another reason.
        self._isolated.prepare(task.model.bundle)
        if not self._begin_try(task.delivery):
            self._refuse(task, crashed_worker(MAX_TRIES))
            return
        decoded = self._decoded(fetched)
        try:
            self._to_store.enqueue(self._isolated.classify(decoded, self._classifier))
        except CrashedError:
            self._refuse(task, CRASHED_ALONE)

    def _begin_try(self, delivery: Delivery) -> bool:
        """Store that an image is tried, if its message came often; return False if it was tried too often before."""
        if delivery.receives <= UNRECORDED_RECEIVES:
            return True
        return self._services.outputs.add_try(delivery.ref, delivery.received.id, delivery.receives) <= MAX_TRIES

    def _store(self, tasks: Tasks[Prediction]) -> None:
        (task,) = tasks
        self._to_respond.enqueue(store(task, self._services.outputs))

    def _respond(self, tasks: Tasks[ClassificationResult]) -> None:
        answered = respond(tasks, self._services.responses)
        # A worker has not proven itself by the work of an earlier one. This stage has one thread.
        self.answered += sum(not task.payload.repeated for task in tasks if task.delivery in answered)
        try:
            delete(answered, self._services.requests)
        except (BotoCoreError, ClientError) as error:
            # They are answered: a request that was not deleted is received again and changes nothing.
            _log.warning("requests were not deleted", extra={"messages": len(answered), "error": str(error)})
            if (fault := classify_error(error)).at is At.WORKER:
                self._recovery.lifetime.fail(fault.reason)
        self._in_flight.remove(answered)
        report_answered([task for task in tasks if task.delivery in answered])
        if left := [task.delivery for task in tasks if task.delivery not in answered]:
            self._in_flight.remove(left)

    def _refuse(self, task: Task[object], failure: Failure) -> None:
        self._to_store.enqueue(refuse(task, failure, self._classifier.worker))


def report_answered(tasks: Sequence[Task[ClassificationResult]]) -> None:
    """Log images with a sent response in one line, and export their spans."""
    if not tasks:
        return
    images = [
        {
            "image": task.payload.image_id,
            "job": task.payload.job_id,
            "trace": None if task.traceparent is None else trace_id(task.traceparent),
            "status": task.payload.status,
            "label": _outcome(task.payload),
            "tries": task.delivery.receives,
            "milliseconds": task.milliseconds,
        }
        for task in tasks
    ]
    _log.info("answered", extra={"images": images})
    now = epoch_seconds()
    for task in tasks:
        if task.traceparent is not None and SPANS.wants(task.traceparent):
            export_image(task, task.traceparent, now)


def export_image(task: Task[ClassificationResult], parent: str, now: float) -> None:
    """Export the span of an image, from the sending of its request until `now`, and those of the stages in it.

    Between two stages it waited for a thread, or for a batch.
    """
    received, result, whole = task.delivery.received, task.payload, child_of(parent)
    attributes: dict[str, str | int | float] = {
        "image": result.image_id,
        "job": result.job_id,
        "status": result.status,
        "label": _outcome(result),
        "tries": task.delivery.receives,
    }
    is_error = result.status == "failed"
    SPANS.export(
        "image", whole, parent, received.sent_at, now, kind="CONSUMER", attributes=attributes, is_error=is_error
    )
    SPANS.export("queued", child_of(whole), whole, received.sent_at, received.first_received_at)
    for stage, ended_at in task.ended_at.items():
        SPANS.export(stage, child_of(whole), whole, ended_at - task.milliseconds[stage] / 1000, ended_at)
    if task.ended_at:
        SPANS.export("responded", child_of(whole), whole, max(task.ended_at.values()), now)


def _outcome(result: ClassificationResult) -> str:
    return (result.label or "") if result.error is None else result.error.code
