"""Cancelled jobs, as a worker sees them: by their tombstones in the input bucket."""

import threading

from core.ids import cancelled_key
from services.clock import CLOCK, Clock
from services.recent_dict import RecentDict
from services.s3 import Bucket

RECHECK_SECONDS = 2.0
"""For so long a worker classifies images of a job without asking again whether it is cancelled: it costs one read of
the bucket per job and period, less than a thousandth of what the instance costs."""

MAX_JOBS = 1_000
"""Jobs that are remembered at a time, those asked for last."""

LOCKS = 64
"""Locks that the jobs share, so that threads ask once about a job, and a slow answer delays few other jobs."""


class CancelledJobs:
    """Finds out which jobs are cancelled; threads may share it.

    Only "not cancelled" is remembered, and only for `RECHECK_SECONDS`: a retry deletes the tombstone before it sends
    requests, so an image that is requested after that is never taken for cancelled.
    """

    def __init__(self, inputs: Bucket, clock: Clock = CLOCK) -> None:
        self._inputs, self._clock = inputs, clock
        self._checked = RecentDict[str, float](MAX_JOBS)
        self._lock = threading.Lock()
        self._asking = tuple(threading.Lock() for _ in range(LOCKS))

    def has(self, job_id: str) -> bool:
        """Return whether a job is cancelled, or was not cancelled at most `RECHECK_SECONDS` ago."""
        now = self._clock.monotonic()
        if self._was_checked(job_id, now):
            return False
        with self._asking[hash(job_id) % len(self._asking)]:
            if self._was_checked(job_id, now):  # by a thread with another image of this job
                return False
            if self._inputs.exists(cancelled_key(job_id)):
                return True
            with self._lock:
                self._checked[job_id] = now
            return False

    def _was_checked(self, job_id: str, now: float) -> bool:
        with self._lock:
            return now - self._checked.get(job_id, float("-inf")) < RECHECK_SECONDS
