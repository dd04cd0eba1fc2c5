"""Access to the jobs of the current user: the only way in which a route reads a job and its images.

A job of another user is answered exactly like a missing one: with the same text and status, and as many calls of the
job table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from core.ids import ImageRef
from core.jobs.listings import ListingStore
from core.jobs.models import Job, JobStatus, TrueLabel
from core.jobs.notifications import Channel, Notification, NotificationStore
from core.jobs.reader import JobReader
from core.jobs.store import JobStore, no_job
from services.clock import utc_now
from services.table import LAST
from web_tier.auth.identity import current_identity
from web_tier.http.backend import current_backend
from web_tier.http.problems import JobCancelledError, JobTakesNoImagesError
from web_tier.results.query import MAX_EXAMINED, PAGE, ImageResult
from web_tier.uploads.idempotency import Claims


@dataclass(frozen=True, slots=True)
class JobsFound:
    """Some jobs, newest first; `next_before` is the cursor of the next page, if any."""

    jobs: tuple[Job, ...]
    next_before: str | None


@dataclass(frozen=True)
class UserJobs(JobReader):
    """The jobs of one user, for one request: every method raises NotFoundError for a job that the user does not have.

    Attributes:
        owner: of these jobs; empty without sign-in, for the jobs without an owner.
    """

    owner: str
    _read: dict[str, Job] = field(default_factory=dict, init=False)

    @cached_property
    def _store(self) -> JobStore:
        return JobStore(self.table)

    def _partition(self, job_id: str) -> str:
        self._known(job_id)
        return super()._partition(job_id)

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return self._own(self._store.job(job_id))

    def job_for_images(self, job_id: str) -> Job:
        """Return a job that takes images.

        Raises:
            JobCancelledError: it is cancelled.
            JobTakesNoImagesError: its images come from S3.
        """
        job, is_cancelled = self._store.job_and_cancelled(job_id)
        self._own(job)
        if is_cancelled:
            raise JobCancelledError("the job is cancelled: retry its failed images to resume it, or make another job")
        if job.source:
            raise JobTakesNoImagesError("the images of this job come from S3: make another job for these")
        return job

    def status(self, job_id: str) -> JobStatus:
        """Return a job and its counts."""
        return self._store.status_of(self.job(job_id))

    def find(self, *, before: str | None = None, limit: int, name: str | None = None) -> JobsFound:
        """Return up to `limit` jobs older than the job id `before`; with `name`, those that contain it in any case.

        A search may return fewer jobs, even none, and still have a cursor: at most `MAX_EXAMINED` jobs are examined.
        """
        if name is None:
            listed = self._store.jobs(limit + 1, before, self.owner)
            return JobsFound(tuple(listed[:limit]), listed[limit - 1].job_id if len(listed) > limit else None)
        found: list[Job] = []
        for _ in range(MAX_EXAMINED // PAGE):
            page = self._store.jobs(PAGE, before, self.owner)
            found += [job for job in page if name.casefold() in job.name.casefold()]
            before = page[-1].job_id if len(page) == PAGE else None
            if len(found) > limit:
                return JobsFound(tuple(found[:limit]), found[limit - 1].job_id)
            if before is None:
                break
        return JobsFound(tuple(found), before)

    def create(self, job: Job, caller: str = "") -> None:
        """Record a new job of this user; images of its source count towards the quota of `caller`, if any.

        Raises:
            NotFoundError: it has another owner.
        """
        if job.source:
            ListingStore(self._store).create_job(self._own(job), caller, utc_now())
        else:
            self._store.create(self._own(job))

    def delete(self, job_id: str) -> None:
        """Delete a job.

        Raises:
            TableBusyError: it could not be deleted; deleting again is safe.
        """
        self._store.delete(self.job(job_id))

    def image(self, ref: ImageRef) -> tuple[Job, ImageResult]:
        """Return a job and an image of it with its result, in one read.

        Raises:
            NotFoundError: also if the image does not exist.
            TableBusyError: it could not be read.
        """
        job, record, response, resend, truth = self._store.whole_image(ref, self.owner)
        return job, ImageResult(record, response, resend, truth)

    def truths(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, TrueLabel]:
        """Return true labels as `JobReader.truths`; costs nothing for a job without any."""
        return super().truths(job_id, first, last) if self._known(job_id).is_reviewed else {}

    def set_truths(self, job_id: str, truths: Mapping[str, TrueLabel | None]) -> None:
        """Set true labels of images of a job, by image id; None removes one.

        Raises:
            NotFoundError: also if the job was deleted meanwhile.
            TableBusyError: some could not be set; setting all again is safe.
        """
        job = self._known(job_id)
        self._store.set_truths(job, truths)
        self._read[job_id] = replace(job, is_reviewed=True)

    def notification(self, job_id: str) -> Notification:
        """Return what was requested for the end of a job."""
        self._known(job_id)
        return NotificationStore(self.table).find(job_id)

    def request_notification(
        self, job_id: str, targets: Mapping[Channel, str], *, page: str, secret: str
    ) -> Notification:
        """Request messages for the end of a job, as `NotificationStore.request`, and return all of them.

        Raises:
            TooManyNotificationsError: as it says.
        """
        self._known(job_id)
        notifications = NotificationStore(self.table)
        notifications.request(job_id, targets, utc_now(), page=page, secret=secret)
        self._store.mark_if_removed(job_id)
        return notifications.find(job_id)

    def count_open(self) -> tuple[int, int]:
        """Return how many jobs may have images without a result: of all users, and of this user."""
        if not self.owner:
            count = self._store.count_open()
            return count, count
        opened = [job.job_id for job in self._store.open_jobs()]
        return len(opened), len(self._store.existing(opened, self.owner))

    @property
    def claims(self) -> Claims:
        """The jobs that the user's idempotency keys have created."""
        return Claims(self.table, self.owner)

    def _own(self, job: Job) -> Job:
        if job.owner != self.owner:
            raise no_job(job.job_id)
        self._read[job.job_id] = job
        return job

    def _known(self, job_id: str) -> Job:
        """Return a job, read once per request: its owner never changes."""
        return self._read[job_id] if job_id in self._read else self.job(job_id)


def user_jobs() -> UserJobs:
    """Return the jobs of the user who sent the current request."""
    return UserJobs(current_backend().store.table, current_identity().owner)
