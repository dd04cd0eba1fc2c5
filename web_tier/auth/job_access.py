"""Access to the jobs of the current user: the only way in which a route reads a job and its images.

A job of another user is answered exactly like a missing one: with the same text and status, and as many calls of the
job table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from core.ids import ImageRef
from core.jobs.models import ImageRecord, Job, JobStatus, Resend
from core.jobs.store import JobStore, no_job
from core.messages import ClassificationResult
from services.table import LAST
from web_tier.auth.identity import current_identity
from web_tier.backend import current_backend
from web_tier.problems import JobCancelledError
from web_tier.results.query import ImageResult
from web_tier.uploads.idempotency import Claims


@dataclass(frozen=True)
class UserJobs:
    """The jobs of one user, for one request.

    Attributes:
        store: all jobs.
        owner: of these jobs; empty without sign-in, for the jobs without an owner.
    """

    store: JobStore
    owner: str
    _checked: set[str] = field(default_factory=set, init=False)

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: the user has no job with that id.
        """
        return self._own(self.store.job(job_id))

    def job_for_images(self, job_id: str) -> Job:
        """Return a job that takes images.

        Raises:
            NotFoundError: as `job`.
            JobCancelledError: it is cancelled.
        """
        job, is_cancelled = self.store.job_and_cancelled(job_id)
        self._own(job)
        if is_cancelled:
            raise JobCancelledError("the job is cancelled: retry its failed images to resume it, or make another job")
        return job

    def status(self, job_id: str) -> JobStatus:
        """Return a job and its counts.

        Raises:
            NotFoundError: as `job`.
        """
        return self.store.status_of(self.job(job_id))

    def jobs(self, limit: int, before: str | None = None) -> list[Job]:
        """Return up to `limit` jobs, newest first, those older than the job id `before`."""
        return self.store.jobs(limit, before, self.owner)

    def create(self, job: Job) -> None:
        """Record a new job of this user.

        Raises:
            NotFoundError: it has another owner.
        """
        self.store.create(self._own(job))

    def delete(self, job_id: str) -> None:
        """Delete a job.

        Raises:
            NotFoundError: as `job`.
            TableBusyError: it could not be deleted; deleting again is safe.
        """
        self.store.delete(self.job(job_id))

    def image(self, ref: ImageRef) -> tuple[Job, ImageResult]:
        """Return a job and an image of it with its result, in one read.

        Raises:
            NotFoundError: as `job`, and if the image does not exist.
            TableBusyError: it could not be read.
        """
        job, record, response, resend = self.store.whole_image(ref, self.owner)
        return job, ImageResult(record, response, resend)

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those after the image id `after`.

        Raises:
            NotFoundError: as `job`.
        """
        self._check(job_id)
        return self.store.images(job_id, after, limit)

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, ClassificationResult]:
        """Return results by image id, from the image id `first` to `last`, both included.

        Raises:
            NotFoundError: as `job`.
        """
        self._check(job_id)
        return self.store.results(job_id, first, last)

    def resends(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Resend]:
        """Return the requests that were sent again, by image id, in the range of `results`.

        Raises:
            NotFoundError: as `job`.
        """
        self._check(job_id)
        return self.store.resends(job_id, first, last)

    def count_open(self) -> tuple[int, int]:
        """Return how many jobs may have images without a result: of all users, and of this user."""
        if not self.owner:
            count = self.store.count_open()
            return count, count
        opened = [job.job_id for job in self.store.open_jobs()]
        return len(opened), len(self.store.existing(opened, self.owner))

    @property
    def claims(self) -> Claims:
        """The jobs that the user's idempotency keys have created."""
        return Claims(self.store.table, self.owner)

    def _own(self, job: Job) -> Job:
        if job.owner != self.owner:
            raise no_job(job.job_id)
        self._checked.add(job.job_id)
        return job

    def _check(self, job_id: str) -> None:
        """Check the owner of a job once per request; it never changes."""
        if job_id not in self._checked:
            self.job(job_id)


def user_jobs() -> UserJobs:
    """Return the jobs of the user who sent the current request."""
    return UserJobs(current_backend().store, current_identity().owner)
