"""Ingest of single images, each sent in its own request: a group commit of all that arrive at the same moment.

A job for each image would flood the list of jobs, and three calls for each would load the job table. So the single
images of a user go into one job an hour, which all processes share. Each process has one thread that records and
enqueues all waiting images together, of all users.

The first process that needs a job makes it the user's current one, by a conditional write, and creates it. The others
put their images into that job. If it does not exist, since it was deleted or its process died before it was created,
the next image makes another one the current one.

A user may delete or cancel such a job while it is open, like any other. Then an image goes into a new one; its bytes
stay in memory until it is accepted.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

from core.format import short_date
from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord, Job, MinScores
from core.jobs.store import SingleJobs
from core.model_catalog import JobModel
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.recent_dict import RecentDict
from services.side_by_side import outcomes
from services.table import CLOUD_ERRORS
from web_tier.http.memory import MemoryLimiter
from web_tier.http.quotas import UNLIMITED, QuotaScope
from web_tier.uploads.ingest import BATCH_PACKS, MEMORY_BYTES, ImageIngest, RejectedUpload, UploadResult, unavailable
from web_tier.uploads.multipart import Upload

JOB_NAME = "Single images"
MAX_JOB_IMAGES = 10_000
MAX_JOB_AGE = timedelta(hours=1)
"""Limits of a job of single images: beyond them the next image goes into a new job."""

MAX_OPEN_JOBS = 1_000
"""Users with an open job at the same time; the next image of an evicted user starts a new job."""

JOBS_AT_ONCE = 8
"""Jobs of different users that are recorded at the same time."""

MAX_JOBS_TRIED = 5
"""Jobs that are tried for an image, if each is deleted before the image is recorded."""

MAX_WAIT_SECONDS = 120.0
"""Seconds that an image waits for its commit to begin. A commit that has begun is waited for without limit: its calls
end, and the image may be accepted."""

_log = logging.getLogger(__name__)


@dataclass
class _OpenJob:
    """A job of single images.

    Attributes:
        before: the id of the last job of the same user, which takes no more images; empty if there is none.
        images: how many this process has put into it.
        recorded: whether it is in the job table.
        closed: whether no more images go into it, since it could not take one.
        min_scores: its border of doubt, which its user may move, as the latest commit read it.
    """

    job: Job
    before: str = ""
    images: int = 0
    recorded: bool = False
    closed: bool = False
    min_scores: MinScores = field(default_factory=MinScores)


@dataclass(frozen=True)
class _Waiting:
    """A stored image that waits for its commit; its result is None if its job has been deleted."""

    record: ImageRecord
    open_job: _OpenJob
    result: "Future[UploadResult | None]" = field(default_factory=Future)


@dataclass
class SingleImages:
    """Ingests single images, for all threads of one process; to be created after a fork.

    Attributes:
        clock: the time of day, for the age of a job.
        keep: whether the images are kept after their labels are stored.
        memory: the bytes of images that are not yet accepted.
        model: returns which model new jobs get. If it is not that of the open job, the next image goes into a new
            one.
    """

    ingest: ImageIngest
    clock: Clock = CLOCK
    keep: bool = False
    memory: MemoryLimiter = field(default_factory=lambda: MemoryLimiter(MEMORY_BYTES))
    model: Callable[[], JobModel | None] = lambda: None
    _open: RecentDict[str, _OpenJob] = field(default_factory=lambda: RecentDict(MAX_OPEN_JOBS), init=False)
    _waiting: list[_Waiting] = field(default_factory=list, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _committer: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="single-images"), init=False
    )
    _recorders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(JOBS_AT_ONCE, thread_name_prefix="single-jobs"), init=False
    )

    def ingest_one(
        self, owner: str, uploads: Iterable[Upload], quota: QuotaScope = UNLIMITED
    ) -> tuple[UploadResult, MinScores] | None:
        """Accept the one image of a request of `owner`; return its result, or None if `uploads` yields nothing.

        Also return the border of doubt of its job, which the commit of the image has read.

        If reading `uploads` fails, nothing is accepted and the error passes through.

        Raises:
            BusyError: no memory became free for it.
            QuotaExceededError: it exceeds the `quota`.
        """
        files = list(uploads)
        if not files:
            return None
        [upload] = files
        with self.memory.acquired(len(upload.data)):
            for _ in range(MAX_JOBS_TRIED):
                open_job = self._acquire_job(owner)
                result = self._ingest_into(open_job, upload, quota)
                if result is not None:
                    return result, open_job.min_scores
        return unavailable(upload.filename), MinScores()

    def _ingest_into(self, open_job: _OpenJob, upload: Upload, quota: QuotaScope) -> UploadResult | None:
        """Accept an image into a job; return its result, or None if the job has been deleted."""
        results = self.ingest.put_objects(open_job.job, [upload])
        if not isinstance(results[0], ImageRecord):
            return results[0]
        with self.ingest.quota_reservation(results, quota) as reservation:
            result = self._commit(results[0], open_job)
            if isinstance(result, ImageRecord):
                reservation.commit([result])
            return result

    def _acquire_job(self, owner: str) -> _OpenJob:
        """Return the open job of a user, a new one if that takes no more, and count one more image for it."""
        model = self.model()
        with self._lock:
            found, now = self._open.get(owner), self.clock.utc_now()
            if (
                found is None
                or found.closed
                or found.images >= MAX_JOB_IMAGES
                or now - found.job.created_at >= MAX_JOB_AGE
                or found.job.model != model
            ):
                before = "" if found is None else found.job.job_id
                job_id = new_id()
                name = f"{JOB_NAME}, {short_date(now)}"
                job = Job(job_id, name, now, self.keep, owner, is_single=True, model=model)
                found = _OpenJob(job, before)
            self._open[owner] = found  # the latest one that was used
            found.images += 1
            return found

    def _commit(self, record: ImageRecord, open_job: _OpenJob) -> UploadResult | None:
        waiting = _Waiting(record, open_job)
        with self._lock:
            self._waiting.append(waiting)
        self._committer.submit(self._commit_waiting)
        try:
            return waiting.result.result(MAX_WAIT_SECONDS)
        except TimeoutError:
            if not waiting.result.cancel():
                return waiting.result.result()
        self.ingest.discard([record])
        return unavailable(record.filename)

    def _commit_waiting(self) -> None:
        """Commit all waiting images; the runs that the other images have submitted will find nothing."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        waiting = [image for image in waiting if image.result.set_running_or_notify_cancel()]
        try:
            results = self._record_and_enqueue(waiting)
        except CLOUD_ERRORS:
            _log.warning("jobs for single images could not be recorded", exc_info=True)
            self._give_up(waiting)
            results = {image.record.ref: unavailable(image.record.filename) for image in waiting}
        except Exception as error:  # noqa: BLE001 - each waiting request raises it, and answers as for any error
            for image in waiting:
                image.result.set_exception(error)
            return
        for image in waiting:
            image.result.set_result(results.get(image.record.ref))

    def _record_and_enqueue(self, waiting: Sequence[_Waiting]) -> dict[ImageRef, UploadResult]:
        """Create the jobs that are new, and commit the images of existing jobs; return the result of each image.

        An image has no result if its job has been deleted or cancelled, or if another process has one for its user.
        """
        jobs = {image.record.ref.job_id: image.open_job for image in waiting}
        new = {job_id: each for job_id, each in jobs.items() if not each.recorded}
        found = self.ingest.store.taking_images(jobs.keys() - new.keys())
        for image in waiting:
            if (job := found.get(image.open_job.job.job_id)) is not None:
                image.open_job.min_scores = job.min_scores
        existing_ids = self._create(list(new.values())) | found.keys()
        self._give_up([image for image in waiting if image.record.ref.job_id not in existing_ids])
        existing = [image for image in waiting if image.record.ref.job_id in existing_ids]
        by_job: dict[str, list[_Waiting]] = {}
        for image in existing:
            by_job.setdefault(image.record.ref.job_id, []).append(image)
        batches = [batch for of_job in by_job.values() for batch in in_batches(of_job, BATCH_PACKS)]
        results = dict[ImageRef, UploadResult]()
        for batch, rejected in outcomes(self._recorders, self._record, batches):
            if isinstance(rejected, NotFoundError):
                # Its job was deleted: none of them was accepted.
                self._give_up(batch)
            elif isinstance(rejected, Exception):
                raise rejected
            else:
                results |= {image.record.ref: rejected.get(image.record.ref, image.record) for image in batch}
        self.ingest.enqueue([each for each in results.values() if isinstance(each, ImageRecord)], group="")
        return results

    def _record(self, batch: Sequence[_Waiting]) -> dict[ImageRef, RejectedUpload]:
        return self.ingest.record([image.record for image in batch])

    def _create(self, new: Collection[_OpenJob]) -> set[str]:
        """Create these jobs but those of users who have a current one; return the ids of the created ones."""
        made_current = self.ingest.pool.map(self._make_current, new)
        late = [each for each, is_current in zip(new, made_current, strict=True) if not is_current]
        others = self._current_jobs(late)
        created = [each for each in new if each.job.job_id not in others]
        self.ingest.store.create(*(each.job for each in created))
        with self._lock:
            for each in created:
                each.recorded = True
            for each in late:
                owner, job = each.job.owner, others.get(each.job.job_id)
                if job is not None and self._open.get(owner) is each:
                    self._open[owner] = _OpenJob(job, each.before, recorded=True)
        return {each.job.job_id for each in created}

    def _current_jobs(self, late: Collection[_OpenJob]) -> dict[str, Job]:
        """Return the current jobs that other processes have for the users of new jobs, by the id of the new job."""
        jobs = SingleJobs(self.ingest.store.table)
        found = jobs.find_current([each.job.owner for each in late], self.clock.utc_now())
        return {
            each.job.job_id: job
            for each in late
            if (job := found.get(each.job.owner)) is not None
            and job.keep == self.keep
            and job.job_id not in {each.job.job_id, each.before}
        }

    def _make_current(self, new: _OpenJob) -> bool:
        """Make a new job the current one of its user; return False if another process has been faster."""
        until = new.job.created_at + MAX_JOB_AGE
        try:
            return SingleJobs(self.ingest.store.table).make_current(new.job, self.clock.utc_now(), until, new.before)
        except CLOUD_ERRORS:
            _log.warning(
                "a job for single images could not be made the current one, so others may have their own",
                exc_info=True,
            )
            return True

    def _give_up(self, images: Sequence[_Waiting]) -> None:
        """Delete the objects of `images`, and close their jobs for further images."""
        with self._lock:
            for image in images:
                image.open_job.closed = True
        self.ingest.discard([image.record for image in images])
