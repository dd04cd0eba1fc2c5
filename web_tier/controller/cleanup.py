"""Expiry and cleanup: old jobs are deleted, and what is left of deleted jobs is removed from buckets and table.

A deleted job does not exist for any user from the moment it is deleted. Its mark in the table says that objects or
items may be left. They are found by their place (the job's folder in each bucket, the key of its results file, its
partitions in the table), not by a list that could be lost. So any portion may be repeated, and the next controller
continues where a killed one stopped.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import DeletedJob, Job
from core.jobs.store import JobStore
from services.clock import CLOCK, Clock
from services.lease import Tenure
from services.side_by_side import outcomes

_log = logging.getLogger(__name__)

PORTION = 1_000
"""Objects, and items, of a job that are removed before the cleanup checks whether it may continue."""

JOBS_AT_ONCE = 8
"""Jobs of which a portion is removed at the same time. A single job is removed at 500 images/s at most: its partition
of the table takes 1,000 deletes/s, and an image has two items."""

LINGER_SECONDS = 3_600.0
"""Lifetime of the mark of a deleted job: longer than an upload, and than an image usually waits or is processed. At
its end the job's data are removed again: an upload, a worker or an earlier controller may have written meanwhile."""

EXPIRY_SECONDS = 600.0
"""Time between two rounds of the expiry; each reads all jobs that are old enough, kept ones among them."""

MAX_OVERDUE = timedelta(days=30)
"""A job that expired longer ago is deleted only if the newest job has expired so long ago, too."""

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass
class CleanupState:
    """How far the cleanup of one job is.

    Attributes:
        first_seen: when its mark was first read, in monotonic seconds.
        removed: objects and items that were removed so far.
        is_removed: whether nothing was left once.
    """

    first_seen: float
    removed: int = 0
    is_removed: bool = False


@dataclass
class JobCleanup:
    """Removes what is left of deleted jobs: a portion of each job in turn, several jobs side by side.

    So a job of a million images delays no other, and the rate of removal is not that of a single job, which is one
    partition of the table.

    Attributes:
        every_seconds: time between two rounds, and the longest time until marks are read again.
        pool: removes the portions.
        on_removal: each removes up to so many other items of a deleted job, and returns how many it found.
    """

    store: JobStore
    inputs: InputBucket
    outputs: OutputBucket
    every_seconds: float
    tenure: Tenure
    clock: Clock = CLOCK
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(JOBS_AT_ONCE, thread_name_prefix="cleanup")
    )
    on_removal: Sequence[Callable[[DeletedJob, int], int]] = ()
    _states: dict[str, CleanupState] = field(default_factory=dict, init=False)

    def tick(self) -> float:
        """Remove what is due; return the seconds until the next round.

        A job that cannot be removed delays no other: the first error is raised at the end.
        """
        began, deleted = self.clock.monotonic(), DeletedJobs(self.store.table).find_all()
        self._states = {job.job_id: self._states.get(job.job_id) or CleanupState(began) for job in deleted}
        due = [job for job in deleted if not self._state(job).is_removed or self._has_lingered(job, began)]
        errors: list[Exception] = []
        while due:
            portions, due = outcomes(self.pool, self._remove_portion, due), []
            for job, is_left in portions:
                if isinstance(is_left, Exception):
                    errors.append(is_left)
                elif is_left:
                    due.append(job)
                elif is_left is not None:
                    self._finish(job, began)
            if self.clock.monotonic() - began >= self.every_seconds:
                break
        if errors:
            raise errors[0]
        return 0.0 if due else self.every_seconds

    def _state(self, job: DeletedJob) -> CleanupState:
        return self._states[job.job_id]

    def _has_lingered(self, job: DeletedJob, now: float) -> bool:
        return now - self._state(job).first_seen >= LINGER_SECONDS

    def _finish(self, job: DeletedJob, now: float) -> None:
        state = self._state(job)
        if state.removed:
            _log.info("removed a deleted job", extra={"job": job.job_id, "objects_and_items": state.removed})
        state.removed, state.is_removed = 0, True
        if self._has_lingered(job, now):
            DeletedJobs(self.store.table).unmark(job)

    def _remove_portion(self, job: DeletedJob) -> bool | None:
        """Remove up to `PORTION` of each kind; return whether more may be left, None if this process may not act."""
        if not self.tenure.active():
            return None
        portions = [bucket.remove_job(job.job_id, PORTION) for bucket in (self.inputs, self.outputs)]
        portions.append(DeletedJobs(self.store.table).remove_items(job, PORTION))
        portions += [remove(job, PORTION) for remove in self.on_removal]
        self._state(job).removed += sum(portions)
        return max(portions) == PORTION


@dataclass(frozen=True)
class JobExpiry:
    """Deletes jobs that were not used for a while, unless their owners keep them and they have images.

    A job that may still have images without a result is left for a later round. A wrong clock must delete nothing: a
    job that expired long ago stays while no newer job exists, since then either the clock is wrong or the system was
    not used. A moment of the future was stored by a wrong clock: it counts as the time at which it is first read.

    Attributes:
        lifetime: time from a job's creation, last result or last retry to its end; zero: jobs do not expire.
    """

    store: JobStore
    lifetime: timedelta
    tenure: Tenure
    clock: Clock = CLOCK
    _ends: dict[str, datetime] = field(default_factory=dict, init=False)
    """When old jobs end that were used after their creation, so that each is read again only then."""

    def tick(self) -> float:
        """Delete the jobs that have expired; return the seconds until the next round."""
        if self.lifetime and self.tenure.active():
            DeletedJobs(self.store.table).cancel_expiries()
            newest = self.store.newest_job()
            if newest is not None:
                self._delete_expired(newest.created_at + self.lifetime)
        return EXPIRY_SECONDS

    def _delete_expired(self, newest_end: datetime) -> None:
        now = self.clock.utc_now()
        for job in self.store.jobs_until(now - self.lifetime):
            if not self.tenure.active():
                return
            if self._ends.get(job.job_id, now) > now:
                continue
            end = self._end(job, now)
            if end > now:
                self._ends[job.job_id] = end
            elif now > max(end, newest_end) + MAX_OVERDUE:
                _log.warning("a job that expired long ago stays: is the clock right?", extra={"job": job.job_id})
            elif DeletedJobs(self.store.table).expire(job, partial(self._is_due, job, now)):
                _log.info("a job has expired", extra={"job": job.job_id})

    def _is_due(self, job: Job, now: datetime) -> bool:
        return self.tenure.active() and self._end(job, now) <= now

    def _end(self, job: Job, now: datetime) -> datetime:
        status = self.store.status_of(job)
        if job.keep and status.accepted:
            return _NEVER
        used = (job.created_at, status.counts.last_result_at, status.retried_at)
        end = max(moment for moment in used if moment is not None) + self.lifetime
        return end if end <= now + self.lifetime else self._ends.get(job.job_id, now + self.lifetime)
