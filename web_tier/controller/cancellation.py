"""The canceller: gives the images of cancelled jobs their results, so that such a job ends within seconds.

It also cancels a job itself, and says why, when more of its images failed than its user allows. A retry resumes it.

`web_tier/uploads/cancellation.py` describes marks and tombstones. A cancelled image has a failed result like any
other: first the object in the output bucket, unless one exists, then the item in the job table. A worker may still
classify an image that it received before. Its label replaces the failure when its response arrives; `is_done_with`
finds the labels with lost responses.
"""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from core.ids import ImageRef
from core.jobs.buckets import InputBucket
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import Cancellations, DeletedJobs, OpenJobs
from core.jobs.models import Counts, ImageRecord
from core.jobs.packs import by_pack
from core.jobs.store import JobStore
from core.messages import CANCELLED
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.lease import Tenure
from web_tier.controller.reconciler import ResultRecovery, isolated
from web_tier.results.query import is_final
from web_tier.uploads.cancellation import align_tombstone, mark_cancelled

_log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
"""Time between two checks for cancelled jobs. Each reads the list of open jobs and an item of each; without open jobs
the checks cost some 0.2 dollars a month."""

PAGE = 100
"""Images of a job that are failed before the next job has its turn."""

MAX_PAGES: Final = 10
"""Pages that are read for these before the next job has its turn."""

MIN_HOPELESS: Final = 100
"""Results of a job before it may be hopeless: the first ones say little about the others."""

SAMPLE = 1_000
"""Failed images of a hopeless job, of which the errors are counted."""

CONCURRENCY = 16
"""Calls to the output bucket at a time."""


@dataclass
class JobCanceller:
    """Cancels hopeless jobs; fails the images of cancelled jobs that have no result of their last attempt."""

    store: JobStore
    recovery: ResultRecovery
    inputs: InputBucket
    tenure: Tenure
    clock: Clock = CLOCK
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="cancel")
    )
    _read: dict[str, str] = field(default_factory=dict, init=False)
    """The cancelled jobs of which images were failed, each with its `touched_at` of then."""
    _after: dict[str, str | None] = field(default_factory=dict, init=False)
    """The last image of each of them that was read; None: all were."""
    _limits: dict[str, float | None] = field(default_factory=dict, init=False)
    """How many images of each open job may fail, in percent; None for no limit."""
    _resumed: set[str] = field(default_factory=set, init=False)
    """Open jobs that went on after they were stopped."""

    def tick(self) -> float:
        """Fail some images of each cancelled job; return the seconds until the next round, 0 if some are left."""
        opened = {job.job_id: job.touched_at for job in OpenJobs(self.store.table).find_all()}
        cancelled = sorted(Cancellations(self.store.table).find(opened))
        self._resumed.intersection_update(opened)
        self._limits = {job_id: limit for job_id, limit in self._limits.items() if job_id in opened}
        jobs = self.store.jobs_of(opened.keys() - self._limits.keys())
        self._limits |= {job_id: job.max_failed_percent for job_id, job in jobs.items()}
        for job_id in sorted(opened.keys() - set(cancelled) - self._resumed):
            if (limit := self._limits.get(job_id)) is not None:
                with isolated(job_id):
                    self._stop_if_hopeless(job_id, limit)
        self._read = {job_id: at for job_id, at in self._read.items() if job_id in cancelled}
        is_complete = True
        for job_id in cancelled:
            if not self.tenure.active():
                break
            with isolated(job_id):
                if self._read.get(job_id) != opened[job_id]:  # images were added
                    # The process that cancelled it may have ended before it stored the tombstone.
                    align_tombstone(self.store, self.inputs, job_id, is_cancelled=True)
                    self._read[job_id], self._after[job_id] = opened[job_id], ""
                is_complete &= self._fail_some(job_id)
        self._after = {job_id: after for job_id, after in self._after.items() if job_id in self._read}
        return CHECK_SECONDS if is_complete else 0.0

    def is_done_with(self, job_id: str) -> bool:
        """Return whether a job in which nothing is missing can be closed.

        To be called when it could be, minutes after it was used last: workers have finished what they had received.
        A label that replaced a failure, of any cause but the image itself, is recorded, and the job stays open for
        its results file. A tombstone without a mark is deleted.
        """
        if not Cancellations(self.store.table).find([job_id]):
            align_tombstone(self.store, self.inputs, job_id, is_cancelled=False)
        refs = list[ImageRef]()
        if JobFigures(self.store.table).counts(job_id).failed:
            summaries = self.store.summaries(job_id)
            refs = [ImageRef(job_id, image_id) for image_id, each in summaries if each.status == "failed"]
        for page in in_batches(refs, PAGE):
            if not self.tenure.active():
                return False
            failed = [ref for ref, result in self.store.results_of(page).items() if not is_final(result)]
            found = self.pool.map(self.recovery.find, by_pack(self.store.images_of(failed).values()))
            if late := [result for results in found for result in results if result.status == "done"]:
                OpenJobs(self.store.table).reopen(job_id, self.clock.utc_now())
                self.recovery.results.record(late)
                return False
        return True

    def _stop_if_hopeless(self, job_id: str, max_failed_percent: float) -> None:
        """Cancel a job of which too many images failed; its images fail in the next round."""
        if (reason := hopeless(JobFigures(self.store.table).counts(job_id), max_failed_percent)) is None:
            return
        if Cancellations(self.store.table).is_resumed(job_id):
            self._resumed.add(job_id)
            return
        summaries = self.store.summaries(job_id)
        failed = (ImageRef(job_id, image_id) for image_id, each in summaries if each.status == "failed")
        results = self.store.results_of(list(islice(failed, SAMPLE)))
        errors = Counter(each.error.code for each in results.values() if each.error is not None)
        for code, _ in errors.most_common(1):
            reason = f"{reason}, most as {code}"
        if self.tenure.active():
            mark_cancelled(self.store, self.inputs, job_id, self.clock.utc_now(), reason)
            if not self.tenure.active():
                DeletedJobs(self.store.table).mark_if_removed(job_id)
            _log.warning("stopped a hopeless job", extra={"job": job_id, "reason": reason})

    def _fail_some(self, job_id: str) -> bool:
        """Fail the next images of a job that have no result; return whether these were all."""
        if (after := self._after[job_id]) is None:
            return True
        records, pages = list[ImageRecord](), 0
        while after is not None and len(records) < PAGE and pages < MAX_PAGES:
            missing, after = self.store.missing_after(job_id, after, PAGE)
            records, pages = records + missing, pages + 1
        # After the attempts were read: a retry deletes the mark before it raises attempts, so those are never failed.
        if not (self.tenure.active() and Cancellations(self.store.table).find([job_id])):
            return True
        if records:
            found = self.pool.map(lambda images: self.recovery.find_or_fail(images, CANCELLED), by_pack(records))
            self.recovery.results.record([result for results in found for result in results])
            _log.info("failed images of a cancelled job", extra={"job": job_id, "images": len(records)})
        self._after[job_id] = after
        return after is None


def hopeless(counts: Counts, max_failed_percent: float) -> str | None:
    """Return how many images of a job failed, if these are too many and others have no result; else None."""
    failed = counts.failed - counts.cancelled
    answered = counts.done + failed
    is_finished = counts.images <= counts.done + counts.failed
    if is_finished or answered < MIN_HOPELESS or 100 * failed <= max_failed_percent * answered:
        return None
    return f"{failed:,} of {answered:,} images failed, more than {max_failed_percent:g}%"
