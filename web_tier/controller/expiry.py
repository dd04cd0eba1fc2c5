"""Expiry: old jobs are deleted, unless their owners asked to keep them and they have images.

They are deleted as by their owner: `web_tier/controller/removal.py` removes what is left of them. A job that may
still have images without a result is left for a later round.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from services.job_records import Job
from services.jobs import JobStore

_log = logging.getLogger(__name__)

EVERY_SECONDS = 600.0
"""Between two looks; each reads the jobs that are old enough, kept ones among them."""


@dataclass(frozen=True)
class Expiry:
    """Deletes old jobs that are not kept, or empty.

    Attributes:
        lifetime: from a job's creation to its end; zero: jobs do not expire.
        active: whether this process may still act; asked before each deletion.
        now: the time of day.
    """

    store: JobStore
    lifetime: timedelta
    active: Callable[[], bool]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _filled: set[str] = field(default_factory=set, init=False)
    """Kept jobs that were seen to have images, so that each is read once only."""

    def tick(self) -> float:
        """Delete what has expired; return the seconds until the next look."""
        if self.lifetime:
            opened = {job.job_id for job in self.store.open_jobs()}
            for job in self.store.jobs_until(self.now() - self.lifetime):
                if not self.active():
                    break
                if job.job_id not in opened and not (job.keep and self._has_images(job)):
                    self.store.delete(job)
                    _log.info("a job has expired", extra={"job": job.job_id})
        return EVERY_SECONDS

    def _has_images(self, job: Job) -> bool:
        if job.job_id not in self._filled and self.store.status_of(job).state != "empty":
            self._filled.add(job.job_id)
        return job.job_id in self._filled
