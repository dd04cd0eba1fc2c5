"""The recorder: puts results into the job table and keeps each job's counts, of which this is the only writer.

Counts are absolute numbers, derived from the statuses of the job's images, and stored after the results. So they
agree with the items in the end, also after repetitions, changes of order and crashes in between.

`done` beats `failed`, and the failure of a later attempt beats that of an earlier one. Counts carry the controller's
fencing token: a controller that was frozen while another one acquired the lease cannot store old counts.
"""

import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from heapq import nlargest

from core.ids import ImageRef, input_key, output_key
from core.jobs.dead_letters import DeadLetterStore, is_given_up
from core.jobs.models import Counts, ImageRecord, Resend, with_answers, with_cached, with_result
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Status, is_cancelled
from services.errors import FleetsightError, NotFoundError

_log = logging.getLogger(__name__)

MAX_IMAGES = 500_000
"""Images with a status that is kept in memory, over all jobs; some 200 bytes each."""
MAX_ANSWERED = 20_000
"""Of these, images of jobs in which all have their results: what may still come for those is a repeat."""
FEW = 3
"""Up to so many unknown images are looked up one by one, more with a query."""
RECENT = 2_000
"""Known images that `learn_recent` reads again, those with the last ids: while several uploads run, images are not
recorded in the order of their ids."""


class StaleTokenError(FleetsightError):
    """Raised when a controller that acquired the lease later has stored a job's counts."""


@dataclass
class JobCounts:
    """What is known of one job.

    Attributes:
        statuses: of each image; None as long as it has no result.
        counts: the counts of the job.
        keep: whether its images stay once they have a label.
        owner: id of the user who owns it.
        retries: attempt of the images that were retried, as their records say.
        failures: attempt of the failed results, as far as it is not 0.
        redelivered: images with a request that was received more than once until the result that they have.
        resends: of images with a request that the controller sent again.
        cancelled: images that failed because the job was cancelled.
    """

    statuses: dict[str, Status | None]
    counts: Counts
    keep: bool
    owner: str
    retries: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    redelivered: set[str] = field(default_factory=set)
    resends: dict[str, Resend] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    @property
    def answered(self) -> bool:
        """Whether every known image has its result."""
        return len(self.statuses) == self.counts.done + self.counts.failed

    def add_image(self, image: ImageRecord) -> None:
        """Add an accepted image, which may have its result from the cache already."""
        image_id = image.ref.image_id
        self.retries.pop(image_id, None)
        if image.attempt:
            self.retries[image_id] = image.attempt
        if image_id not in self.statuses:
            self.statuses[image_id] = "done" if image.cached else None
            if image.cached:
                self.counts = with_cached(self.counts, [image.accepted_at])

    def remove_image(self, image_id: str) -> None:
        """Remove an image that was not accepted after all, and its result if it has one."""
        status = self.statuses.pop(image_id, None)
        done, failed = self.counts.done - (status == "done"), self.counts.failed - (status == "failed")
        self.counts = replace(self.counts, done=done, failed=failed)
        self.redelivered.discard(image_id)
        self.resends.pop(image_id, None)
        self.cancelled.discard(image_id)

    def count_result(self, result: ClassificationResult, at: datetime) -> None:
        """Count a result that was stored in the table."""
        image_id, before = result.image_id, self.statuses[result.image_id]
        self.counts = with_result(self.counts, before, result.status, at)
        self.statuses[image_id] = "done" if before == "done" else result.status
        if result.status == "failed" and result.attempt:
            self.failures[image_id] = max(result.attempt, self.failures.get(image_id, 0))
        if result.attempts > 1:
            self.redelivered.add(image_id)
        else:
            self.redelivered.discard(image_id)
        if self.statuses[image_id] == "failed" and is_cancelled(result):
            self.cancelled.add(image_id)
        else:
            self.cancelled.discard(image_id)

    def missing(self) -> dict[str, int]:
        """Return the images without a result of their last attempt, oldest first, each with this attempt."""
        waiting = {image_id: 0 for image_id, status in self.statuses.items() if status is None}
        retrying = {image_id: attempt for image_id, attempt in self.retries.items() if self._is_retrying(image_id)}
        return dict(sorted({**waiting, **retrying}.items()))

    def is_missing(self, image_id: str) -> bool:
        """Return whether an image is one of those that `missing` returns."""
        return image_id in self.statuses and (self.statuses[image_id] is None or self._is_retrying(image_id))

    def _is_retrying(self, image_id: str) -> bool:
        is_failed = self.statuses.get(image_id) == "failed"
        return is_failed and self.retries.get(image_id, 0) > self.failures.get(image_id, 0)


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
    def hold(self, job_id: str) -> Iterator[None]:
        """Wait until no other thread holds the lock of `job_id`, then hold it."""
        with self._guard:
            lock = self._locks.setdefault(job_id, self._new_lock())
            self._users[job_id] += 1
        try:
            with lock:
                yield
        finally:
            with self._guard:
                self._users[job_id] -= 1
                if not self._users[job_id]:
                    del self._users[job_id], self._locks[job_id]

    def in_use(self) -> Collection[str]:
        """Return the jobs with a lock that a thread holds or waits for."""
        with self._guard:
            return set(self._locks)


@dataclass
class ResultRecorder:
    """Records results. Its methods may be called from several threads, which take turns for each job.

    What is known of a job is read and changed only under the job's lock.

    Attributes:
        store: the job table.
        delete_inputs: deletes these keys of the input bucket; one that is gone is no error.
        delete_outputs: the same of the output bucket.
        token: the fencing token with which counts are stored.
        max_images: bound of what is remembered; the jobs that were used last stay.
        max_answered: the same for jobs in which every image has its result.
        active: whether this process may still act; if not, the job of its last write may have been removed before it.
        now: the wall clock, for the times of a job's first and last result.
        on_results: called with the number of workers' answers that were recorded just now; returns the number of the
            billing period that they belong to, or None.
        locks: a lock for each job; tests replace it to control which thread runs.
    """

    store: JobStore
    delete_inputs: Callable[[Sequence[str]], None]
    delete_outputs: Callable[[Sequence[str]], None] = lambda _keys: None
    token: int = 0
    max_images: int = MAX_IMAGES
    max_answered: int = MAX_ANSWERED
    active: Callable[[], bool] = lambda: True
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    on_results: Callable[[int], int | None] = lambda _answers: None
    locks: JobLocks = field(default_factory=JobLocks)
    _jobs: "OrderedDict[str, JobCounts]" = field(default_factory=OrderedDict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Guards `_jobs`; never held during a call of a service."""

    def record(self, responses: Iterable[ClassificationResult]) -> None:
        """Put results and store the counts of their jobs; all of it may be repeated.

        Unless its job keeps them, an image is deleted once its label is stored.

        What belongs to no job or no accepted image is logged and dropped; of a job that does not exist, the stored
        predictions are deleted.

        Raises:
            TableBusyError: when some could not be put; record all of them again.
            StaleTokenError: when another controller has taken over; it has to record all of them again.
        """
        by_job: dict[str, list[ClassificationResult]] = {}
        for response in responses:
            by_job.setdefault(response.job_id, []).append(response)
        for job_id, of_job in by_job.items():
            with self.locks.hold(job_id):
                labelled = self._record_job(job_id, best_by_image(of_job))
            if labelled:
                # Also of those that were recorded before: the process that did may have died before this.
                self.delete_inputs(labelled)

    def owners(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return the owners of those of `job_ids` that exist.

        What has to be read for it need not be read again when their results are recorded.
        """
        found: dict[str, str] = {}
        for job_id in dict.fromkeys(job_ids):
            with self.locks.hold(job_id):
                if (job_counts := self._job_counts(job_id)) is not None:
                    found[job_id] = job_counts.owner
        return found

    def is_accepted(self, ref: ImageRef) -> bool:
        """Return whether `ref` is an accepted image of a job that exists."""
        with self.locks.hold(ref.job_id):
            job_counts = self._job_counts(ref.job_id)
            if job_counts is None:
                return False
            self._learn(ref.job_id, job_counts, [ref.image_id])
            return ref.image_id in job_counts.statuses

    def learn_recent(self, job_id: str) -> None:
        """Learn from the table which images were added last or taken back; the cost does not grow with the job."""
        with self.locks.hold(job_id):
            if (job_counts := self._job_counts(job_id)) is not None:
                recent = nlargest(RECENT, job_counts.statuses)
                self._read_images(job_id, job_counts, after=recent[-1] if len(recent) == RECENT else "")

    def resync(self, job_id: str) -> None:
        """Learn from the table which images the job has; costs more the more there are."""
        # Before the lock is taken, since no result is recorded while it is held.
        recorded = self.store.count_images(job_id)
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            if job_counts is not None and recorded != len(job_counts.statuses):
                self._read_images(job_id, job_counts, after="")

    def learn_retries(self, job_id: str) -> None:
        """Learn from the table which failed images of the job were retried."""
        with self.locks.hold(job_id):
            if (job_counts := self._job_counts(job_id)) is not None:
                self.read_again(job_id, [key for key, status in job_counts.statuses.items() if status == "failed"])

    def read_again(self, job_id: str, image_ids: Sequence[str]) -> list[ImageRecord]:
        """Return the records of known images as the table has them now; forget those that were taken back."""
        with self.locks.hold(job_id):
            if (job_counts := self._job_counts(job_id)) is None:
                return []
            records = self.store.images_of([ImageRef(job_id, image_id) for image_id in image_ids])
            for image_id in image_ids:
                if ImageRef(job_id, image_id) not in records:
                    job_counts.remove_image(image_id)
            for record in records.values():
                job_counts.add_image(record)
            return list(records.values())

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
            with self._marking(job_id):
                self.store.put_resends(job_id, totals)
                job_counts.resends |= totals
                self._store_counts(job_id, job_counts)

    def evict(self, job_id: str) -> None:
        """Forget a job that was deleted; what still comes for it belongs to no job."""
        with self.locks.hold(job_id), self._lock:
            self._jobs.pop(job_id, None)

    def rewrite_counts(self, job_id: str) -> None:
        """Store the job's counts again if the table has others, as after a late write of an earlier holder."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            if job_counts is not None and self.store.counts(job_id) != _counted(job_counts):
                with self._marking(job_id):
                    self._store_counts(job_id, job_counts)

    def missing(self, job_id: str) -> dict[str, int]:
        """Return the ids of images without a result of their last attempt, oldest first, each with this attempt."""
        with self.locks.hold(job_id):
            job_counts = self._job_counts(job_id)
            return {} if job_counts is None else job_counts.missing()

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

    def _record_job(self, job_id: str, responses: Sequence[ClassificationResult]) -> list[str]:
        """Record responses of one job; return the keys of the images that are not to be kept."""
        job_counts = self._job_counts(job_id)
        if job_counts is None:
            _log.warning("dropped results of a job that does not exist", extra={"job": job_id, "n": len(responses)})
            # Their worker may have stored them long after the job was deleted: nothing else would find them.
            self.delete_outputs([output_key(response.ref) for response in responses])
            return []
        self._learn(job_id, job_counts, [response.image_id for response in responses])
        known = [response for response in responses if response.image_id in job_counts.statuses]
        if len(known) < len(responses):
            unknown = len(responses) - len(known)
            _log.warning("dropped results of images that were never accepted", extra={"job": job_id, "n": unknown})
        with self._marking(job_id):
            self._put(job_counts, known)
            self._store_counts(job_id, job_counts)
        return [] if job_counts.keep else inputs_of(known)

    def _put(self, job_counts: JobCounts, responses: Sequence[ClassificationResult]) -> None:
        at = self.now()
        # Without the digest, which is of use to the cache only: an item of up to 1 KB is one write, above it is two.
        fresh = [
            response.model_copy(update={"recorded_at": at, "sha256": None})
            for response in responses
            if job_counts.statuses[response.image_id] != "done"
        ]
        if given_up := [response for response in fresh if is_given_up(response)]:
            # Before the results, so that each of these has its dead letter, whenever the controller is killed.
            DeadLetterStore(self.store).put(given_up)
        done = [response for response in fresh if response.status == "done"]
        self.store.put_done(done)
        for response in done:
            job_counts.count_result(response, at)
        for response in fresh:
            if response.status == "failed":
                is_stored = self.store.put_failed(response)  # not over a better result, which counts then
                job_counts.count_result(response if is_stored else self.store.result(response.ref) or response, at)
        # Cancelled images had no share of the workers' time.
        answers = sum(not is_cancelled(response) for response in fresh)
        if answers and (period := self.on_results(answers)) is not None:
            job_counts.counts = with_answers(job_counts.counts, period, answers)

    @contextmanager
    def _marking(self, job_id: str) -> Iterator[None]:
        """Mark the job as deleted again if it was removed while this controller was frozen before its write."""
        try:
            yield
        finally:
            if not self.active():
                self.store.mark_if_removed(job_id)

    def _store_counts(self, job_id: str, job_counts: JobCounts) -> None:
        job_counts.counts = _counted(job_counts)
        if not self.store.store_counts(job_id, job_counts.counts, self.token):
            raise StaleTokenError(f"a later controller has stored the counts of the job {job_id!r}")

    def _job_counts(self, job_id: str) -> JobCounts | None:
        """Return what is known of a job, from memory or from the table; None when there is no such job."""
        with self._lock:
            if job_id in self._jobs:
                self._jobs.move_to_end(job_id)
                return self._jobs[job_id]
        job_counts = self._read(job_id)
        if job_counts is not None:
            with self._lock:
                self._jobs[job_id] = job_counts
                self._evict_unused()
        return job_counts

    def _read(self, job_id: str) -> JobCounts | None:
        try:
            job = self.store.job(job_id)
        except NotFoundError:
            return None
        results, resends = self.store.result_summaries(job_id), self.store.resends(job_id)
        statuses, retries, cached_at = dict[str, Status | None](), dict[str, int](), list[datetime]()
        for image in self.store.images(job_id):  # without a record, a result belongs to no accepted image
            image_id = image.ref.image_id
            if image.cached:
                cached_at.append(image.accepted_at)
            answered: Status | None = "done" if image.cached else None
            statuses[image_id] = results[image_id].status if image_id in results else answered
            if image.attempt:
                retries[image_id] = image.attempt
        of_images = {image_id: result for image_id, result in results.items() if image_id in statuses}
        return JobCounts(
            statuses=statuses,
            counts=derived(statuses, cached_at, self.store.counts(job_id), self.now()),
            keep=job.keep,
            owner=job.owner,
            retries=retries,
            failures={image_id: result.attempt for image_id, result in of_images.items() if result.attempt},
            redelivered={image_id for image_id, result in of_images.items() if result.attempts > 1},
            resends={image_id: resend for image_id, resend in resends.items() if image_id in statuses},
            cancelled={image_id for image_id, result in of_images.items() if result.cancelled},
        )

    def _evict_unused(self) -> None:
        """Forget jobs that no thread uses, those used longest ago first, until the rest is within the bounds."""
        in_use = self.locks.in_use()
        answered = [job_id for job_id, each in self._jobs.items() if each.answered and job_id not in in_use]
        self._evict_beyond(self.max_answered, answered, in_use)
        self._evict_beyond(self.max_images, list(self._jobs), in_use)

    def _evict_beyond(self, max_images: int, job_ids: Sequence[str], in_use: Collection[str]) -> None:
        """Forget the first of `job_ids` that are not in use until the images of the rest are at most `max_images`."""
        images = sum(len(self._jobs[job_id].statuses) for job_id in job_ids)
        for job_id in job_ids:
            if images > max_images and job_id not in in_use:
                images -= len(self._jobs.pop(job_id).statuses)

    def _read_images(self, job_id: str, job_counts: JobCounts, after: str) -> None:
        """Read which images the job has after the image id `after`."""
        recorded = {image.ref.image_id: image for image in self.store.images(job_id, after)}
        for taken_back in [each for each in job_counts.statuses if each > after and each not in recorded]:
            job_counts.remove_image(taken_back)
        for image in recorded.values():
            job_counts.add_image(image)

    def _learn(self, job_id: str, job_counts: JobCounts, image_ids: Sequence[str]) -> None:
        """Look up those of `image_ids` that are not known yet."""
        unknown = [image_id for image_id in image_ids if image_id not in job_counts.statuses]
        if len(unknown) > FEW:
            # Images mostly arrive in the order of their ids: more unknown ones follow the first one.
            for image in self.store.images(job_id, after=min(unknown)[:-1]):
                job_counts.add_image(image)
            return
        for image_id in unknown:
            try:
                job_counts.add_image(self.store.image(ImageRef(job_id, image_id)))
            except NotFoundError:
                continue


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


def derived(
    statuses: dict[str, Status | None], cached_at: Sequence[datetime], stored: Counts, now: datetime
) -> Counts:
    """Return the counts that `statuses` make; the web tier answered some of the images itself, `cached_at`.

    The times of workers' results are the stored ones, or `now` where some came since. Those of cached images are in
    their records, since a web process may have ended before it could say them.
    """
    done = sum(status == "done" for status in statuses.values()) - len(cached_at)
    failed = sum(status == "failed" for status in statuses.values())
    counts = with_cached(replace(stored, done=done, failed=failed, cached=0), cached_at)
    if (done, failed) == (stored.done - stored.cached, stored.failed):
        return counts
    return replace(counts, first_result_at=stored.first_result_at or now, last_result_at=now)


def _counted(job_counts: JobCounts) -> Counts:
    return replace(
        job_counts.counts,
        images=len(job_counts.statuses),
        system_retried=len(job_counts.redelivered | job_counts.resends.keys()),
        resends=sum(resend.times for resend in job_counts.resends.values()),
        cancelled=len(job_counts.cancelled),
    )
