"""The pipeline: what a worker does with a pack once it has received it. `Pipeline` lists the stages in order."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle import EngineError
from app_tier.classify import Classifier, check_engine
from app_tier.decode import Decoder, Pixels, decode
from app_tier.engines import LoadedModel
from app_tier.models import LoadedModels
from app_tier.network_process import IsolatedNetworks, NoNetworkError
from app_tier.recovery import SOURCE_SECONDS, At, StepRecovery, classify_error
from app_tier.sizing import Sizing, pack_threads
from app_tier.stages import Channel, Stage, StageThreads, T, Tasks
from app_tier.storage import (
    CancelledJobs,
    PackReader,
    answered_before,
    delete,
    respond,
    store,
)
from app_tier.task import Delivery, Task, refuse
from core.images import ImageLimits, ImageRejectedError
from core.jobs.buckets import InputBucket, OutputBucket
from core.messages import CANCELLED, CRASHED_ALONE, ClassificationResult, Failure, crashed_worker
from core.sandbox.process import CrashedError
from core.telemetry import SPANS
from core.tracing import child_of, trace_id
from services.clock import epoch_seconds
from services.errors import NotFoundError
from services.s3 import SourceBuckets
from services.sqs import BATCH, Queue

RESPONSE_WAIT_SECONDS = 0.02
"""How long a response waits for others: a batch of ten costs as much as one, and users do not notice the delay."""

STORE_SECONDS: Final = 1.0
"""How often answers are stored while the images of a pack are tried alone: the end of the worker loses no more."""

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
    """The queues and buckets that a worker uses.

    Attributes:
        new_sources: returns the buckets of users, of which few workers read any.
    """

    requests: Queue
    dead_letters: Queue
    responses: Queue
    inputs: InputBucket
    outputs: OutputBucket
    new_sources: Callable[[], SourceBuckets]


class Pipeline:
    """All stages after the receive; `answered` is the number of images with a sent response.

    A task is a whole delivery until the object of its pack is read, then one image of it. Its answers are gathered,
    stored in one object and sent in one response.

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
        self._reader = PackReader(services.inputs, services.new_sources, limits)
        self._in_flight, self._recovery, self._decoder = recovery.in_flight, recovery, decoder
        self._isolated, capacity = isolated, recovery.in_flight.capacity
        self.answered, self._lock = 0, threading.Lock()
        self._to_fetch: Channel[Task[None]] = Channel(capacity, _has_priority)
        self._to_read: Channel[Task[None]] = Channel(capacity, _has_priority)
        self._to_read_in_place: Channel[Task[None]] = Channel(sizing.fetch_threads, _has_priority)
        # Whole files wait here: as few as keep the decoders busy.
        self._to_decode: Channel[Task[bytes]] = Channel(2 * sizing.decode_threads, _has_priority)
        self._to_classify: Channel[Task[Pixels]] = Channel(2 * sizing.streams * sizing.batch_size, _has_priority)
        # It has room for all, so that it makes no other stage wait.
        self._to_isolate: Channel[Task[None]] = Channel(capacity)
        self._to_store: Channel[Task[Tasks[ClassificationResult]]] = Channel(capacity, _has_priority)
        self._to_respond: Channel[Task[Tasks[ClassificationResult]]] = Channel(capacity, _has_priority)
        self._models = models
        models.resume, models.refuse = self._resume, self._refuse
        # `app_tier.receiver` submits what it receives to the first stage. An image that cannot be classified leaves
        # its stage for "store", with its failure; `app_tier.recovery` decides what follows any other error.
        stages: tuple[Stage[Any], ...] = (
            Stage("fetch", sizing.fetch_threads, self._to_fetch, self._fetch),
            Stage("read a pack", pack_threads(sizing.decode_threads), self._to_read, self._read),
            Stage("read in place", sizing.fetch_threads, self._to_read_in_place, self._read_in_place),
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
        self._stages = tuple(StageThreads(stage, self._refuse, self._postpone, recovery) for stage in stages)

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
        unstarted = [task.delivery for channel in (self._to_fetch, self._to_read) for task in channel.drain()]
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
        delivery = task.delivery
        if delivery.is_suspect:
            # The worker of an earlier one may have died between storing predictions and deleting the request.
            self._answer(answered_before(task, self._services.outputs))
            if not self._in_flight.open_places(delivery):
                return
        if self._cancelled.has(delivery.request.job_id):
            self._refuse(task, CANCELLED)
            return
        admitted = task if task.assigned is not None else self._models.admit(task)
        if admitted is None:
            return
        if delivery.is_suspect:
            self._to_isolate.enqueue(admitted)
        elif delivery.request.is_lone:
            self._read([admitted])
        else:
            self._to_read.enqueue(admitted)

    def _read(self, tasks: Tasks[None]) -> None:
        (task,) = tasks
        source = task.delivery.request.source
        if source is None or source.is_shard or task.delivery.request.is_lone:
            self._pass_on(task.delivery, self._open_images(task), self._to_decode)
        else:  # several objects are read at a time
            images = self._reader.objects(task, self._in_flight.open_places(task.delivery))
            self._pass_on(task.delivery, images, self._to_read_in_place)

    def _pass_on(self, delivery: Delivery, images: Iterable[Task[T]], following: Channel[Task[T]]) -> None:
        for image in images:
            # It may wait for each of the images before it.
            with self._in_flight.step(lambda: [delivery]):
                following.enqueue(image)

    def _read_in_place(self, tasks: Tasks[None]) -> None:
        (task,) = tasks
        if self._in_flight.left_out(task.delivery):  # so that an outage of a bucket takes up few threads
            self._postpone(task)
        else:
            self._to_decode.enqueue(self._reader.image_of_object(task))

    def _open_images(self, task: Task[None]) -> Iterator[Task[bytes]]:
        """Yield the images of a delivery without an answer.

        Their object may be gone since an earlier delivery was answered.
        """
        if not (places := self._in_flight.open_places(task.delivery)):
            return
        try:
            yield from self._reader.images(task, places, self._reject)
        except NotFoundError:
            self._answer(answered_before(task, self._services.outputs))
            if self._in_flight.open_places(task.delivery):
                raise

    def _reject(self, image: Task[None], error: Exception) -> None:
        if (failure := classify_error(error).failure) is not None:
            self._refuse(image, failure)

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
        self._answer(answers)

    def _classify_alone(self, tasks: Tasks[None]) -> None:
        (task,) = tasks
        clock, answers = self._recovery.clock, list[Task[ClassificationResult]]()
        stored_at = clock.monotonic()
        try:
            for image in self._open_images(task):
                with self._in_flight.step(lambda: [task.delivery]):
                    answers.append(self._try_alone(image))
                    # No image is tried a second time because of another one.
                    if task.delivery.receives > UNRECORDED_RECEIVES or clock.monotonic() - stored_at >= STORE_SECONDS:
                        answers, stored_at = store(answers, self._services.outputs), clock.monotonic()
        except NoNetworkError as error:
            _log.error("an image cannot be classified alone", extra={"error": str(error)})
            # It is tried in a batch again: this may last.
            self._recovery.extender.give_back([replace(task.delivery, is_suspect=False)], NO_CHILD_SECONDS)
        finally:
            self._answer(answers)
            if not self._to_isolate:
                self._isolated.close()

    def _try_alone(self, image: Task[bytes]) -> Task[ClassificationResult]:
        # A try begins when nothing is left to do but what the image itself may end. The shorter it is, the fewer
        # workers end in it for another reason.
        self._isolated.prepare(image.model.bundle)
        if image.delivery.receives > UNRECORDED_RECEIVES:
            received = image.delivery.received
            if self._services.outputs.add_try(image.ref, received.id, received.receive_count) > MAX_TRIES:
                return refuse(image, crashed_worker(MAX_TRIES), self._classifier.worker)
        try:
            return self._isolated.classify(self._decoded(image), self._classifier)
        except ImageRejectedError as error:
            failure = Failure(code=error.code, message=error.message)
        except CrashedError:
            failure = CRASHED_ALONE
        return refuse(image, failure, self._classifier.worker)

    def _answer(self, answers: Iterable[Task[ClassificationResult]]) -> None:
        """Add answers of images; pass on those of each delivery that has all."""
        for answer in answers:
            self._pass_gathered(answer, self._in_flight.add_answer(answer))

    def _postpone(self, task: Task[object]) -> None:
        """Leave an image, or those of a delivery that have no answer, to a later message."""
        places = self._in_flight.open_places(task.delivery) if task.place is None else [task.place]
        for place in places:
            self._pass_gathered(task, self._in_flight.leave_out(task.delivery, place))

    def _pass_gathered(self, task: Task[object], answers: Tasks[ClassificationResult] | None) -> None:
        """Pass on the answers of a delivery once there are those of all images that are not left out."""
        if answers:
            self._to_store.enqueue(task.with_payload(answers))
        elif answers is not None:
            self._recovery.extender.give_back([task.delivery], SOURCE_SECONDS)

    def _store(self, tasks: Tasks[Tasks[ClassificationResult]]) -> None:
        (task,) = tasks
        self._to_respond.enqueue(task.with_payload(store(task.payload, self._services.outputs)))

    def _respond(self, tasks: Tasks[Tasks[ClassificationResult]]) -> None:
        answered = respond(tasks, self._services.responses)
        images = [image for task in tasks if task.delivery in answered for image in task.payload]
        # A worker has not proven itself by the work of an earlier one. This stage has one thread.
        self.answered += sum(not image.payload.repeated for image in images)
        whole = [each for each in answered if not self._ask_later(each)]
        try:
            delete(whole, self._services.requests)
        except (BotoCoreError, ClientError) as error:
            # They are answered: a request that was not deleted is received again and changes nothing.
            _log.warning("requests were not deleted", extra={"messages": len(whole), "error": str(error)})
            if (fault := classify_error(error)).at is At.WORKER:
                self._recovery.lifetime.fail(fault.reason)
        self._in_flight.remove(whole)
        report_answered(images)
        if left := [task.delivery for task in tasks if task.delivery not in answered]:
            self._in_flight.remove(left)

    def _ask_later(self, delivery: Delivery) -> bool:
        """Replace a request that is answered by one for the images that are left out; return False without any."""
        if places := self._in_flight.left_out(delivery):
            later = replace(delivery, request=delivery.request.asking_for(places))
            self._recovery.extender.give_back([later], SOURCE_SECONDS)
        return bool(places)

    def _refuse(self, task: Task[object], failure: Failure) -> None:
        """Answer an image, or those of a delivery that have no answer, with a failure."""
        places = self._in_flight.open_places(task.delivery) if task.place is None else [task.place]
        self._answer(refuse(task.image(place, None), failure, self._classifier.worker) for place in places)


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
