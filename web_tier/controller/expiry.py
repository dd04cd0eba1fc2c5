"""Expiry: jobs whose owners did not ask to keep them are deleted when they are old enough.

Deleted as by their owner: what is left of them is removed by `web_tier/controller/removal.py`. A job that may still
have images without a result is left for a later look.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from services.jobs import JobStore

_log = logging.getLogger(__name__)

EVERY_SECONDS = 600.0
"""Between two looks; each reads the jobs that are old enough, kept ones among them."""


@dataclass(frozen=True)
class Expiry:
    """Deletes old jobs that are not kept.

    Attributes:
        lifetime: from a job's creation to its end; zero: jobs do not expire.
        active: whether this process may still act; asked before each deletion.
        now: the time of day.
    """

    store: JobStore
    lifetime: timedelta
    active: Callable[[], bool]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def tick(self) -> float:
        """Delete what has expired; return the seconds until the next look."""
        if self.lifetime:
            opened = {job.job_id for job in self.store.open_jobs()}
            for job in self.store.jobs_until(self.now() - self.lifetime):
                if not self.active():
                    break
                if not job.keep and job.job_id not in opened:
                    self.store.delete(job)
                    _log.info("a job has expired", extra={"job": job.job_id})
        return EVERY_SECONDS
