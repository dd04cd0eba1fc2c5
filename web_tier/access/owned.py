"""The jobs of the user who asks: the only way by which a route comes to a job, and to what belongs to it.

A job of another user does not exist here: the same words, the same status, and as many calls of the job table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from core.idempotency import Claims
from core.ids import ImageRef
from core.job_records import ImageRecord, Job, JobStatus, Resend
from core.jobs import JobStore, no_job
from core.messages import Response
from services.table import LAST
from web_tier.access.identity import current_identity
from web_tier.backend import current_backend
from web_tier.results.query import ImageResult


@dataclass(frozen=True)
class UserJobs:
    """The jobs of one user, for as long as one request.

    Attributes:
        store: all jobs.
        owner: of these jobs; empty without sign-in, and then the jobs without an owner.
    """

    store: JobStore
    owner: str
    _checked: set[str] = field(default_factory=set, init=False)

    def job(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: when the user has none with that id.
        """
        return self._own(self.store.job(job_id))

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
        """Record a new job, which is this user's.

        Raises:
            NotFoundError: when it is made out to another.
        """
        self.store.create(self._own(job))

    def delete(self, job_id: str) -> None:
        """Take a job away.

        Raises:
            NotFoundError: as `job`.
            TableBusyError: when it could not be taken away for now; deleting again is safe.
        """
        self.store.delete(self.job(job_id))

    def image(self, ref: ImageRef) -> tuple[Job, ImageResult]:
        """Return an image with its result, and its job; in one read.

        Raises:
            NotFoundError: as `job`, and when there is no such image in it.
            TableBusyError: when it could not be read.
        """
        job, record, response, resend = self.store.whole_image(ref, self.owner)
        return job, ImageResult(record, response, resend)

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those beyond the image id `after`.

        Raises:
            NotFoundError: as `job`.
        """
        self._check(job_id)
        return self.store.images(job_id, after, limit)

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Response]:
        """Return results by image id, from the image id `first` to `last`, both included.

        Raises:
            NotFoundError: as `job`.
        """
        self._check(job_id)
        return self.store.results(job_id, first, last)

    def resends(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Resend]:
        """Return the requests that were sent again, in the same way.

        Raises:
            NotFoundError: as `job`.
        """
        self._check(job_id)
        return self.store.resends(job_id, first, last)

    def count_open(self) -> tuple[int, int]:
        """Return how many jobs may have images without a result: those of everybody, and those of this user."""
        if not self.owner:
            everybody = self.store.count_open()
            return everybody, everybody
        opened = [job.job_id for job in self.store.open_jobs()]
        return len(opened), len(self.store.existing(opened, self.owner))

    @property
    def claims(self) -> Claims:
        """Which jobs the user's idempotency keys have made."""
        return Claims(self.store.table, self.owner)

    def _own(self, job: Job) -> Job:
        if job.owner != self.owner:
            raise no_job(job.job_id)
        self._checked.add(job.job_id)
        return job

    def _check(self, job_id: str) -> None:
        """Read the job, unless this request has: its owner never changes."""
        if job_id not in self._checked:
            self.job(job_id)


def own_jobs() -> UserJobs:
    """Return the jobs of the user who sent the current request."""
    return UserJobs(current_backend().store, current_identity().owner)
