"""The store of counts: writes the counts of each job into the job table, of which this is the only writer.

Counts are absolute numbers, derived from the statuses of the job's images, and stored after the results. So they
agree with the items in the end, also after repetitions, changes of order and crashes in between.

The counts of an open job are stored a few times a second at most, however many results it gets. A controller that
ends in between has recorded more results than it has counted: the reconciler of the next one finds the difference.

Counts carry the controller's fencing token: a controller that was frozen while another one acquired the lease cannot
store old counts.
"""

import logging
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from botocore.exceptions import BotoCoreError, ClientError

from core.jobs.figures import JobFigures
from core.jobs.models import Counts
from services.errors import FleetsightError
from services.side_by_side import side_by_side
from web_tier.controller.job_cache import LOAD_SECONDS, JobCache

_log = logging.getLogger(__name__)

COUNTS_SECONDS = 0.25
"""Shortest time between two writes of the counts of a job."""
MAX_COUNTS_A_SECOND = 200
"""Jobs with counts that are written in a second: of more jobs, each is written less often."""
COUNTS_TICK_SECONDS = 0.1
WAIT_SECONDS = 0.005
"""Time between two checks whether another thread has stored counts."""
MAX_DOUBLINGS = 7
"""After so many failures the pause between two writes of the counts of a job, half a minute, grows no further."""


class StaleTokenError(FleetsightError):
    """Raised when a controller that acquired the lease later has stored a job's counts."""


class CountsNotStoredError(FleetsightError):
    """Raised when the counts of a job that may be closed are not stored yet."""


@dataclass
class CountsStore:
    """Stores counts that have changed. Its methods may be called from several threads."""

    jobs: JobCache
    _open: frozenset[str] = field(default=frozenset(), init=False)
    """Open jobs, of which a reconciler finds results that are not counted."""
    _writing: set[str] = field(default_factory=set, init=False)
    """Jobs with counts that a thread is storing: no other may, since the older figures could be stored last."""
    _stored_at: dict[str, float] = field(default_factory=dict, init=False)
    """When the counts of jobs were last stored; after failures, when they may be tried again."""
    _failures: Counter[str] = field(default_factory=Counter, init=False)
    """Failures in a row to store the counts of jobs."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Guards the attributes above; never held during a call of a service."""

    def set_open_jobs(self, job_ids: Iterable[str]) -> None:
        """Take over which jobs are open: the reconciler will find results of theirs that are not counted."""
        self._open = frozenset(job_ids)

    def is_open(self, job_id: str) -> bool:
        """Return whether a job is known as open: it is not closed before its results file has its present counts."""
        return job_id in self._open

    def tick(self) -> float:
        """Store the counts that have changed; return the seconds until the next round."""
        self.write()
        changed = set(self.jobs.changed())
        with self._lock:
            # Of so many jobs each may have to wait so long, also if none has changed at this moment.
            latest = self._latest_write(len(self._stored_at))
            self._stored_at = {key: at for key, at in self._stored_at.items() if key in changed or at > latest}
            self._failures = Counter({key: failures for key, failures in self._failures.items() if key in changed})
        return COUNTS_TICK_SECONDS if changed else COUNTS_SECONDS

    def write(self, job_ids: Collection[str] | None = None, *, at_once: bool = False) -> None:
        """Store the counts that have changed, of `job_ids` or of all jobs, unless they were stored just now.

        Counts that cannot be stored are logged, and tried again later.

        Args:
            job_ids: None for all jobs.
            at_once: also store counts that were stored just now.

        Raises:
            StaleTokenError: when another controller has taken over.
        """
        with self._lock:
            waiting = [job_id for job_id in self.jobs.changed() if job_id not in self._writing]
            latest = float("inf") if at_once else self._latest_write(len(waiting))
            due = [
                job_id
                for job_id in waiting
                if (job_ids is None or job_id in job_ids) and self._stored_at.get(job_id, latest) <= latest
            ]
            self._writing.update(due)
        try:
            with self.jobs.marking_removed(due):
                # Here, since no call of the pool may wait for a job's lock.
                sums = [(job_id, *summed) for job_id in due if (summed := self.jobs.sum_counts(job_id))]
                errors = side_by_side(self.jobs.store.table.pool, self._store, sums)
        finally:
            with self._lock:
                self._writing.difference_update(due)
        for error in errors:
            if isinstance(error, StaleTokenError):
                raise error

    def write_unless_open(self, job_ids: Collection[str]) -> None:
        """Store the changed counts of those jobs that are not known as open: no reconciler finds what is not counted.

        Raises:
            CountsNotStoredError: some are not stored yet.
        """
        left, deadline = set(job_ids) - self._open, self.jobs.clock.monotonic() + LOAD_SECONDS
        while left:
            self.write(left, at_once=True)
            left.intersection_update(self.jobs.changed())
            with self._lock:
                has_failed = any(self._failures[job_id] for job_id in left)
            if left and (has_failed or self.jobs.clock.monotonic() >= deadline):
                raise CountsNotStoredError(f"counts are not stored yet: of {', '.join(sorted(left))}")
            if left:  # another thread is storing them, or has counted other results since
                self.jobs.clock.sleep(WAIT_SECONDS)

    def rewrite(self, job_id: str, *, may_close: bool = False) -> bool:
        """Store the job's counts again if the table has others, as after a late write of an earlier holder.

        Returns whether the table had the counts already. If the job `may_close`, the counts of results that come from
        now on are stored before their responses are deleted.
        """
        if may_close:
            self._open -= {job_id}
        with self.jobs.hold(job_id) as job:
            if job is None or JobFigures(self.jobs.store.table).counts(job_id) == job.summed():
                return True
            self.jobs.mark_changed(job_id)
        self.write([job_id], at_once=True)
        return False

    def _latest_write(self, jobs: int) -> float:
        """Return when counts that are due were written last, at the latest, if those of so many jobs have changed."""
        return self.jobs.clock.monotonic() - max(COUNTS_SECONDS, jobs / MAX_COUNTS_A_SECOND)

    def _store(self, summed: tuple[str, Counts, int]) -> Exception | None:
        job_id, counts, change = summed
        error: Exception | None = None
        try:
            if not JobFigures(self.jobs.store.table).store_counts(job_id, counts, self.jobs.tenure.token):
                error = StaleTokenError(f"a later controller has stored the counts of the job {job_id!r}")
        except (BotoCoreError, ClientError, FleetsightError) as raised:
            error = raised
            _log.warning("counts could not be stored", extra={"job": job_id, "reason": str(error)})
        if error is None:
            self.jobs.mark_stored(job_id, change)
        with self._lock:
            self._writing.discard(job_id)
            failures = self._failures[job_id] = self._failures[job_id] + 1 if error else 0
            pause = COUNTS_SECONDS * (2 ** min(failures, MAX_DOUBLINGS) - 1)
            self._stored_at[job_id] = self.jobs.clock.monotonic() + pause
        return error
