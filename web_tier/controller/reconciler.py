"""The reconciler: sweeps the open jobs for images that fell between two steps, and closes the finished jobs.

| found                                         | because                              | done about it          |
|-----------------------------------------------|--------------------------------------|------------------------|
| a result in the table that is not counted     | the collector died before it counted | counted                |
| a prediction object, and no response for long | the response was lost                | recorded as the result |
| an accepted image, and no request for long    | the web tier died before it sent it  | requested again        |
| an accepted image whose object is gone        | somebody deleted it                  | a failed result        |
| a dead letter                                 | the image ends every worker it meets | a failed result        |
| a job where nothing is missing or added       | it is finished                       | closed, with its file  |
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.errors import NotFoundError
from services.ids import ImageRef
from services.job_records import ImageRecord, OpenJob
from services.jobs import JobStore
from services.messages import Failure, RequestMessage
from services.s3 import Bucket
from services.sqs import Outgoing, Queue
from web_tier.controller.dead_letters import DeadLetters
from web_tier.controller.ledger import Ledger
from web_tier.controller.lost import VERY_OLD, QueueWatch, Sightings, presumed_lost
from web_tier.controller.repair import Repair

_log = logging.getLogger(__name__)

CLOSE_AFTER = 5
"""A finished job is closed when nothing has been added for so many times `lost_after_seconds`."""
PAGE = 100
"""Images that are repaired before it is asked again whether to go on."""


@dataclass
class Watch:
    """What is remembered of an open job between two sweeps; times are monotonic seconds."""

    touched_at: str
    touched_seen: float
    sightings: Sightings
    not_before: float = float("-inf")


@dataclass
class Reconciler:
    """Sweeps every `reconcile_seconds`.

    Attributes:
        lost_after_seconds: how long an image may be without a result before anything is presumed of it.
        active: whether this process may still act.
        heartbeats: how many of the messages in the response queue may be heartbeats, at most.
        may_close: whether nobody else needs the finished job to stay open.
    """

    store: JobStore
    ledger: Ledger
    repair: Repair
    dead_letters: DeadLetters
    requests: Queue
    responses: Queue
    inputs: Bucket
    reconcile_seconds: float
    lost_after_seconds: float
    active: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    heartbeats: Callable[[], int] = lambda: 0
    may_close: Callable[[str], bool] = lambda _job_id: True
    _watches: dict[str, Watch] = field(default_factory=dict, init=False)
    _messages: QueueWatch = field(default_factory=QueueWatch, init=False)

    def tick(self) -> float:
        """Sweep once; return the seconds until the next sweep."""
        self.dead_letters.sweep()
        # Heartbeats come and go all the time, and answer for no image.
        answers = max(0, self.responses.counts().total - self.heartbeats())
        self._messages.note(self.requests.counts().total + answers)
        opened = self.store.open_jobs()
        self._watches = {job.job_id: self._watch(job) for job in opened}
        for job in opened:
            if self.active():
                self._sweep(job, self._watches[job.job_id])
        return self.reconcile_seconds

    def _watch(self, job: OpenJob) -> Watch:
        """Return what is remembered of `job`, refreshed when images were added since the last sweep."""
        watch = self._watches.get(job.job_id)
        if watch is None:
            horizon = (VERY_OLD + 1) * self.lost_after_seconds
            return Watch(job.touched_at, self.clock(), Sightings(horizon))
        if watch.touched_at != job.touched_at:
            watch.touched_at, watch.touched_seen = job.touched_at, self.clock()
        return watch

    def _sweep(self, job: OpenJob, watch: Watch) -> None:
        untouched = self.clock() - watch.touched_seen
        may_close = untouched > CLOSE_AFTER * self.lost_after_seconds
        missing = self.ledger.missing(job.job_id)
        if untouched <= self.lost_after_seconds or (may_close and not missing):
            # The job is touched before its images are recorded, so for a while there may be more than are known.
            self.ledger.recount(job.job_id)
            missing = self.ledger.missing(job.job_id)
        self.ledger.settle(job.job_id)
        if missing:
            watch.sightings.note(self.clock(), missing[-1])
            self._repair(job.job_id, watch, missing)
        elif may_close and self.may_close(job.job_id) and self.store.close(job):
            _log.info("closed a finished job", extra={"job": job.job_id})

    def _repair(self, job_id: str, watch: Watch, missing: list[str]) -> None:
        now = self.clock()
        if now < watch.not_before:
            return
        old = watch.sightings.older_than(self.lost_after_seconds, now, missing)
        very_old = watch.sightings.older_than(VERY_OLD * self.lost_after_seconds, now, old)
        if lost := presumed_lost(old, very_old, self._messages.most):
            answered = self._record_results(job_id, lost)
            self._request_again(job_id, [image_id for image_id in lost if image_id not in answered])
            # What was set in motion needs time to arrive; longer where it may stand behind a backlog.
            patience = 1 if self._messages.most == 0 else VERY_OLD
            watch.not_before = now + patience * self.lost_after_seconds

    def _record_results(self, job_id: str, image_ids: Sequence[str]) -> set[str]:
        """Record what results of these images there are in table or output bucket; return whose."""
        answered: set[str] = set()
        for page in self._pages(image_ids):
            found = [result for image_id in page if (result := self.repair.result(ImageRef(job_id, image_id)))]
            self.ledger.record(found)
            answered |= {result.image_id for result in found}
        if answered:
            _log.warning("recorded results whose responses were lost", extra={"job": job_id, "n": len(answered)})
        return answered

    def _request_again(self, job_id: str, image_ids: Sequence[str]) -> None:
        """Send the requests of these images again; a second request does no harm, since results are idempotent."""
        for page in self._pages(image_ids):
            records = [record for image_id in page if (record := self._record(ImageRef(job_id, image_id)))]
            requests = [RequestMessage.about(record.ref, record.key, self.now()) for record in records]
            refused = self.requests.send([Outgoing(request.image_id, request.to_json()) for request in requests])
            sent = len(requests) - len(refused)
            _log.warning("requested images again", extra={"job": job_id, "sent": sent, "refused": len(refused)})

    def _record(self, ref: ImageRef) -> ImageRecord | None:
        """Return the image's record if its object is there; give it a failed result if it is not."""
        try:
            record = self.store.image(ref)
        except NotFoundError:
            self.ledger.forget(ref)
            return None
        if self.inputs.exists(record.key):
            return record
        gone = Failure(code="gone", message="the image is no longer stored: upload it again")
        self.repair.fail(ref, gone, attempts=0)
        return None

    def _pages(self, image_ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Yield `image_ids` in pages, as long as this process may act."""
        for start in range(0, len(image_ids), PAGE):
            if not self.active():
                return
            yield image_ids[start : start + PAGE]
