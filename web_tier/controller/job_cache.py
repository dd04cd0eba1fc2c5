"""The job cache: what is known of the jobs that get results, read from the job table once and then kept in memory.

What is known of a job is read and changed only under the job's lock, so threads take turns for each job. A job that
takes long to read delays no other. Jobs that were not used for longest are forgotten, and read again for their next
result, unless the table does not have their counts yet.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import count

from core.jobs.figures import JobFigures
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Counts, Job
from core.jobs.store import JobStore
from services.clock import CLOCK, Clock
from services.errors import FleetsightError, NotFoundError
from services.lease import Tenure
from services.table import PAGE
from web_tier.controller.job_counts import JobCounts
from web_tier.results.image_statuses import ImageStatuses

_log = logging.getLogger(__name__)

MAX_IMAGES = 10_000_000
"""Images with a status that is kept in memory, over all jobs; 17 bytes each. Beyond it, unfinished jobs are
forgotten, too, and read again for their next result."""
MAX_ANSWERED = 1_000_000
"""Of these, images of jobs in which all have their results: what may still come for those is a repeat."""
LOAD_SECONDS = 1.0
"""How long results of all jobs wait while jobs are read that are not known yet."""
PROBLEM_SECONDS = 60.0
"""How long operators see that unfinished jobs are forgotten."""
READERS = 8
"""Jobs that are read at the same time."""
LARGE_JOB = 20_000
"""Images of a job that takes seconds to read. At most half of the readers read such jobs."""


class JobLoadingError(FleetsightError):
    """Raised when the images of a job are still being read, so none of its results can be recorded yet."""


class JobLocks:
    """A reentrant lock for each job in use, so that no job waits for another one.

    Args:
        new_lock: returns a reentrant lock.
    """

    def __init__(self, new_lock: Callable[[], AbstractContextManager[object]] = threading.RLock) -> None:
        self._new_lock, self._guard = new_lock, threading.Lock()
        self._locks: dict[str, AbstractContextManager[object]] = {}
        self._users: Counter[str] = Counter()

    @contextmanager
    def using(self, job_ids: Iterable[str]) -> Iterator[None]:
        """Mark jobs as in use, without waiting for their locks: the cache forgets none of them meanwhile."""
        used = set(job_ids)
        with self._guard:
            self._users.update(used)
        try:
            yield
        finally:
            with self._guard:
                self._users.subtract(used)
                for job_id in used:
                    if not self._users[job_id]:
                        del self._users[job_id]
                        self._locks.pop(job_id, None)

    @contextmanager
    def hold(self, *job_ids: str) -> Iterator[None]:
        """Wait until no other thread holds the lock of any of `job_ids`, then hold all of them."""
        with self.using(job_ids), ExitStack() as held:
            for job_id in sorted(job_ids):  # in one order, so that no two threads wait for each other
                with self._guard:
                    lock = self._locks.setdefault(job_id, self._new_lock())
                held.enter_context(lock)
            yield

    def in_use(self) -> Collection[str]:
        """Return the jobs that a thread uses."""
        with self._guard:
            return set(self._users)


@dataclass
class JobCache:
    """What is known of jobs. Its methods may be called from several threads.

    Attributes:
        readers: reads jobs that are not known yet.
        max_images: bound of what is remembered; the jobs that were used last stay.
        max_answered: the same for jobs in which every image has its result.
        locks: a lock for each job; tests replace it to control which thread runs.
    """

    store: JobStore
    tenure: Tenure
    readers: Executor
    max_images: int = MAX_IMAGES
    max_answered: int = MAX_ANSWERED
    locks: JobLocks = field(default_factory=JobLocks)
    clock: Clock = CLOCK
    _jobs: "OrderedDict[str, JobCounts]" = field(default_factory=OrderedDict, init=False)
    _reading: "dict[str, tuple[Future[bool], float]]" = field(default_factory=dict, init=False)
    """Jobs that are being read, with the time since when."""
    _large_reads: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(READERS // 2), init=False)
    _changed: dict[str, int] = field(default_factory=dict, init=False)
    """Jobs with counts that the table does not have, each with the number of its last change, longest wait first."""
    _changes: "count[int]" = field(default_factory=count, init=False)
    _forgotten_at: float = field(default=float("-inf"), init=False)
    """When a job with images without a result was last forgotten."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Guards the attributes above; never held during a call of a service."""

    def load(self, job_ids: Iterable[str]) -> tuple[list[str], dict[str, Exception]]:
        """Return those jobs that exist and are known, after reading the others, and the errors of those unread."""
        existing, errors, unknown = list[str](), dict[str, Exception](), list[str]()
        for job_id in job_ids:
            with self._lock:
                if is_known := job_id in self._jobs:
                    self._jobs.move_to_end(job_id)
            (existing if is_known else unknown).append(job_id)
        for job_id, (future, since) in {job_id: self._start_reading(job_id) for job_id in unknown}.items():
            try:
                exists = future.result(max(0.0, since + LOAD_SECONDS - self.clock.monotonic()))
                existing += [job_id] if exists else []
            except TimeoutError:
                errors[job_id] = JobLoadingError(f"the images of the job {job_id!r} are still being read")
            except Exception as error:  # noqa: BLE001 (an item that cannot be read delays its job alone)
                errors[job_id] = error
        return existing, errors

    def is_read(self, job_id: str) -> bool:
        """Return whether what the table has of a job is known; if not, it is being read."""
        _, errors = self.load([job_id])
        for error in errors.values():
            if not isinstance(error, JobLoadingError):
                raise error
        return not errors

    @contextmanager
    def hold(self, job_id: str) -> Iterator[JobCounts | None]:
        """Hold a job's lock, and yield what is known of the job, reading it if need be; None: it does not exist."""
        with self.locks.hold(job_id):
            yield self._known_or_read(job_id)

    @contextmanager
    def hold_known(self, job_ids: Collection[str]) -> Iterator[dict[str, JobCounts]]:
        """Hold the locks of several jobs, and yield what is known of them; none is read, since that takes long."""
        with self.locks.hold(*job_ids):
            with self._lock:
                known = {job_id: self._jobs[job_id] for job_id in job_ids if job_id in self._jobs}
            yield known

    def with_limit(self, job_ids: Iterable[str]) -> list[str]:
        """Return those of `job_ids` that are known and have a limit of failures; this waits for no job."""
        with self._lock:
            known = ((job_id, self._jobs.get(job_id)) for job_id in job_ids)
            return [job_id for job_id, job in known if job is not None and job.max_failed_percent is not None]

    def evict(self, job_id: str) -> None:
        """Forget a job that was deleted; what still comes for it belongs to no job."""
        with self.locks.hold(job_id), self._lock:
            self._jobs.pop(job_id, None)
            self._changed.pop(job_id, None)

    def mark_changed(self, job_id: str) -> None:
        """Remember that the table does not have the job's counts; to be called under the job's lock."""
        with self._lock:
            if job_id in self._jobs:
                self._changed[job_id] = next(self._changes)

    def changed(self) -> list[str]:
        """Return the jobs with counts that the table does not have, those that wait longest first."""
        with self._lock:
            return list(self._changed)

    def sum_counts(self, job_id: str) -> tuple[Counts, int] | None:
        """Return the counts of a job that has changed, and the number of its last change; None if it was deleted."""
        with self.locks.hold(job_id):
            with self._lock:
                job, change = self._jobs.get(job_id), self._changed.get(job_id)
            if job is None or change is None:
                return None
            job.counts = job.summed()
            return job.counts, change

    def mark_stored(self, job_id: str, change: int) -> None:
        """Remember that the table has the job's counts as they were after a change; there may be a later one."""
        with self._lock:
            if self._changed.get(job_id) == change:
                del self._changed[job_id]

    @contextmanager
    def marking_removed(self, job_ids: Iterable[str]) -> Iterator[None]:
        """Mark the jobs as deleted again that were removed while this controller was frozen before its write."""
        try:
            yield
        finally:
            if not self.tenure.active():
                for job_id in job_ids:
                    DeletedJobs(self.store.table).mark_if_removed(job_id)

    def problem(self) -> str | None:
        """Return what slows all results down, for operators, or None."""
        if self.clock.monotonic() - self._forgotten_at > PROBLEM_SECONDS:
            return None
        return (
            f"unfinished jobs have more than {self.max_images:,} images: the controller reads jobs again for their "
            "results; fewer open jobs, or a lower images_per_day, help"
        )

    def _start_reading(self, job_id: str) -> "tuple[Future[bool], float]":
        """Begin to read a job, unless that has begun; return what becomes of it, and when it began."""
        if (reading := self._reading.get(job_id)) is None:
            reading = self.readers.submit(self._exists, job_id), self.clock.monotonic()
            self._reading[job_id] = reading
            reading[0].add_done_callback(lambda _: self._reading.pop(job_id, None))
        return reading

    def _exists(self, job_id: str) -> bool:
        with self.hold(job_id) as job:
            return job is not None

    def _known_or_read(self, job_id: str) -> JobCounts | None:
        with self._lock:
            if job_id in self._jobs:
                self._jobs.move_to_end(job_id)
                return self._jobs[job_id]
        try:
            job = self.store.job(job_id)
        except NotFoundError:
            return None
        stored = JobFigures(self.store.table).counts(job_id)
        is_large = stored.images > LARGE_JOB
        if is_large and not self._large_reads.acquire(blocking=False):
            raise JobLoadingError(f"the job {job_id!r} is not read yet: other large ones are")
        try:
            job_counts = self._read(job, stored)
        finally:
            if is_large:
                self._large_reads.release()
        with self._lock:
            self._jobs[job_id] = job_counts
            if job_counts.summed() != stored:
                self._changed[job_id] = next(self._changes)
            self._evict_unused()
        return job_counts

    def _read(self, job: Job, stored: Counts) -> JobCounts:
        """Return what the table has of a job; only a page of its images and results is in memory at a time."""
        job_id, resends = job.job_id, self.store.resends(job.job_id)
        job_counts = JobCounts(Counts(), job.keep, job.owner, job.group, max_failed_percent=job.max_failed_percent)
        results = self.store.summaries(job_id)
        result_id, result = next(results, ("", None))
        # Both are in the order of the images' ids. Without a record, a result belongs to no accepted image.
        for number, image in enumerate(self.store.images(job_id)):
            if number % PAGE == 0 and not self.tenure.active():
                raise JobLoadingError(f"the job {job_id!r} was not read: this controller no longer acts")
            image_id = image.ref.image_id
            while result is not None and result_id < image_id:
                result_id, result = next(results, ("", None))
            job_counts.add_stored(image, result if result_id == image_id else None)
        job_counts.resends |= {key: resend for key, resend in resends.items() if key in job_counts.statuses}
        job_counts.counts = derived(job_counts.statuses, stored, self.clock.utc_now())
        return job_counts

    def _evict_unused(self) -> None:
        """Forget jobs that no thread uses, those used longest ago first, until the rest is within the bounds."""
        in_use = {*self.locks.in_use(), *self._changed}
        answered = [job_id for job_id, each in self._jobs.items() if each.answered and job_id not in in_use]
        self._evict_beyond(self.max_answered, answered, in_use)
        self._evict_beyond(self.max_images, list(self._jobs), in_use)

    def _evict_beyond(self, max_images: int, job_ids: Sequence[str], in_use: Collection[str]) -> None:
        """Forget the first of `job_ids` that are not in use until the images of the rest are at most `max_images`."""
        images = sum(len(self._jobs[job_id].statuses) for job_id in job_ids)
        for job_id in job_ids:
            if images > max_images and job_id not in in_use:
                job_counts = self._jobs.pop(job_id)
                images -= len(job_counts.statuses)
                if not job_counts.answered:
                    self._forgotten_at = self.clock.monotonic()
                    extra = {"job": job_id, "max_images": max_images}
                    _log.warning("a job with images without a result is read again for its results", extra=extra)


def derived(statuses: ImageStatuses, stored: Counts, now: datetime) -> Counts:
    """Return the counts that `statuses` make; their times are the `stored` ones, or `now` if results came since."""
    done, failed = statuses.count("done"), statuses.count("failed")
    if (done, failed) == (stored.done, stored.failed):
        return stored
    return replace(
        stored, done=done, failed=failed, first_result_at=stored.first_result_at or now, last_result_at=now
    )
