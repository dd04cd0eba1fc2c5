"""The canceller: gives the images of cancelled jobs their results, so that such a job ends within seconds.

It also cancels a job itself, and says why, when more of its images failed than its user allows. A retry resumes it.

`web_tier/uploads/cancellation.py` describes marks and tombstones. A cancelled image has a failed result like any
other: first the object in the output bucket, unless one exists, then the item in the job table. A worker may still
classify an image that it received before. Its label replaces the failure when its response arrives; `is_done_with`
finds the labels with lost responses.
"""

import logging
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from core.ids import ImageRef
from core.jobs.buckets import InputBucket
from core.jobs.lifecycle import Cancellations, OpenJobs
from core.jobs.models import ImageRecord
from core.jobs.store import JobStore
from core.messages import CANCELLED, ClassificationResult
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.lease import Tenure
from web_tier.controller.job_images import JobImages
from web_tier.controller.reconciler import ResultRecovery, isolated
from web_tier.uploads.cancellation import align_tombstone, mark_cancelled

_log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""Time between two checks for cancelled jobs. Each reads the list of open jobs and an item of each; without open jobs
the checks cost some 0.2 dollars a month."""

PAGE = 100
"""Images of a job that are failed before the next job has its turn."""

SAMPLE = 1_000
"""Failed images of a hopeless job, of which the errors are counted."""

CONCURRENCY = 16
"""Calls to the output bucket at a time."""


@dataclass
class JobCanceller:
    """Cancels hopeless jobs; fails the images of cancelled jobs that have no result of their last attempt."""

    store: JobStore
    images: JobImages
    recovery: ResultRecovery
    inputs: InputBucket
    tenure: Tenure
    clock: Clock = CLOCK
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="cancel")
    )
    _read: dict[str, str] = field(default_factory=dict, init=False)
    """The cancelled jobs that were read from the table, each with its `touched_at` of then."""
    _left: dict[str, deque[str]] = field(default_factory=dict, init=False)
    """Images of cancelled jobs that may have no result. Each was read once, since a job may have 100,000 of them."""
    _resumed: set[str] = field(default_factory=set, init=False)
    """Open jobs that went on after they were stopped."""

    def tick(self) -> float:
        """Fail some images of each cancelled job; return the seconds until the next round, 0 if some are left."""
        opened = {job.job_id: job.touched_at for job in OpenJobs(self.store.table).find_all()}
        cancelled = sorted(Cancellations(self.store.table).find(opened))
        self._resumed.intersection_update(opened)
        # Others are not locked: one that is being read would delay all cancellings.
        for job_id in self.images.jobs.with_limit(sorted(opened.keys() - set(cancelled) - self._resumed)):
            with isolated(job_id):
                self._stop_if_hopeless(job_id)
        self._read = {job_id: at for job_id, at in self._read.items() if job_id in cancelled}
        self._left = {job_id: left for job_id, left in self._left.items() if job_id in cancelled and left}
        is_complete = True
        for job_id in cancelled:
            if not self.tenure.active():
                break
            with isolated(job_id):
                if self._read.get(job_id) != opened[job_id]:
                    # Later the reconciler reads which images are added: the job is touched before they are recorded.
                    self.images.resync(job_id)
                    self.images.learn_retries(job_id)
                    # The process that cancelled it may have ended before it stored the tombstone.
                    align_tombstone(self.store, self.inputs, job_id, is_cancelled=True)
                    self._read[job_id] = opened[job_id]
                    self._left.pop(job_id, None)
                is_complete &= self._fail_some(job_id)
        return CHECK_SECONDS if is_complete else 0.0

    def is_done_with(self, job_id: str) -> bool:
        """Return whether a job in which nothing is missing can be closed.

        To be called when it could be, minutes after it was used last: workers have finished what they had received.
        A label that replaced a failure is recorded, and the job stays open for its results file. A tombstone without
        a mark is deleted.
        """
        if not Cancellations(self.store.table).find([job_id]):
            align_tombstone(self.store, self.inputs, job_id, is_cancelled=False)
        refs = [ImageRef(job_id, image_id) for image_id in self.images.cancelled(job_id)]
        for page in in_batches(refs, PAGE):
            if not self.tenure.active():
                return False
            found = self.pool.map(lambda ref: self.recovery.result(ref, 0), page)
            if late := [result for result in found if result is not None and result.status == "done"]:
                OpenJobs(self.store.table).reopen(job_id, self.clock.utc_now())
                self.recovery.results.record(late)
                return False
        return True

    def _stop_if_hopeless(self, job_id: str) -> None:
        """Cancel a job of which too many images failed; its images fail in the next round."""
        if (hopeless := self.images.hopeless(job_id, SAMPLE)) is None:
            return
        if Cancellations(self.store.table).is_resumed(job_id):
            self._resumed.add(job_id)
            return
        reason, failed = hopeless
        errors = Counter(each.error.code for each in self.store.results_of(failed).values() if each.error is not None)
        for code, _ in errors.most_common(1):
            reason = f"{reason}, most as {code}"
        if self.tenure.active():
            with self.images.jobs.marking_removed([job_id]):
                mark_cancelled(self.store, self.inputs, job_id, self.clock.utc_now(), reason)
            _log.warning("stopped a hopeless job", extra={"job": job_id, "reason": reason})

    def _fail_some(self, job_id: str) -> bool:
        """Fail up to `PAGE` images of a job; return whether these were all."""
        if job_id not in self._left:
            self._left[job_id] = deque(self.images.missing(job_id))
        left = self._left[job_id]
        page = [left.popleft() for _ in range(min(PAGE, len(left)))]
        # In the meantime some may have got their results.
        records = self.images.read_again(job_id, self.images.still_missing(job_id, page))
        # After the attempts were read: a retry deletes the mark before it raises attempts, so those are never failed.
        if records and self.tenure.active() and Cancellations(self.store.table).find([job_id]):
            self.recovery.results.record(self._results(records))
            _log.info("failed images of a cancelled job", extra={"job": job_id, "images": len(records)})
        return not left

    def _results(self, records: Sequence[ImageRecord]) -> list[ClassificationResult]:
        return list(
            self.pool.map(
                lambda record: self.recovery.result_or_failure(
                    record.ref, CANCELLED, attempt=record.attempt, attempts=0
                ),
                records,
            )
        )
