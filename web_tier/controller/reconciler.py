"""The reconciler: finds images that were lost between two steps, repairs them, and closes finished jobs.

| found                                         | because                              | done about it          |
|-----------------------------------------------|--------------------------------------|------------------------|
| a prediction object, and no response for long | the response was lost                | recorded as the result |
| an accepted image, and no request for long    | the web tier died before it sent it  | requested again, which |
|                                               |                                      | the image's page says  |
| a retried image with an older result          | request or response was lost         | as if it had none      |
| an accepted image without its object          | it was deleted                       | a failed result        |
| a dead letter                                 | a fault of the system                | requested again, once  |
|                                               |                                      | an hour                |
| a job where nothing is missing or added       | it is finished                       | closed, with its file  |

`lost_images` decides when an image counts as lost. While the fleet is paused none does.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from core.fleet.store import FleetStore
from core.ids import ImageRef, place_of
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import ImageRecord, Job, JobStatus, OpenJob, Resend
from core.jobs.packs import by_pack
from core.jobs.requests import request_images
from core.jobs.results import best_by_image
from core.jobs.store import JobStore
from core.messages import GONE, ClassificationResult, Failure, RequestMessage, failed
from core.tracing import new_traceparent, use_traceparent
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.errors import MessageError
from services.lease import Tenure
from services.sqs import OutgoingMessage, Queue, ReceivedMessage
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.lost_images import (
    MAX_GAP_FACTOR,
    MAX_PASSED_OVER,
    MAX_REPAIRS,
    MAX_REPAIRS_AT_REST,
    MAX_REQUESTS,
    PATIENCE_FACTOR,
    AnswerOrder,
    IdleTime,
    MessageGroup,
    RequestTimes,
)
from web_tier.controller.missing_images import MissingImages
from web_tier.controller.result_writer import ResultWriter
from web_tier.uploads.cancellation import align_tombstone

_log = logging.getLogger(__name__)

CLOSE_AFTER = 1
"""A finished job is closed when nothing has been added for so many times `lost_after_seconds`."""
PAGE = 100
"""Images that are repaired before the reconciler checks whether it may continue."""

LETTER_SECONDS: Final = 3_600
"""Time from a request of an image until a dead letter of it requests it again."""

MAX_BATCHES = 100
"""Receives from the dead-letter queue in one sweep; the rest waits for the next."""

_Wait = tuple[float, ImageRef]
"""Since when an image has been missing."""

CONTROLLER_AS_WORKER = "controller"
"""Name in place of a worker's in results that the controller itself writes."""


@dataclass(frozen=True)
class ResultRecovery:
    """Finds the results of images of a pack, or records failed ones."""

    store: JobStore
    results: ResultWriter
    outputs: OutputBucket

    def find(self, images: Sequence[ImageRecord]) -> list[ClassificationResult]:
        """Return the results of images of one pack from the job table or the output bucket, of those that have one.

        Each is `done`, or the failure of the attempt of the record or a later one. This repairs a crash between
        writing a result and counting it, and a response that its queue has lost.
        """
        recorded, first = self.store.results_of([image.ref for image in images]), images[0]
        if all(image.ref in recorded and recorded[image.ref].status == "done" for image in images):
            return list(recorded.values())
        stored = self.outputs.predictions(first.ref.job_id, first.pack_id, is_lone=first.is_lone).values()
        best = best_by_image([*recorded.values(), *(each.response() for each in stored)])
        found = ((image, best[image.ref]) for image in images if image.ref in best)
        return [each for image, each in found if each.status == "done" or each.attempt >= image.attempt]

    def fail(self, images: Sequence[ImageRecord], failure: Failure) -> None:
        """Record the results of images of one pack; those that have none by now get a failed one."""
        results = self.find_or_fail(images, failure)
        if own := [each.image_id for each in results if each.worker == CONTROLLER_AS_WORKER]:
            ids = {"job": images[0].ref.job_id, "images": own}
            _log.warning("images failed", extra={**ids, "reason": failure.message})
        self.results.record(results)

    def find_or_fail(self, images: Sequence[ImageRecord], failure: Failure) -> list[ClassificationResult]:
        """Return the results of images of one pack; of those without one store failed predictions.

        The caller records the results. So the object is stored before the item in the job table, as by a worker. If a
        worker stores predictions at the same time, the results are those of the stored ones.
        """
        found = self.find(images)
        known = {each.ref for each in found}
        predictions = [
            failed(image.ref, failure, worker=CONTROLLER_AS_WORKER, attempt=image.attempt, attempts=0)
            for image in images
            if image.ref not in known
        ]
        if predictions:
            found += (each.response() for each in self.outputs.store(predictions, is_lone=images[0].is_lone))
        return found


@dataclass(frozen=True)
class DeadLetterConsumer:
    """Requests the images of each dead letter again that have no result.

    Workers answer an image that may end them long before its request becomes a dead letter, so that is a fault of the
    system.
    """

    queue: Queue
    requests: Queue
    recovery: ResultRecovery
    tenure: Tenure
    clock: Clock = CLOCK
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)

    def consume(self) -> None:
        """Consume the dead letters; each is deleted only after its images have results or are requested again."""
        for _ in range(MAX_BATCHES):
            messages = self.queue.receive(wait_seconds=0) if self.tenure.active() else []
            if not messages:
                return
            self.queue.delete([message.receipt for message in messages if self._try_to_settle(message)])

    def _try_to_settle(self, message: ReceivedMessage) -> bool:
        """Return whether a dead letter is settled; if not, it is received again."""
        try:
            return self._settle(message)
        except Exception:  # noqa: BLE001 (it is logged)
            _log.warning("a dead letter could not be settled", extra={"message_id": message.id}, exc_info=True)
            return False

    def _settle(self, message: ReceivedMessage) -> bool:
        try:
            request = RequestMessage.from_json(message.body)
        except MessageError as error:
            _log.warning("dropped a malformed dead letter", extra={"message_id": message.id, "reason": str(error)})
            return True
        jobs, accepted, errors = self.recovery.store.find_accepted(request.refs)
        for reason in errors.values():
            raise reason
        if not (jobs and accepted):
            _log.warning("dropped a dead letter of no accepted image", extra={"message_id": message.id})
            return True
        with use_traceparent(request.traceparent):
            records = [replace(accepted[ref], attempt=request.attempt) for ref in request.refs if ref in accepted]
            results = self.recovery.find(records)
            self.recovery.results.record(results)
            answered = {each.image_id for each in results}
            if not (unanswered := [id_ for each in records if (id_ := each.ref.image_id) not in answered]):
                return True
            now = self.clock.utc_now()
            if (now - request.submitted_at).total_seconds() < LETTER_SECONDS:
                return False
            ids = {"job": request.job_id, "images": unanswered}
            _log.error("workers received a request too often; requested again", extra=ids)
            self.metrics.repairs.labels("dead_letter").inc()
            again = request.asking_for([*map(place_of, unanswered)]).model_copy(update={"submitted_at": now})
            return not self.requests.send([OutgoingMessage(message.id, again.to_json(), message.group)])


@dataclass
class JobWatch:
    """What is known of an open job between two sweeps; times are monotonic seconds.

    Attributes:
        touched_at: when images were last added, as the table says.
        touched_seen: when this controller saw that.
        unknown_at: a time at which images were not requested yet that are not known.
        job: as it was when images were last added; None if it does not exist.
        accepted: number of its images.
        answered_seen: when each image was last seen to have a result, or the job was first seen.
    """

    touched_at: str = ""
    touched_seen: float = 0.0
    unknown_at: float = float("-inf")
    job: Job | None = None
    accepted: int = 0
    answered_seen: float = 0.0
    missing: MissingImages = field(default_factory=MissingImages)
    requests: RequestTimes = field(default_factory=RequestTimes)

    @property
    def group(self) -> MessageGroup:
        """The message group of its images."""
        if self.job is None:
            return "", ""
        model = self.job.requested_model
        return self.job.group, "" if model is None else model.bundle


class JobUser(Protocol):
    """A loop that uses open jobs."""

    def is_done_with(self, job_id: str) -> bool:
        """Return whether a job in which no image is missing need not stay open for it."""


@dataclass
class Reconciler:
    """Sweeps every `reconcile_seconds`.

    Attributes:
        lost_after_seconds: time without a result before an image may count as lost.
        visibility_seconds: how long a request is hidden, at most, after a worker that ended had received it.
        fleet: while it is paused, requests wait for as long as operators want.
        registry: knows how many messages of the response queue may be heartbeats, at most.
        users: loops that use open jobs.
    """

    store: JobStore
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
        last_answers = self.recovery.results.answers.take()
        before, self._watches = self._watches, {}
        answered = dict[MessageGroup, float]()
        for job in opened:
            watch = before.get(job.job_id) or JobWatch(unknown_at=self._listed_at, answered_seen=listed_at)
            self._watches[job.job_id] = watch
            if self.tenure.active():
                with isolated(job.job_id):
                    self._sweep(job, watch, listed_at)
                if last := last_answers.get(job.job_id):
                    requested = watch.requests.requested_after(last)
                    answered[watch.group] = max(requested, answered.get(watch.group, requested))
        self._listed_at, now = listed_at, self.clock.monotonic()
        self._order.update({watch.group for watch in self._watches.values()}, answered, now)
        at_rest = self._idle.update(messages, now) >= self.lost_after_seconds
        lost, passed_over = self._find_lost(now, at_rest=at_rest)
        if lost and self.fleet.paused() is None:
            self._repair_all(lost, passed_over, at_rest=at_rest)
        return self.reconcile_seconds

    def _sweep(self, opened: OpenJob, watch: JobWatch, listed_at: float) -> None:
        """Find out which images of a job are missing; close it if none is, and none was added for a while."""
        close_seconds, job_id = CLOSE_AFTER * self.lost_after_seconds, opened.job_id
        if (status := self._observe(opened, watch)) is None:
            if self.clock.monotonic() > watch.touched_seen + close_seconds:
                OpenJobs(self.store.table).close(opened)
            return
        watch.unknown_at, now, quiet_at = listed_at, self.clock.monotonic(), watch.touched_seen + close_seconds
        is_quiet = now - watch.touched_seen >= self.lost_after_seconds
        # There may be a tombstone without a mark: of a process that cancelled the job in the moment of the retry and
        # ended.
        if status.retried_at is not None and not is_quiet and status.cancelled_at is None:
            align_tombstone(self.store, self.inputs, job_id, is_cancelled=False)
        # Of failed images that are being retried the counts say nothing. The job is touched before their attempts are
        # raised, so a search that begins much later finds them.
        is_complete = not status.waiting and (not status.counts.failed or watch.missing.complete_at > quiet_at)
        if not status.waiting:
            watch.answered_seen = now
        if not is_complete:
            # All images of a quiet job have been there since it was touched. Of another one none can be lost yet if
            # all were answered a moment ago.
            since = watch.touched_seen if is_quiet else now
            if is_quiet or now - watch.answered_seen > self.lost_after_seconds:
                state = opened.touched_at, status.accepted, status.counts.revision, now > quiet_at
                watch.missing.search(self.store, job_id, state, now, since)
            return
        watch.missing.found.clear()
        may_close = now > quiet_at and all(user.is_done_with(job_id) for user in self.users)
        if may_close and OpenJobs(self.store.table).close(opened):
            _log.info("closed a finished job", extra={"job": job_id})

    def _observe(self, opened: OpenJob, watch: JobWatch) -> JobStatus | None:
        """Return the status of a job, and note whether images were added since the last sweep.

        Returns None if there is no such job: the web tier marks a job as open before it creates it.
        """
        if is_touched := watch.touched_at != opened.touched_at:
            watch.touched_at, watch.touched_seen = opened.touched_at, self.clock.monotonic()
        if is_touched or watch.job is None:
            watch.job = self.store.jobs_of([opened.job_id]).get(opened.job_id)
        if watch.job is None:
            return None
        status = self.store.status_of(watch.job)
        if status.accepted != watch.accepted:
            watch.requests.update(self.store.newest_image(opened.job_id), watch.unknown_at)
            watch.accepted, watch.touched_seen = status.accepted, self.clock.monotonic()
        return status

    def _find_lost(self, now: float, *, at_rest: bool) -> tuple[list[ImageRef], set[MessageGroup]]:
        """Return the images that are to be repaired, and which groups of theirs are passed over.

        Overtaken images come first, those that have waited longest. Groups beyond the limit wait for a later sweep.
        """
        limit = MAX_REPAIRS_AT_REST if at_rest else MAX_REPAIRS
        overtaken_ones, passed_over = list[_Wait](), dict[MessageGroup, list[_Wait]]()
        for job_id, watch in self._watches.items():
            overtaken = now if at_rest else self._order.overtaken(watch.group)
            passed = self._order.passed_over(watch.group)
            for image_id, wait in watch.missing.found.items():
                if wait.is_due(now, self.lost_after_seconds):
                    if wait.since < overtaken:
                        overtaken_ones.append((wait.since, ImageRef(job_id, image_id)))
                    elif wait.since < passed:
                        passed_over.setdefault(watch.group, []).append((wait.since, ImageRef(job_id, image_id)))
        found, tried = self._still_missing(overtaken_ones, limit), set[MessageGroup]()
        # Those repaired least recently first, so that each has its turn.
        for group in sorted(passed_over, key=self._order.answered_at):
            if len(found) >= limit:
                break
            tried.add(group)
            found += self._still_missing(passed_over[group], min(MAX_PASSED_OVER, limit - len(found)))
        return found, tried

    def _still_missing(self, waits: Iterable[_Wait], limit: int) -> list[ImageRef]:
        """Return up to `limit` of these images, those that have waited longest; forget those with a result."""
        refs, kept = [ref for _, ref in sorted(waits, key=lambda each: (each[0], each[1].image_id))], list[ImageRef]()
        for some in in_batches(refs, PAGE):
            if len(kept) >= limit:
                break
            left = {record.ref for record in self.store.still_missing(some)}
            kept += [ref for ref in some if ref in left]
            for ref in some:
                if ref not in left:
                    del self._watches[ref.job_id].missing.found[ref.image_id]
        return kept[:limit]

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
        now, missing = self.clock.monotonic(), self._watches[job_id].missing
        # Before any call, which may succeed although its reply is lost.
        before = {image_id: missing.repair(image_id, now) for image_id in image_ids}
        waited = {image_id: now - wait.since for image_id, wait in before.items()}
        unanswered: list[ImageRecord] = []
        for images in by_pack(self.store.still_missing([ImageRef(job_id, image_id) for image_id in image_ids])):
            with isolated(job_id):
                results = self.recovery.find(images)
                if results:
                    self.recovery.results.record(results)
                    self.metrics.repairs.labels("result_found").inc(len(results))
                    ids = {"job": job_id, "images": [each.image_id for each in results]}
                    _log.warning("recorded results after their response was lost", extra=ids)
                found = {each.ref for each in results}
                if not (left := [image for image in images if image.ref not in found]):
                    continue
                if self.inputs.has_original(left[0]):
                    unanswered += (
                        each for each in left if at_rest or before[each.ref.image_id].requests < MAX_REQUESTS
                    )
                else:
                    self.recovery.fail(left, GONE)
                    self.metrics.repairs.labels("object_gone").inc(len(left))
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
        refused = {record.ref for record in request_images(self.requests, records, at, group)}
        sent = {
            record.ref.image_id: Resend(record.attempt, at, at, round(waited[record.ref.image_id]))
            for record in records
            if record.ref not in refused
        }
        extra = {"job": job_id, "sent": len(sent), "refused": len(refused), "images": list(sent)}
        _log.warning("requested images again", extra=extra)
        self.metrics.repairs.labels("requested_again").inc(len(sent))
        if sent:
            self.recovery.results.record_resends(job_id, sent)


@contextmanager
def isolated(job_id: str) -> Iterator[None]:
    """Log an exception of one job or image, so that it does not delay the others."""
    try:
        yield
    except Exception:  # noqa: BLE001 (it is logged, and tried again later)
        _log.warning("a job could not be reconciled", extra={"job": job_id}, exc_info=True)
