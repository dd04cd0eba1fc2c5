"""The reconciler: finds images that were lost between two steps, repairs them, and closes finished jobs.

| found                                         | because                              | done about it          |
|-----------------------------------------------|--------------------------------------|------------------------|
| a result in the table that is not counted     | the collector died before it counted | counted                |
| a prediction object, and no response for long | the response was lost                | recorded as the result |
| an accepted image, and no request for long    | the web tier died before it sent it  | requested again, which |
|                                               |                                      | the image's page says  |
| a retried image with an older result          | request or response was lost         | as if it had none      |
| an accepted image without its object          | it was deleted                       | a failed result        |
| a dead letter                                 | the image ends every worker it meets | a failed result        |
| a job where nothing is missing or added       | it is finished                       | closed, with its file  |

`lost_images` decides when an image counts as lost. While the fleet is paused none does.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nsmallest
from typing import Protocol

from core.fleet.store import FleetStore
from core.ids import ImageRef
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.lifecycle import Cancellations, OpenJobs
from core.jobs.models import ImageRecord, OpenJob, Resend
from core.jobs.store import JobStore
from core.messages import GONE, ClassificationResult, Failure, RequestMessage, crashed_worker, failed
from core.tracing import new_traceparent, use_traceparent
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.errors import MessageError
from services.lease import Tenure
from services.sqs import Queue, ReceivedMessage
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.counts_store import CountsStore
from web_tier.controller.job_cache import JobCache
from web_tier.controller.job_counts import MessageGroup
from web_tier.controller.job_images import JobImages
from web_tier.controller.lost_images import (
    MAX_GAP_FACTOR,
    MAX_PASSED_OVER,
    MAX_REPAIRS,
    MAX_REPAIRS_AT_REST,
    MAX_REQUESTS,
    PATIENCE_FACTOR,
    AnswerOrder,
    FirstSeen,
    IdleTime,
    WaitTimes,
)
from web_tier.controller.result_writer import ResultWriter, rank
from web_tier.uploads.cancellation import align_tombstone

_log = logging.getLogger(__name__)

CLOSE_AFTER = 1
"""A finished job is closed when nothing has been added for so many times `lost_after_seconds`."""
PAGE = 100
"""Images that are repaired before the reconciler checks whether it may continue."""

MAX_BATCHES = 100
"""Receives from the dead-letter queue in one sweep; the rest waits for the next."""

CONTROLLER_AS_WORKER = "controller"
"""Name in place of a worker's in results that the controller itself writes."""


@dataclass(frozen=True)
class ResultRecovery:
    """Finds the result of an image, or records a failed one."""

    store: JobStore
    results: ResultWriter
    outputs: OutputBucket

    def result(self, ref: ImageRef, attempt: int) -> ClassificationResult | None:
        """Return the result of the image from the job table or the output bucket, or None.

        It is `done`, or the failure of `attempt` or a later one. This repairs a crash between writing a result and
        counting it, and a response that its queue has lost.
        """
        recorded = self.store.result(ref)
        if recorded is not None and recorded.status == "done":
            return recorded
        prediction = self.outputs.prediction(ref)
        found = [each for each in (recorded, prediction and prediction.response()) if each is not None]
        return max((each for each in found if rank(each) >= (False, attempt)), key=rank, default=None)

    def fail(self, ref: ImageRef, failure: Failure, *, attempt: int, attempts: int) -> None:
        """Record the result of the image if there is one by now; else give it a failed result."""
        result = self.result_or_failure(ref, failure, attempt=attempt, attempts=attempts)
        if result.worker == CONTROLLER_AS_WORKER:
            _log.warning(
                "an image failed", extra={"job": ref.job_id, "image": ref.image_id, "reason": failure.message}
            )
        self.results.record([result])

    def result_or_failure(
        self, ref: ImageRef, failure: Failure, *, attempt: int, attempts: int
    ) -> ClassificationResult:
        """Return the result of the image; if there is none, store a failed prediction, and return its response.

        The caller records the result. So the object is stored before the item in the job table, as by a worker. If a
        worker stores a prediction at the same time, the response is that of the stored one.
        """
        if (result := self.result(ref, attempt)) is not None:
            return result
        prediction = failed(ref, failure, worker=CONTROLLER_AS_WORKER, attempt=attempt, attempts=attempts)
        return self.outputs.store(prediction).response()


@dataclass(frozen=True)
class DeadLetterConsumer:
    """Turns each dead letter, a request that was received too often, into a failed result.

    Attributes:
        receives: how often a request was received before it became a dead letter: the queue's maxReceiveCount.
    """

    queue: Queue
    recovery: ResultRecovery
    images: JobImages
    receives: int
    tenure: Tenure
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)

    def consume(self) -> None:
        """Consume the dead letters; each is deleted only after its image has a result."""
        for _ in range(MAX_BATCHES):
            messages = self.queue.receive(wait_seconds=0) if self.tenure.active() else []
            if not messages:
                return
            self.queue.delete([message.receipt for message in messages if self._try_to_record(message)])

    def _try_to_record(self, message: ReceivedMessage) -> bool:
        """Record a result for a dead letter; return False if that failed, so that it is received again."""
        try:
            self._record(message)
        except Exception:  # noqa: BLE001 (it is logged)
            _log.warning("a dead letter could not become a result", extra={"message_id": message.id}, exc_info=True)
            return False
        return True

    def _record(self, message: ReceivedMessage) -> None:
        try:
            request = RequestMessage.from_json(message.body)
        except MessageError as error:
            _log.warning("dropped a malformed dead letter", extra={"message_id": message.id, "reason": str(error)})
            return
        if not self.images.is_accepted(request.ref):
            _log.warning("dropped a dead letter of no accepted image", extra={"message_id": message.id})
        else:
            tries = request.crashes + self.receives
            with use_traceparent(request.traceparent):
                self.recovery.fail(request.ref, crashed_worker(tries), attempt=request.attempt, attempts=tries)
            self.metrics.repairs.labels("dead_letter").inc()


@dataclass
class JobWatch:
    """What is known of an open job between two sweeps; times are monotonic seconds.

    Attributes:
        touched_at: when images were last added, as the table says.
        touched_seen: when this controller saw that.
        retried_at: when images were last retried, as far as that was read.
        unknown_at: a time at which images were not requested yet that are not known.
        missing: number of images without a result of their last attempt.
        waits: since when each of them has been missing.
        is_counted: whether images and retries were read after the last added ones must have been recorded.
    """

    touched_at: str
    touched_seen: float
    unknown_at: float
    retried_at: datetime | None = None
    missing: int = 0
    waits: WaitTimes = field(default_factory=WaitTimes)
    group: MessageGroup = ("", "")
    is_counted: bool = False


class JobUser(Protocol):
    """A loop that uses open jobs."""

    def is_done_with(self, job_id: str) -> bool:
        """Return whether a job in which no image is missing need not stay open for it."""


@dataclass
class Reconciler:
    """Sweeps every `reconcile_seconds`.

    Attributes:
        lost_after_seconds: time without a result before an image may count as lost.
        visibility_seconds: how long a request is hidden after a worker that ended had received it.
        fleet: while it is paused, requests wait for as long as operators want.
        registry: knows how many messages of the response queue may be heartbeats, at most.
        users: loops that use open jobs.
    """

    store: JobStore
    jobs: JobCache
    images: JobImages
    counts: CountsStore
    recovery: ResultRecovery
    dead_letters: DeadLetterConsumer
    requests: Queue
    responses: Queue
    inputs: InputBucket
    reconcile_seconds: float
    lost_after_seconds: float
    tenure: Tenure
    fleet: FleetStore
    clock: Clock = CLOCK
    registry: WorkerRegistry = field(default_factory=WorkerRegistry)
    users: Sequence[JobUser] = ()
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)
    visibility_seconds: float = 0.0
    _watches: dict[str, JobWatch] = field(default_factory=dict, init=False)
    _listed_at: float = field(default=float("-inf"), init=False)
    """When the open jobs were listed last."""
    _idle: IdleTime = field(default_factory=IdleTime, init=False)
    _order: AnswerOrder = field(init=False)

    def __post_init__(self) -> None:
        """Start without any observation."""
        self._order = AnswerOrder(
            PATIENCE_FACTOR * self.lost_after_seconds + self.visibility_seconds,
            MAX_GAP_FACTOR * self.lost_after_seconds,
        )

    def tick(self) -> float:
        """Sweep once; return the seconds until the next sweep."""
        self.dead_letters.consume()
        # Heartbeats are messages, too, but no answers.
        answers = max(0, self.responses.counts().total - self.registry.active())
        messages = self.requests.counts().total + answers
        listed_at, opened = self.clock.monotonic(), OpenJobs(self.store.table).find_all()
        self.counts.set_open_jobs(job.job_id for job in opened)
        before, self._watches = self._watches, {}
        answered = dict[MessageGroup, float]()
        for job in opened:
            watch = before.get(job.job_id) or JobWatch(job.touched_at, self.clock.monotonic(), self._listed_at)
            self._watches[job.job_id] = watch
            if watch.touched_at != job.touched_at:  # images were added since the last sweep
                watch.touched_at, watch.touched_seen, watch.is_counted = job.touched_at, self.clock.monotonic(), False
            if self.tenure.active():
                with isolated(job.job_id):
                    if (requested := self._sweep(job, watch, listed_at)) is not None:
                        answered[watch.group] = max(requested, answered.get(watch.group, requested))
        self._listed_at, now = listed_at, self.clock.monotonic()
        self._order.update({watch.group for watch in self._watches.values()}, answered, now)
        at_rest = self._idle.update(messages, now) >= self.lost_after_seconds
        lost, passed_over = self._find_lost(now, at_rest=at_rest)
        if lost and self.fleet.paused() is None:
            self._repair_all(lost, passed_over, at_rest=at_rest)
        return self.reconcile_seconds

    def _sweep(self, job: OpenJob, watch: JobWatch, listed_at: float) -> float | None:
        """Sweep a job; return a time at which images were not requested yet that have been answered since the last.

        Returns None if there are none.
        """
        if not self.jobs.is_read(job.job_id):
            return None  # a large one, after another controller has ended: the next sweep may find it read
        untouched, retried_at = self.clock.monotonic() - watch.touched_seen, self.store.retried_at(job.job_id)
        is_quiet = untouched > self.lost_after_seconds
        may_close = untouched > CLOSE_AFTER * self.lost_after_seconds and not watch.missing
        may_close = may_close and all(user.is_done_with(job.job_id) for user in self.users)
        if retried_at != watch.retried_at or may_close or (is_quiet and not watch.is_counted):
            # The job is touched before the attempts of its images are raised. A web process that dies after that does
            # not record when; the results file keeps the job open while an image is being retried.
            self.images.learn_retries(job.job_id)
            watch.retried_at = retried_at
        # There may be a tombstone without a mark: of a process that cancelled the job in the moment of the retry and
        # ended.
        is_suspect = retried_at is not None and not is_quiet
        if is_suspect and not Cancellations(self.store.table).find([job.job_id]):
            align_tombstone(self.store, self.inputs, job.job_id, is_cancelled=False)
        if may_close or (is_quiet and not watch.is_counted):
            self.images.resync(job.job_id)
            watch.is_counted = True
        elif not watch.is_counted:
            # The job is touched before its images are recorded, so for a while there may be more than are known.
            self.images.learn_recent(job.job_id)
        is_counted = self.counts.rewrite(job.job_id, may_close=may_close)
        now = self.clock.monotonic()
        missing = self.images.observe_missing(job.job_id, watch.waits.own)
        watch.missing, watch.group = missing.count, missing.group
        watch.waits.update(missing, now, watch.unknown_at)
        watch.unknown_at = listed_at
        if may_close and is_counted and not missing.count and OpenJobs(self.store.table).close(job):
            _log.info("closed a finished job", extra={"job": job.job_id})
        return watch.waits.requested_after(missing.answered) if missing.answered else None

    def _find_lost(self, now: float, *, at_rest: bool) -> tuple[list[ImageRef], set[MessageGroup]]:
        """Return the images that are to be repaired, and which groups of theirs are passed over.

        Overtaken images come first, those that have waited longest. Groups beyond the limit wait for a later sweep.
        """
        limit = MAX_REPAIRS_AT_REST if at_rest else MAX_REPAIRS
        found, passed_over = list[tuple[float, ImageRef]](), dict[MessageGroup, list[tuple[float, ImageRef]]]()
        for job_id, watch in self._watches.items():
            overtaken = now if at_rest else self._order.overtaken(watch.group)
            passed = self._order.passed_over(watch.group)
            if not watch.missing or max(overtaken, passed) == float("-inf"):
                continue
            for ref, wait in self._waits(job_id, watch.waits, limit, now):
                if wait.is_due(now, self.lost_after_seconds):
                    if wait.since < overtaken:
                        found.append((wait.since, ref))
                    elif wait.since < passed:
                        passed_over.setdefault(watch.group, []).append((wait.since, ref))
            found = _oldest(limit, found)
        tried = set[MessageGroup]()
        # Those repaired least recently first, so that each has its turn.
        for group in sorted(passed_over, key=self._order.answered_at):
            if len(found) >= limit:
                break
            tried.add(group)
            found += _oldest(min(MAX_PASSED_OVER, limit - len(found)), passed_over[group])
        return [ref for _, ref in found], tried

    def _waits(self, job_id: str, waits: WaitTimes, limit: int, now: float) -> Iterator[tuple[ImageRef, FirstSeen]]:
        """Yield missing images of a job with their wait: those that the `limit` oldest can be."""
        image_ids = set(waits.own)
        with isolated(job_id):
            image_ids.update(self.images.waiting(job_id, limit + len(image_ids)))
        for image_id in image_ids:
            yield ImageRef(job_id, image_id), waits.first_seen(image_id, now)

    def _repair_all(self, lost: Sequence[ImageRef], passed_over: Collection[MessageGroup], *, at_rest: bool) -> None:
        by_job: dict[str, list[str]] = {}
        for ref in lost:
            by_job.setdefault(ref.job_id, []).append(ref.image_id)
        for job_id, image_ids in by_job.items():
            for page in in_batches(image_ids, PAGE):
                if not self.tenure.active():
                    return
                if (group := self._watches[job_id].group) in passed_over:
                    self._order.repair(group)
                with isolated(job_id):
                    self._repair(job_id, page, at_rest=at_rest)

    def _repair(self, job_id: str, image_ids: Sequence[str], *, at_rest: bool) -> None:
        """Record the results that exist of these images of a job, and request the others again."""
        now, waits = self.clock.monotonic(), self._watches[job_id].waits
        # Before any call, which may succeed although its reply is lost.
        before = {image_id: waits.repair(image_id, now) for image_id in image_ids}
        waited = {image_id: now - wait.since for image_id, wait in before.items()}
        unanswered: list[ImageRecord] = []
        for record in self.images.read_again(job_id, image_ids):
            with isolated(job_id):
                if result := self.recovery.result(record.ref, record.attempt):
                    self.recovery.results.record([result])
                    self.metrics.repairs.labels("result_found").inc()
                    ids = {"job": job_id, "image": record.ref.image_id}
                    _log.warning("recorded a result after its response was lost", extra=ids)
                elif self.inputs.has_original(record):
                    if at_rest or before[record.ref.image_id].requests < MAX_REQUESTS:
                        unanswered.append(record)
                else:
                    self.recovery.fail(record.ref, GONE, attempt=record.attempt, attempts=0)
                    self.metrics.repairs.labels("object_gone").inc()
        if unanswered:
            with use_traceparent(new_traceparent()):  # the one of the lost request is not recorded
                self._request_again(job_id, unanswered, waited)

    def _request_again(self, job_id: str, records: Sequence[ImageRecord], waited: Mapping[str, float]) -> None:
        """Send the requests of these images again; a second request does no harm, since results are idempotent.

        Args:
            job_id: the job.
            records: its images.
            waited: seconds without a result, by image id.
        """
        at, (group, _) = self.clock.utc_now(), self._watches[job_id].group
        requests = [record.request(at, group) for record in records]
        refused = {message.id for message in self.requests.send(requests)}
        sent = {
            record.ref.image_id: Resend(record.attempt, at, at, round(waited[record.ref.image_id]))
            for record in records
            if record.ref.image_id not in refused
        }
        extra = {"job": job_id, "sent": len(sent), "refused": len(refused), "images": list(sent)}
        _log.warning("requested images again", extra=extra)
        self.metrics.repairs.labels("requested_again").inc(len(sent))
        if sent:
            self.recovery.results.record_resends(job_id, sent)


def _oldest(number: int, images: Iterable[tuple[float, ImageRef]]) -> list[tuple[float, ImageRef]]:
    """Return up to `number` of these images, which have waited longest, in the order of their ids if equally long."""
    return nsmallest(number, images, key=lambda each: (each[0], each[1].image_id))


@contextmanager
def isolated(job_id: str) -> Iterator[None]:
    """Log an exception of one job or image, so that it does not delay the others."""
    try:
        yield
    except Exception:  # noqa: BLE001 (it is logged, and tried again later)
        _log.warning("a job could not be reconciled", extra={"job": job_id}, exc_info=True)
