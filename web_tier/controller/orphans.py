"""Orphans: objects in the input bucket that no item names are deleted once they are older than a day.

A web process may die between an image's object and its record, a form may be sent and never committed, or sent again
after the commit. Each job with such an upload has a mark (`core/jobs/sweeps.py`). Its folder is listed once a day,
for the last time when the mark is three days old and the job is closed: what its uploads put is old then.

Whether an object is older than a day is a difference of two times of S3's clock. Before objects are deleted, images
that were put before are refused, with an hour for the difference between S3's clock and those of other machines.
Items are read after that.

In a job that does not keep its images, an object of images with labels is deleted, too: a commit of an upload may
have copied it once more after they were stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from core.jobs.buckets import InputBucket
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.jobs.sweeps import SweepMark, SweepMarks
from services.clock import CLOCK, Clock
from services.lease import Tenure
from services.s3 import SourceBuckets
from web_tier.results.query import is_settled

ROUND_SECONDS: Final = 600.0
"""Time between two rounds; each reads all marks."""

DAY: Final = timedelta(days=1)
"""Age from which an object without an item is deleted, and time between two sweeps of a job."""

TOLERANCE: Final = timedelta(hours=1)
"""By so much may the clocks of a web process and of S3 differ, with the time that a put takes."""

MARK_LIFETIME: Final = timedelta(days=3)
"""Time for which the mark of a job stays at least."""


@dataclass
class JobSweep:
    """How far the sweep of a job is.

    Attributes:
        due: when its next page may be listed, in monotonic seconds.
        token: of that page.
        before: objects that were put before are deleted if they have no item.
    """

    due: float
    token: str = ""
    before: datetime | None = None


@dataclass
class OrphanSweep:
    """Deletes objects that no item names, a page of each marked job in turn.

    Attributes:
        copies: lists the input bucket.
        page_keys: objects of a page.
    """

    store: JobStore
    inputs: InputBucket
    copies: SourceBuckets
    tenure: Tenure
    clock: Clock = CLOCK
    page_keys: int = 1_000
    _sweeps: dict[str, JobSweep] = field(default_factory=dict, init=False)

    def tick(self) -> float:
        """Sweep a page of each job that is due; return the seconds until the next round, 0 if more is due.

        A job that cannot be swept delays no other: the first error is raised at the end.
        """
        now, marks = self.clock.monotonic(), self._marks.find_all()
        self._sweeps = {mark.job_id: self._sweeps.get(mark.job_id) or JobSweep(now) for mark in marks}
        errors: list[Exception] = []
        for mark in marks:
            sweep = self._sweeps[mark.job_id]
            if sweep.due > now or not self.tenure.active():
                continue
            try:
                is_last = self._sweep_page(mark, sweep)
            except Exception as error:  # noqa: BLE001 - raised at the end
                errors.append(error)
                self._sweeps[mark.job_id] = JobSweep(now)
            else:
                if is_last:
                    self._sweeps[mark.job_id] = JobSweep(now + DAY.total_seconds())
        if errors:
            raise errors[0]
        return 0.0 if any(sweep.token for sweep in self._sweeps.values()) else ROUND_SECONDS

    @property
    def _marks(self) -> SweepMarks:
        return SweepMarks(self.store.table)

    def _sweep_page(self, mark: SweepMark, sweep: JobSweep) -> bool:
        """Sweep the next page of a job; return whether it was the last one."""
        page = self.inputs.list_job(self.copies, mark.job_id, sweep.token, self.page_keys)
        sweep.token, sweep.before = page.next_token, sweep.before or page.listed_at - DAY
        old = [key for key, put_at in page.objects.items() if put_at < sweep.before]
        job = self.store.jobs_of([mark.job_id]).get(mark.job_id) if old else None
        if job:
            self._delete_orphans(job, old, sweep.before)
        if not page.next_token:
            self._age(mark, page.listed_at)
        return not page.next_token

    def _delete_orphans(self, job: Job, old: Sequence[str], before: datetime) -> None:
        """Delete those of the `old` objects of a job that it does not need."""
        if not self._marks.refuse_older(job.job_id, before + TOLERANCE):
            return  # the job has been deleted
        needed = list(self.store.images_of({*self.inputs.images_at(old)}).values())
        if not job.keep:
            results = self.store.results_of([ref for image in needed for ref in image.pack_refs])
            needed = [image for image in needed if not is_settled(image, results)]
        named = {image.key for image in needed}
        self.inputs.delete_strays(job.job_id, [key for key in old if key not in named])

    def _age(self, mark: SweepMark, now: datetime) -> None:
        """Record that a mark was seen; at the end of its lifetime remove it, unless the job is open."""
        if mark.seen_at is None:
            self._marks.put_seen(mark, now)
        elif now - mark.seen_at >= MARK_LIFETIME and not OpenJobs(self.store.table).is_open(mark.job_id):
            # A process may have died before it created the job: its objects are deleted as those of a deleted job.
            DeletedJobs(self.store.table).mark_if_removed(mark.job_id)
            self._marks.remove(mark)
