"""The reconciler: sweeps the open jobs for images that fell between two steps, and closes the finished jobs.

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

`lost.py` says when an image counts as lost. While the fleet is paused none does.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from core.ids import ImageRef
from core.job_records import ImageRecord, OpenJob, Resend
from core.jobs import JobStore
from core.messages import GONE, RequestMessage
from services.s3 import Bucket
from services.sqs import OutgoingMessage, Queue
from web_tier.controller.dead_letters import DeadLetters
from web_tier.controller.lost import Balance, Wait, presumed_lost
from web_tier.controller.repair import ResultRecovery
from web_tier.controller.result_recorder import ResultRecorder

_log = logging.getLogger(__name__)

CLOSE_AFTER = 5
"""A finished job is closed when nothing has been added for so many times `lost_after_seconds`."""
PAGE = 100
"""Images that are repaired before it is asked again whether to go on."""


@dataclass
class Watch:
    """What is remembered of an open job between two sweeps; times are seconds of this process's clock.

    Attributes:
        retried_at: when the web tier had last retried images of the job, as far as the recorder has learned of it.
        waits: the images without a result of their last attempt.
        is_counted: whether images and retries were read since the last ones that were added must have been recorded.
    """

    touched_at: str
    touched_seen: float
    retried_at: datetime | None = None
    waits: dict[str, Wait] = field(default_factory=dict)
    is_counted: bool = False


@dataclass
class Reconciler:
    """Sweeps every `reconcile_seconds`.

    Attributes:
        lost_after_seconds: how long an image may be without a result before anything is presumed of it.
        active: whether this process may still act.
        is_paused: whether the fleet is paused, so that requests wait for as long as ops want.
        heartbeats: how many of the messages in the response queue may be heartbeats, at most.
        may_close: whether no other part needs the finished job to stay open.
    """

    store: JobStore
    recorder: ResultRecorder
    repair: ResultRecovery
    dead_letters: DeadLetters
    requests: Queue
    responses: Queue
    inputs: Bucket
    reconcile_seconds: float
    lost_after_seconds: float
    active: Callable[[], bool]
    is_paused: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    heartbeats: Callable[[], int] = lambda: 0
    may_close: Callable[[str], bool] = lambda _job_id: True
    _watches: dict[str, Watch] = field(default_factory=dict, init=False)
    _balance: Balance = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing known of the queues."""
        self._balance = Balance(self.lost_after_seconds)

    def tick(self) -> float:
        """Sweep once; return the seconds until the next sweep."""
        self.dead_letters.sweep()
        # Heartbeats come and go all the time, and answer for no image.
        answers = max(0, self.responses.counts().total - self.heartbeats())
        messages = self.requests.counts().total + answers
        opened = self.store.open_jobs()
        self._watches = {job.job_id: self._watch(job) for job in opened}
        for job in opened:
            if self.active():
                with _isolated(job.job_id):
                    self._sweep(job, self._watches[job.job_id])
        waits = (
            (ImageRef(job_id, image_id), wait)
            for job_id, watch in self._watches.items()
            for image_id, wait in watch.waits.items()
        )
        missing, now = sum(len(watch.waits) for watch in self._watches.values()), self.clock()
        self._balance.note(now, missing, messages)
        lost = presumed_lost(waits, self._balance, now, self.lost_after_seconds)
        if lost and not self.is_paused():
            self._repair_all(lost)
        return self.reconcile_seconds

    def _watch(self, job: OpenJob) -> Watch:
        """Return what is remembered of `job`, refreshed when images were added since the last sweep."""
        watch = self._watches.get(job.job_id) or Watch(job.touched_at, self.clock())
        if watch.touched_at != job.touched_at:
            watch.touched_at, watch.touched_seen, watch.is_counted = job.touched_at, self.clock(), False
        return watch

    def _sweep(self, job: OpenJob, watch: Watch) -> None:
        untouched, retried_at = self.clock() - watch.touched_seen, self.store.retried_at(job.job_id)
        is_quiet = untouched > self.lost_after_seconds
        may_close = (
            untouched > CLOSE_AFTER * self.lost_after_seconds
            and not self.recorder.missing(job.job_id)
            and self.may_close(job.job_id)
        )
        if retried_at != watch.retried_at or may_close or (is_quiet and not watch.is_counted):
            # The job is touched before the attempts of its images are raised. A web process that ends after that does
            # not record when, and the merger keeps the job open while an image is being retried.
            self.recorder.learn_retries(job.job_id)
            watch.retried_at = retried_at
        if not watch.is_counted or may_close:
            # The job is touched before its images are recorded, so for a while there may be more than are known.
            self.recorder.recount(job.job_id)
            watch.is_counted = is_quiet
        self.recorder.settle(job.job_id)
        now = self.clock()
        missing = self.recorder.missing(job.job_id)
        fresh = {attempt: Wait(attempt, now) for attempt in set(missing.values())}
        known = {image_id: wait for image_id, wait in watch.waits.items() if missing.get(image_id) == wait.attempt}
        watch.waits = {image_id: known.get(image_id, fresh[attempt]) for image_id, attempt in missing.items()}
        if may_close and not missing and self.store.close(job):
            _log.info("closed a finished job", extra={"job": job.job_id})

    def _repair_all(self, lost: Sequence[ImageRef]) -> None:
        by_job: dict[str, list[str]] = {}
        for ref in lost:
            by_job.setdefault(ref.job_id, []).append(ref.image_id)
        for job_id, image_ids in by_job.items():
            for start in range(0, len(image_ids), PAGE):
                if not self.active():
                    return
                with _isolated(job_id):
                    self._repair(job_id, image_ids[start : start + PAGE])

    def _repair(self, job_id: str, image_ids: Sequence[str]) -> None:
        """Record what results of these images of a job there are, and request the others again."""
        now, waits = self.clock(), self._watches[job_id].waits
        waited = {image_id: now - waits[image_id].since for image_id in image_ids}
        for image_id in image_ids:
            # Before any call, which may succeed although its reply is lost.
            waits[image_id] = replace(waits[image_id], since=now, requests=waits[image_id].requests + 1)
        unanswered: list[ImageRecord] = []
        for record in self.recorder.read_again(job_id, image_ids):
            with _isolated(job_id):
                if result := self.repair.result(record.ref, record.attempt):
                    self.recorder.record([result])
                    ids = {"job": job_id, "image": record.ref.image_id}
                    _log.warning("recorded a result after its response was lost", extra=ids)
                elif self.inputs.exists(record.key):
                    unanswered.append(record)
                else:
                    self.repair.fail(record.ref, GONE, attempt=record.attempt, attempts=0)
        if unanswered:
            self._request_again(job_id, unanswered, waited)

    def _request_again(self, job_id: str, records: Sequence[ImageRecord], waited: Mapping[str, float]) -> None:
        """Send the requests of these images again; a second request does no harm, since results are idempotent.

        Args:
            job_id: the job.
            records: its images.
            waited: seconds without a result, by image id.
        """
        at = self.now()
        requests = [RequestMessage.about(each.ref, each.key, at, each.attempt) for each in records]
        unsent = self.requests.send([OutgoingMessage(request.image_id, request.to_json()) for request in requests])
        refused = {message.id for message in unsent}
        sent = {
            each.image_id: Resend(each.attempt, at, at, round(waited[each.image_id]))
            for each in requests
            if each.image_id not in refused
        }
        _log.warning("requested images again", extra={"job": job_id, "sent": len(sent), "refused": len(refused)})
        if sent:
            self.recorder.record_resends(job_id, sent)


@contextmanager
def _isolated(job_id: str) -> Iterator[None]:
    """Log what goes wrong with one job or image, so that it does not delay the others."""
    try:
        yield
    except Exception:  # noqa: BLE001 (it is logged, and tried again later)
        _log.exception("a job could not be reconciled", extra={"job": job_id})
