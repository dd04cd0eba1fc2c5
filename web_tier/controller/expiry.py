"""Expiry: jobs that were not used for a while are deleted, unless their owners keep them and they have images.

They are deleted as by their owner: `web_tier/controller/removal.py` removes what is left of them. A job that may
still have images without a result is left for a later round.

A wrong clock must delete nothing. So a job that expired long ago stays while there is no newer job: either the clock
is wrong, or the system was not used.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

from core.job_records import Job
from core.jobs import JobStore

_log = logging.getLogger(__name__)

EVERY_SECONDS = 600.0
"""Between two looks; each reads the jobs that are old enough, kept ones among them."""

MAX_OVERDUE = timedelta(days=30)
"""A job that expired longer ago is deleted only if the newest job has not, too."""

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class JobExpiry:
    """Deletes old jobs that are not kept, or empty.

    Attributes:
        lifetime: from a job's creation, last result or last retry to its end; zero: jobs do not expire.
        active: whether this process may still act; asked before each deletion.
        now: the time of day.
    """

    store: JobStore
    lifetime: timedelta
    active: Callable[[], bool]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _ends: dict[str, datetime] = field(default_factory=dict, init=False)
    """When old jobs end that were used after their creation, so that each is read again only then."""

    def tick(self) -> float:
        """Delete what has expired; return the seconds until the next look."""
        if self.lifetime and self.active():
            self.store.take_back_expiries()
            newest = self.store.newest_job()
            if newest is not None:
                self._delete_expired(newest.created_at + self.lifetime)
        return EVERY_SECONDS

    def _delete_expired(self, newest_end: datetime) -> None:
        now = self.now()
        for job in self.store.jobs_until(now - self.lifetime):
            if not self.active():
                return
            if self._ends.get(job.job_id, now) > now:
                continue
            end = self._end(job)
            if end > now:
                self._ends[job.job_id] = end
            elif now > max(end, newest_end) + MAX_OVERDUE:
                _log.warning("a job that expired long ago stays: is the clock right?", extra={"job": job.job_id})
            elif self.store.expire(job, partial(self._is_due, job, now)):
                _log.info("a job has expired", extra={"job": job.job_id})

    def _is_due(self, job: Job, now: datetime) -> bool:
        return self.active() and self._end(job) <= now

    def _end(self, job: Job) -> datetime:
        status = self.store.status_of(job)
        if job.keep and status.state != "empty":
            return _NEVER
        used = (job.created_at, status.counts.last_at, status.retried_at)
        return max(moment for moment in used if moment is not None) + self.lifetime
