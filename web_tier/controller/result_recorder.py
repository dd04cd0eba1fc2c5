"""The recorder: puts results into the job table and keeps each job's counts, of which this is the only writer.

Counts are absolute numbers, derived from the statuses of the job's images, and stored after the results. So they
agree with the items in the end, also after repetitions, changes of order and crashes in between.

On AWS a call takes some milliseconds, so the calls for the results of many jobs are made side by side. The counts of
an open job are stored a few times a second at most, however many results it gets. A controller that ends in between
has recorded more results than it has counted: the reconciler of the next one finds the difference.

`done` beats `failed`, and the failure of a later attempt beats that of an earlier one. Counts carry the controller's
fencing token: a controller that was frozen while another one acquired the lease cannot store old counts.
"""

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice

from botocore.exceptions import BotoCoreError, ClientError

from core.ids import ImageRef, first_id_of, input_key, output_key
from core.jobs.dead_letters import DeadLetterStore, is_given_up
from core.jobs.models import Counts, ImageRecord, Job, Resend, with_answers, with_cached
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Model, is_cancelled
from services.backoff import pause_seconds
from services.clock import utc_now
from services.errors import FleetsightError, NotFoundError
from services.side_by_side import outcomes, side_by_side
from services.table import BATCH_ATTEMPTS, PAGE, is_throttled
from web_tier.controller.job_counts import ImageStatuses, JobCounts, MissingImages

_log = logging.getLogger(__name__)

MAX_IMAGES = 10_000_000
"""Images with a status that is kept in memory, over all jobs; 27 bytes each. Beyond it, unfinished jobs are
forgotten, too, and read again for their next result."""
MAX_ANSWERED = 1_000_000
"""Of these, images of jobs in which all have their results: what may still come for those is a repeat."""
FEW = 3
"""Up to so many unknown images of a job are looked up by their ids, more with a query."""
RECENT = 2_000
"""Known images that `learn_recent` reads again, those with the last ids: while several uploads run, images are not
recorded in the order of their ids."""
COUNTS_SECONDS = 0.25
"""Shortest time between two writes of the counts of a job."""
MAX_COUNTS_A_SECOND = 200
"""Jobs with counts that are written in a second: of more jobs, each is written less often."""
COUNTS_TICK_SECONDS = 0.1
WAIT_SECONDS = 0.005
"""Time between two checks whether another thread has stored counts."""
MAX_DOUBLINGS = 7
"""After so many failures the pause between two writes of the counts of a job, half a minute, grows no further."""
LOAD_SECONDS = 1.0
"""How long results of all jobs wait while jobs are read that are not known yet."""
PROBLEM_SECONDS = 60.0
"""How long operators see that unfinished jobs are forgotten."""
READERS = 8
"""Jobs that are read at the same time."""
LARGE_JOB = 20_000
"""Images of a job that takes seconds to read. At most half of the readers read such jobs."""
SWITCH = timedelta(hours=1)
"""Time after a change of the table in which web tiers may still use the former one, and clocks may differ."""
LOOKUP = 100
"""Images that are read again at a time."""

_ERRORS = (BotoCoreError, ClientError, FleetsightError)


class StaleTokenError(FleetsightError):
    """Raised when a controller that acquired the lease later has stored a job's counts."""


class CountsNotStoredError(FleetsightError):
    """Raised when the counts of a job that may be closed are not stored yet."""


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
        """Mark jobs as in use, without waiting for their locks."""
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
class ResultRecorder:
    """Records results. Its methods may be called from several threads, which take turns for each job.

    What is known of a job is read and changed only under the job's lock. While a thread holds locks of several jobs,
    it makes each call once: it waits for no job that is throttled or still being read.

    Attributes:
        store: the job table.
        delete_inputs: deletes these keys of the input bucket; one that is gone is no error.
        delete_outputs: the same of the output bucket.
        token: the fencing token with which counts are stored.
        max_images: bound of what is remembered; the jobs that were used last stay.
        max_answered: the same for jobs in which every image has its result.
        active: whether this process may still act; if not, the job of its last write may have been removed before it.
        table_since: since when this table is used instead of another one; None if no other ever was.
        now: the wall clock, for the times of a job's first and last result.
        on_results: called with the number of workers' answers that were recorded just now; returns the number of the
            billing period that they belong to, or None.
        on_recorded: called with the results that were recorded just now, without repeats. Those that name no model
            have that of their job.
        on_attributed: called with a job's owner and id, the billing period and these answers, for the cost report.
        locks: a lock for each job; tests replace it to control which thread runs.
        pool: makes calls side by side; None: one after another.
        readers: reads jobs that are not known yet; None: the calling thread does, for as long as it takes.
    """

    store: JobStore
    delete_inputs: Callable[[Sequence[str]], None]
    delete_outputs: Callable[[Sequence[str]], None] = lambda _keys: None
    token: int = 0
    max_images: int = MAX_IMAGES
    max_answered: int = MAX_ANSWERED
    active: Callable[[], bool] = lambda: True
    table_since: datetime | None = None
    now: Callable[[], datetime] = utc_now
    on_results: Callable[[int], int | None] = lambda _answers: None
    on_recorded: Callable[[Sequence[ClassificationResult]], None] = lambda _results: None
    on_attributed: Callable[[str, str, int, Sequence[ClassificationResult]], None] = lambda *_: None
    locks: JobLocks = field(default_factory=JobLocks)
    pool: Executor | None = None
    readers: Executor | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _jobs: "OrderedDict[str, JobCounts]" = field(default_factory=OrderedDict, init=False)
    _reading: "dict[str, tuple[Future[bool], float]]" = field(default_factory=dict, init=False)
    """Jobs that are being read, with the time since when."""
    _large_reads: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(READERS // 2), init=False)
    _open: frozenset[str] = field(default=frozenset(), init=False)
    """Open jobs, of which a reconciler finds results that are not counted."""
    _changed: dict[str, None] = field(default_factory=dict, init=False)
    """Jobs with counts that are not stored yet, those that wait longest first."""
    _writing: set[str] = field(default_factory=set, init=False)
    """Jobs with counts that a thread is storing: no other may, since the older figures could be stored last."""
    _forgotten_at: float = field(default=float("-inf"), init=False)
    """When a job with images without a result was last forgotten."""
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Guards the attributes above; never held during a call of a service."""

    def record(self, responses: Sequence[ClassificationResult]) -> None:
        """Put results; all of it may be repeated.

        While the table throttles, those that are left are tried again, with pauses, up to `BATCH_ATTEMPTS` times.

        Raises:
            Exception: the first reason why one could not be recorded; record all of them again.
        """
        errors, left = dict[ImageRef, Exception](), responses
        for attempt in range(BATCH_ATTEMPTS):
            if attempt:
                self.sleep(pause_seconds(attempt, first=0.1, maximum=5.0))
            errors = self.record_each(left)
            left = [response for response in left if response.ref in errors]
            if not (left and self.active() and all(is_throttled(error) for error in errors.values())):
                break
        for error in errors.values():
            raise error

    def record_each(self, responses: Iterable[ClassificationResult]) -> dict[ImageRef, Exception]:
        """Put results of several jobs; return the images with results to be recorded again, with the reason.

        Unless its job keeps them, an image is deleted once its label is stored. The counts of a job that is known as
        open are stored a moment later; those of another one before this method returns, since no reconciler would
        find that results are not counted.

        What belongs to no job or no accepted image is logged and dropped; of a job that does not exist, the stored
        predictions are deleted.
        """
        by_job: dict[str, list[ClassificationResult]] = {}
        for response in responses:
            by_job.setdefault(response.job_id, []).append(response)
        errors: dict[ImageRef, Exception] = {}
        with self.locks.using(by_job):
            existing, unread = self._load(by_job)
            for job_id, error in unread.items():
                errors |= {response.ref: error for response in by_job[job_id]}
            absent = [each for job_id in by_job if job_id not in {*existing, *unread} for each in by_job[job_id]]
            errors |= self._try(self._drop, absent)
            best = {job_id: best_by_image(by_job[job_id]) for job_id in existing}
            with self.locks.hold(*existing):
                labelled = self._record_jobs(best, errors)
            errors |= self._try(self._store_urgent, [each for job_id in existing for each in best[job_id]])
            # Also of those that were recorded before: the process that did may have died before this.
            errors |= self._try(lambda found: self.delete_inputs(inputs_of(found)), labelled)
        return errors

    def _try(
        self, action: Callable[[Sequence[ClassificationResult]], None], responses: Sequence[ClassificationResult]
    ) -> dict[ImageRef, Exception]:
        """Do something with all of `responses`; return the reason for all of them if that fails."""
        try:
            if responses:
                action(responses)
        except _ERRORS as error:
            return {response.ref: error for response in responses}
        return {}

    def owners(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return the owners of those of `job_ids` that exist.

        What has to be read for it need not be read again when their results are recorded. A job that is still being
        read is left out.
        """
        existing, _ = self._load(dict.fromkeys(job_ids))
        with self._lock:
            return {job_id: self._jobs[job_id].owner for job_id in existing if job_id in self._jobs}

    def is_read(self, job_id: str) -> bool:
        """Return whether what the table has of a job is known; if not, it is being read."""
        _, errors = self._load([job_id])
        for error in errors.values():
            if not isinstance(error, JobLoadingError):
                raise error
        return not errors

    def set_open_jobs(self, job_ids: Iterable[str]) -> None:
        """Take over which jobs are open: the reconciler will find results of theirs that are not counted."""
        self._open = frozenset(job_ids)

    def write_counts(self, job_ids: Collection[str] | None = None, *, at_once: bool = False) -> None:
        """Store the counts that have changed, of `job_ids` or of all jobs, unless they were stored just now.

        Counts that cannot be stored are logged, and tried again later.

        Args:
            job_ids: None for all jobs.
            at_once: also store counts that were stored just now.

        Raises:
            StaleTokenError: when another controller has taken over.
        """
        with self._lock:
            pause = max(COUNTS_SECONDS, len(self._changed) / MAX_COUNTS_A_SECOND)
            latest = float("inf") if at_once else self.clock() - pause
            due = [
                job_id
                for job_id in self._changed
                if (job_ids is None or job_id in job_ids)
                and job_id not in self._writing
                and self._jobs[job_id].stored_at <= latest
            ]
            for job_id in due:
                del self._changed[job_id]
            self._writing.update(due)
        try:
            errors = side_by_side(self.pool, self._store_counts, [each for each in map(self._summed, due) if each])
        finally:
            with self._lock:
                untried = [job_id for job_id in due if job_id in self._writing and job_id in self._jobs]
                self._changed |= dict.fromkeys(untried)
                self._writing.difference_update(due)
            if due and not self.active():
                for job_id in due:
                    self.store.mark_if_removed(job_id)
        for error in errors:
            if isinstance(error, StaleTokenError):
                raise error

    def _store_urgent(self, responses: Sequence[ClassificationResult]) -> None:
        """Store the changed counts of those jobs that are not known as open.

        Raises:
            CountsNotStoredError: some are not stored yet.
        """
        left, deadline = {response.job_id for response in responses} - self._open, self.clock() + LOAD_SECONDS
        while left:
            self.write_counts(left, at_once=True)
            with self._lock:
                left &= self._changed.keys() | self._writing
                has_failed = any(self._jobs[job_id].failures_to_store for job_id in left & self._jobs.keys())
            if left and (has_failed or self.clock() >= deadline):
                raise CountsNotStoredError(f"counts are not stored yet: of {', '.join(sorted(left))}")
            if left:  # another thread is storing them, or has counted other results since
                self.sleep(WAIT_SECONDS)

    def tick(self) -> float:
        """Store the counts that have changed; return the seconds until the next round."""
        self.write_counts()
        return COUNTS_TICK_SECONDS if self._changed else COUNTS_SECONDS

    def is_accepted(self, ref: ImageRef) -> bool:
        """Return whether `ref` is an accepted image of a job that exists."""
        with self.locks.hold(ref.job_id):
            job_counts = self._job_counts(ref.job_id)
            if job_counts is None:
                return False
            if ref.image_id not in job_counts.statuses:
                job_counts.add_images(self._records([ref]).values())
            return ref.image_id in job_counts.statuses

    def learn_recent(self, job_id: str) -> None:
        """Learn from the table which images were added last or taken back; the cost does not grow with the job."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            after = "" if job_counts is None else job_counts.statuses.last(RECENT)
        if job_counts is not None:
            self._read_images(job_id, after)

    def resync(self, job_id: str) -> None:
        """Learn from the table which images the job has; costs more the more there are."""
        recorded = self.store.count_images(job_id)
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
        if job_counts is not None and recorded != len(job_counts.statuses):
            self._read_images(job_id, after="")

    def learn_retries(self, job_id: str) -> None:
        """Learn from the table which failed images of the job were retried."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            failed = [] if job_counts is None else list(job_counts.statuses.ids("failed"))
        self._read_all_again(job_id, failed)

    def read_again(self, job_id: str, image_ids: Sequence[str]) -> list[ImageRecord]:
        """Return the records of known images as the table has them now; forget those that were taken back."""
        with self.locks.hold(job_id):
            if (job_counts := self._job_counts(job_id)) is None:
                return []
            records = self._records([ImageRef(job_id, image_id) for image_id in image_ids])
            for image_id in image_ids:
                if ImageRef(job_id, image_id) not in records:
                    job_counts.remove_image(image_id)
            job_counts.add_images(records.values())
            return list(records.values())

    def _records(self, refs: Sequence[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs` that are accepted images, after one try: the caller holds a lock."""
        records, unread = self.store.find_images(refs)
        for error in unread.values():
            raise error
        return records

    def _read_all_again(self, job_id: str, image_ids: Sequence[str]) -> None:
        """Read records again, `LOOKUP` at a time: so long the job's lock is held."""
        for start in range(0, len(image_ids), LOOKUP):
            if self.active():
                self.read_again(job_id, image_ids[start : start + LOOKUP])

    def record_resends(self, job_id: str, resends: Mapping[str, Resend]) -> None:
        """Record requests of a job that were sent again, by image id, and store its counts.

        To be called after they were sent. A controller that ends between the two leaves a resend without a record, so
        no record claims more than was sent.

        Raises:
            TableBusyError: when some could not be put.
            StaleTokenError: when another controller has taken over.
        """
        with self.locks.hold(job_id):
            if (job_counts := self._job_counts(job_id)) is None:
                return
            known = {image_id: resend for image_id, resend in resends.items() if image_id in job_counts.statuses}
            totals = {image_id: resend.after(job_counts.resends.get(image_id)) for image_id, resend in known.items()}
        with self._marking([job_id]):
            self.store.put_resends(job_id, totals)
        with self.locks.hold(job_id):
            job_counts.resends |= {key: total for key, total in totals.items() if key in job_counts.statuses}
            if self._jobs.get(job_id) is job_counts:
                self._mark_changed(job_id)
        self.write_counts([job_id], at_once=True)

    def evict(self, job_id: str) -> None:
        """Forget a job that was deleted; what still comes for it belongs to no job."""
        with self.locks.hold(job_id), self._lock:
            self._jobs.pop(job_id, None)
            self._changed.pop(job_id, None)

    def rewrite_counts(self, job_id: str, *, may_close: bool = False) -> bool:
        """Store the job's counts again if the table has others, as after a late write of an earlier holder.

        Returns whether the table had the counts already. If the job `may_close`, the counts of results that come from
        now on are stored before their responses are deleted.
        """
        if may_close:
            self._open -= {job_id}
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            if job_counts is None or self.store.counts(job_id) == job_counts.summed():
                return True
            self._mark_changed(job_id)
        self.write_counts([job_id], at_once=True)
        return False

    def missing(self, job_id: str) -> dict[str, int]:
        """Return the ids of images without a result of their last attempt, oldest first, each with this attempt."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            return {} if job_counts is None else job_counts.missing()

    def observe_missing(self, job_id: str, known: Iterable[str] = ()) -> MissingImages:
        """Return how many images are missing, and the attempts of some of them, those of `known` included.

        The cost does not grow with the job.
        """
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            return MissingImages() if job_counts is None else job_counts.observe_missing(job_id, known)

    def waiting(self, job_id: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` images without any result, oldest first."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            return [] if job_counts is None else list(islice(job_counts.statuses.ids(None), limit))

    def still_missing(self, job_id: str, image_ids: Sequence[str]) -> list[str]:
        """Return those of `image_ids` that `missing` would return."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            return [] if job_counts is None else [each for each in image_ids if job_counts.is_missing(each)]

    def cancelled(self, job_id: str) -> list[str]:
        """Return the ids of images that failed because the job was cancelled, oldest first."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            return [] if job_counts is None else sorted(job_counts.cancelled)

    def problem(self) -> str | None:
        """Return what slows all results down, for operators, or None."""
        if self.clock() - self._forgotten_at > PROBLEM_SECONDS:
            return None
        return (
            f"unfinished jobs have more than {self.max_images:,} images: the controller reads jobs again for their "
            "results; fewer open jobs, or a lower images_per_day, help"
        )

    # Recording

    def _drop(self, responses: Sequence[ClassificationResult]) -> None:
        """Delete the predictions of jobs that do not exist, except of those that the former table may have."""
        jobs = sorted({response.job_id for response in responses})
        _log.warning("dropped results of jobs that do not exist", extra={"jobs": jobs, "n": len(responses)})
        lost = self._lost_by_restore(response.ref for response in responses)
        if lost:
            extra = {"jobs": sorted({ref.job_id for ref in lost})}
            _log.warning("kept predictions of jobs that the restored table does not have", extra=extra)
        # Their worker may have stored them long after the job was deleted: nothing else would find them.
        self.delete_outputs([output_key(response.ref) for response in responses if response.ref not in lost])

    def may_be_older_than_table(self, item_id: str) -> bool:
        """Return whether a job or an image may have been there before this table was used instead of another one."""
        return self.table_since is not None and item_id < first_id_of(self.table_since + SWITCH)

    def _lost_by_restore(self, refs: Iterable[ImageRef]) -> set[ImageRef]:
        """Return those images whose job may have been created after the moment at which the table was restored.

        This table has had the job of an image that was added later: then it has been deleted.
        """
        older = {ref for ref in refs if self.may_be_older_than_table(ref.image_id)}
        deleted = {job.job_id for job in self.store.deleted_jobs()} if older else set()
        return {ref for ref in older if ref.job_id not in deleted}

    def _record_jobs(
        self, best: Mapping[str, Sequence[ClassificationResult]], errors: dict[ImageRef, Exception]
    ) -> list[ClassificationResult]:
        """Record results of several jobs under their locks; add the reasons of those that are left to `errors`.

        Returns the recorded results of images that are not to be kept.
        """
        with self._lock:
            jobs = {job_id: self._jobs[job_id] for job_id in best if job_id in self._jobs}
        for job_id in best.keys() - jobs.keys():
            gone = JobLoadingError(f"the job {job_id!r} was deleted while it was read")
            errors |= {response.ref: gone for response in best[job_id]}
        with self._marking(jobs):
            self._learn(jobs, best, errors)
            accepted: dict[str, list[ClassificationResult]] = {}
            for job_id, job_counts in jobs.items():
                read = [response for response in best[job_id] if response.ref not in errors]
                known = accepted[job_id] = [each for each in read if each.image_id in job_counts.statuses]
                if unknown := len(read) - len(known):
                    extra = {"job": job_id, "n": unknown}
                    _log.warning("dropped results of images that were never accepted", extra=extra)
            at = self.now()
            # Without digest and trace, which no reader of the table uses: an item above 1 KB is two writes.
            fresh = [
                response.model_copy(update={"recorded_at": at, "sha256": None, "traceparent": None})
                for job_id, known in accepted.items()
                for response in known
                if jobs[job_id].statuses[response.image_id] != "done"
            ]
            for job_id, stored in self._put(fresh, errors).items():
                self._count(jobs[job_id], stored, at)
                self._mark_changed(job_id)
        unkept = [known for job_id, known in accepted.items() if not jobs[job_id].keep]
        return [response for known in unkept for response in known if response.ref not in errors]

    def _learn(
        self,
        jobs: Mapping[str, JobCounts],
        best: Mapping[str, Sequence[ClassificationResult]],
        errors: dict[ImageRef, Exception],
    ) -> None:
        """Look up those images that are not known yet."""

        def unknown_of(job_id: str) -> list[str]:
            statuses = jobs[job_id].statuses
            return [each.image_id for each in best[job_id] if each.image_id not in statuses]

        def read_ahead(job_id: str) -> Sequence[ImageRecord]:
            return list(self.store.images(job_id, min(unknown[job_id])[:-1], limit=PAGE))

        unknown = {job_id: image_ids for job_id in jobs if (image_ids := unknown_of(job_id))}
        # Images mostly arrive in the order of their ids: more unknown ones follow the first one.
        many = [job_id for job_id, image_ids in unknown.items() if len(image_ids) > FEW]
        for job_id, found in outcomes(self.pool, read_ahead, many):
            if isinstance(found, Exception):
                errors |= {ImageRef(job_id, image_id): found for image_id in unknown[job_id]}
            else:
                jobs[job_id].add_images(found)
        refs = [ImageRef(job_id, image_id) for job_id in unknown for image_id in unknown_of(job_id)]
        images, unread = self.store.find_images([ref for ref in refs if ref not in errors])
        for ref, image in images.items():
            jobs[ref.job_id].add_image(image)
        errors |= unread

    def _put(
        self, responses: Sequence[ClassificationResult], errors: dict[ImageRef, Exception]
    ) -> dict[str, list[ClassificationResult]]:
        """Put results; return those that are stored now by their jobs, with the better ones that were there."""
        # First, so that each image that is given up has its dead letter, whenever the controller is killed.
        errors |= DeadLetterStore(self.store).put_each([each for each in responses if is_given_up(each)])
        failures = [each for each in responses if each.status == "failed" and each.ref not in errors]
        done = [each for each in responses if each.status == "done"]
        left = self.store.put_each_done(done)
        errors |= left
        by_job: dict[str, list[ClassificationResult]] = {}
        for response in done:
            if response.ref not in left:
                by_job.setdefault(response.job_id, []).append(response)
        for response, stored in outcomes(self.pool, self._put_failed, failures):
            if isinstance(stored, Exception):
                errors[response.ref] = stored
            else:
                by_job.setdefault(response.job_id, []).append(stored)
        return by_job

    def _put_failed(self, response: ClassificationResult) -> ClassificationResult:
        """Put a failed result unless there is a better one, which counts then; return the one that is stored."""
        is_stored = self.store.put_failed(response)
        return response if is_stored else self.store.result(response.ref) or response

    def _count(self, job_counts: JobCounts, stored: Sequence[ClassificationResult], at: datetime) -> None:
        new = [each for each in stored if job_counts.statuses[each.image_id] != each.status]
        self.on_recorded(
            [each if each.model else each.model_copy(update={"model": job_counts.model}) for each in new]
        )
        # Cancelled images had no share of the workers' time, and that of a repeat was counted before.
        answers = [each for each in stored if not is_cancelled(each) and not job_counts.is_repeat(each)]
        job_counts.add_answers(answers)
        for response in stored:
            job_counts.count_result(response, at)
        if answers and (period := self.on_results(len(answers))) is not None:
            job_counts.counts = with_answers(job_counts.counts, period, len(answers))
            self.on_attributed(job_counts.owner, answers[0].job_id, period, answers)

    @contextmanager
    def _marking(self, job_ids: Iterable[str]) -> Iterator[None]:
        """Mark the jobs as deleted again that were removed while this controller was frozen before its write."""
        try:
            yield
        finally:
            if not self.active():
                for job_id in job_ids:
                    self.store.mark_if_removed(job_id)

    def _mark_changed(self, job_id: str) -> None:
        with self._lock:
            self._changed.setdefault(job_id)

    def _summed(self, job_id: str) -> tuple[str, Counts] | None:
        with self.locks.hold(job_id):
            if (job_counts := self._jobs.get(job_id)) is None:
                return None  # it was deleted
            job_counts.counts = job_counts.summed()
            return job_id, job_counts.counts

    def _store_counts(self, each: tuple[str, Counts]) -> Exception | None:
        job_id, counts = each
        error: Exception | None = None
        try:
            if not self.store.store_counts(job_id, counts, self.token):
                error = StaleTokenError(f"a later controller has stored the counts of the job {job_id!r}")
        except _ERRORS as raised:
            error = raised
            _log.warning("counts could not be stored", extra={"job": job_id, "reason": str(error)})
        with self._lock:
            self._writing.discard(job_id)
            if (job_counts := self._jobs.get(job_id)) is not None:
                job_counts.failures_to_store = job_counts.failures_to_store + 1 if error else 0
                pause = COUNTS_SECONDS * (2 ** min(job_counts.failures_to_store, MAX_DOUBLINGS) - 1)
                job_counts.stored_at = self.clock() + pause
                if error:
                    self._changed.setdefault(job_id)
        return error

    # What is remembered

    def _load(self, job_ids: Iterable[str]) -> tuple[list[str], dict[str, Exception]]:
        """Return those jobs that exist and are known, after reading the others, and the errors of those unread."""
        existing, errors, unknown = list[str](), dict[str, Exception](), list[str]()
        for job_id in job_ids:
            with self._lock:
                if is_known := job_id in self._jobs:
                    self._jobs.move_to_end(job_id)
            (existing if is_known else unknown).append(job_id)
        readers, reading = self.readers, dict[str, tuple[Future[bool], float]]()
        if readers is not None:
            reading = {job_id: self._start_reading(readers, job_id) for job_id in unknown}
        for job_id in unknown:
            try:
                if job_id in reading:
                    future, since = reading[job_id]
                    exists = future.result(max(0.0, since + LOAD_SECONDS - self.clock()))
                else:
                    exists = self._exists(job_id)
                existing += [job_id] if exists else []
            except TimeoutError:
                errors[job_id] = JobLoadingError(f"the images of the job {job_id!r} are still being read")
            except Exception as error:  # noqa: BLE001 (an item that cannot be read delays its job alone)
                errors[job_id] = error
        return existing, errors

    def _start_reading(self, readers: Executor, job_id: str) -> "tuple[Future[bool], float]":
        """Begin to read a job, unless that has begun; return what becomes of it, and when it began."""
        if (reading := self._reading.get(job_id)) is None:
            reading = readers.submit(self._exists, job_id), self.clock()
            self._reading[job_id] = reading
            reading[0].add_done_callback(lambda _: self._reading.pop(job_id, None))
        return reading

    def _exists(self, job_id: str) -> bool:
        with self.locks.hold(job_id):
            return self._job_counts(job_id) is not None

    def _job_counts(self, job_id: str) -> JobCounts | None:
        """Return what is known of a job, from memory or from the table; None when there is no such job."""
        with self._lock:
            if job_id in self._jobs:
                self._jobs.move_to_end(job_id)
                return self._jobs[job_id]
        try:
            job = self.store.job(job_id)
        except NotFoundError:
            return None
        stored = self.store.counts(job_id)
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
                self._changed.setdefault(job_id)
            self._evict_unused()
        return job_counts

    def _read(self, job: Job, stored: Counts) -> JobCounts:
        """Return what the table has of a job; only a page of its images and results is in memory at a time."""
        job_id, resends = job.job_id, self.store.resends(job.job_id)
        model = None if job.model is None else Model(name=job.model.name, digest=job.model.digest)
        job_counts = JobCounts(Counts(), job.keep, job.owner, model)
        results, cached_at = self.store.summaries(job_id), list[datetime]()
        result_id, result = next(results, ("", None))
        # Both are in the order of the images' ids. Without a record, a result belongs to no accepted image.
        for number, image in enumerate(self.store.images(job_id)):
            if number % PAGE == 0 and not self.active():
                raise JobLoadingError(f"the job {job_id!r} was not read: this controller no longer acts")
            image_id = image.ref.image_id
            while result is not None and result_id < image_id:
                result_id, result = next(results, ("", None))
            job_counts.add_stored(image, result if result_id == image_id else None)
            if image.cached:
                cached_at.append(image.accepted_at)
        job_counts.resends |= {key: resend for key, resend in resends.items() if key in job_counts.statuses}
        job_counts.counts = derived(job_counts.statuses, cached_at, stored, self.now())
        return job_counts

    def _evict_unused(self) -> None:
        """Forget jobs that no thread uses, those used longest ago first, until the rest is within the bounds."""
        in_use = {*self.locks.in_use(), *self._changed, *self._writing}
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
                    self._forgotten_at = self.clock()
                    extra = {"job": job_id, "max_images": max_images}
                    _log.warning("a job with images without a result is read again for its results", extra=extra)

    def _read_images(self, job_id: str, after: str) -> None:
        """Read which images the job has after the image id `after`; no lock is held while they are read."""
        images, is_last = self.store.images(job_id, after), False
        while not is_last and self.active():
            page = list(islice(images, PAGE))
            is_last = len(page) < PAGE
            until = None if is_last else page[-1].ref.image_id
            with self.locks.hold(job_id):
                if (job_counts := self._job_counts(job_id)) is None:
                    return
                recorded = {image.ref.image_id for image in page}
                unrecorded = [each for each in job_counts.statuses.between(after, until) if each not in recorded]
                job_counts.add_images(page)
            # They were taken back, or added since the page was read.
            self._read_all_again(job_id, unrecorded)
            after = until or after


def rank(response: ClassificationResult) -> tuple[bool, int]:
    """Return what orders the results of one image: the greatest counts."""
    return response.status == "done", response.attempt


def best_by_image(responses: Iterable[ClassificationResult]) -> list[ClassificationResult]:
    """Return one response for each image: one that is done if there is any, else the failure of the last attempt."""
    best: dict[str, ClassificationResult] = {}
    for response in responses:
        best[response.image_id] = max(best.get(response.image_id, response), response, key=rank)
    return list(best.values())


def inputs_of(responses: Iterable[ClassificationResult]) -> list[str]:
    """Return the keys of the images that have a label now, as their workers name them."""
    return [
        response.key
        for response in responses
        if response.status == "done" and response.key and response.key.startswith(input_key(response.ref, ""))
    ]


def derived(statuses: ImageStatuses, cached_at: Sequence[datetime], stored: Counts, now: datetime) -> Counts:
    """Return the counts that `statuses` make; the web tier answered some of the images itself, `cached_at`.

    The times of workers' results are the stored ones, or `now` where some came since. Those of cached images are in
    their records, since a web process may have ended before it could say them.
    """
    done, failed = statuses.count("done") - len(cached_at), statuses.count("failed")
    counts = with_cached(replace(stored, done=done, failed=failed, cached=0), cached_at)
    if (done, failed) == (stored.done - stored.cached, stored.failed):
        return counts
    return replace(counts, first_result_at=stored.first_result_at or now, last_result_at=now)
