"""Access to the jobs of the current user: the only way in which a route reads a job and its images.

A job of another user is answered exactly like a missing one: with the same text and status, and as many calls of the
job table. Routes that declare `reads_shared_jobs` also read a job that its owner shares with the sender.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from flask import current_app

from core.ids import ImageRef
from core.jobs.lifecycle import DeletedJobs, OpenJobs, no_job
from core.jobs.listings import ListingStore
from core.jobs.models import Job, JobStatus, MinScores, Share, TrueLabel
from core.jobs.reader import JobReader
from core.jobs.store import JobStore
from core.jobs.uploads import Claims
from services.clock import utc_now
from services.errors import NotFoundError
from services.table import CLOUD_ERRORS, LAST
from web_tier.auth.context import SHARING, ShareOf
from web_tier.auth.guard import credentials_check
from web_tier.auth.identity import VIEWER, current_identity
from web_tier.http.backend import current_backend
from web_tier.http.problems import JobCancelledError, JobTakesNoImagesError
from web_tier.http.routes import current_route
from web_tier.results.query import MAX_EXAMINED, PAGE, ImageResult


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
        shares: returns shares of jobs of others; None on routes that read none.
    """

    owner: str
    shares: ShareOf | None = None
    _read: dict[str, Job] = field(default_factory=dict, init=False)

    @cached_property
    def _store(self) -> JobStore:
        return JobStore(self.table)

    def _partition(self, job_id: str) -> str:
        self._known(job_id)
        return super()._partition(job_id)

    def job(self, job_id: str) -> Job:
        """Return a job."""
        return self._checked(self._store.job(job_id))

    def share_of(self, job: Job) -> Share | None:
        """Return the share by which the user reads a job that is another's; None for a job of the user."""
        return self.shares(job) if self.shares and job.owner != self.owner else None

    def access_check(self, job: Job) -> Callable[[], bool]:
        """Return a function that returns whether the user may still read a job; for streams, as `credentials_check`.

        A share that the owner ends ends the stream, too.
        """
        are_valid = credentials_check()
        if job.owner == self.owner:
            return are_valid

        def may_read() -> bool:
            try:
                return are_valid() and self.job(job.job_id) is not None
            except NotFoundError:
                return False
            except CLOUD_ERRORS:
                return True  # unknown: the stream goes on until it is known

        return may_read

    def job_for_images(self, job_id: str) -> tuple[Job, int]:
        """Return a job that takes images, and how many it has accepted.

        Raises:
            JobCancelledError: it is cancelled.
            JobTakesNoImagesError: its images come from S3.
        """
        job, reason, accepted = self._store.job_intake(job_id)
        self._checked(job)
        if reason is not None:
            remedy = "retry its failed images to resume it, or make another job"
            raise JobCancelledError(f"the job is {f'stopped: {reason};' if reason else 'cancelled:'} {remedy}")
        if job.source:
            raise JobTakesNoImagesError("the images of this job come from S3: make another job for these")
        return job, accepted

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
            ListingStore(self._store).create_job(self._checked(job), caller, utc_now())
        else:
            self._store.create(self._checked(job))

    def delete(self, job_id: str) -> None:
        """Delete a job."""
        DeletedJobs(self.table).delete(self.job(job_id))

    def pages(self) -> Iterator[tuple[Job, ...]]:
        """Yield all jobs, newest first, page by page."""
        found = self.find(limit=PAGE)
        yield found.jobs
        while found.next_before is not None:
            found = self.find(before=found.next_before, limit=PAGE)
            yield found.jobs

    def delete_all(self) -> None:
        """Delete all jobs; raises as `delete`."""
        for jobs in self.pages():
            DeletedJobs(self.table).delete(*jobs)

    def image(self, ref: ImageRef) -> tuple[Job, ImageResult]:
        """Return a job and an image of it with its result, in one read.

        Raises:
            NotFoundError: also if the image does not exist.
        """
        job, record, answer, truth = self._store.whole_image(ref, self._may_read)
        return job, ImageResult(record, *answer, truth, job.min_scores)

    def min_scores(self, job_id: str) -> MinScores:
        """Return the scores below which labels are unsure, as `JobReader.min_scores`; costs nothing."""
        return self._known(job_id).min_scores

    def change_min_scores(self, job_id: str, change: Callable[[MinScores], MinScores]) -> Job:
        """Change the scores below which labels of a job are unsure, as `JobStore.change_min_scores`."""
        return self._checked(self._store.change_min_scores(self._known(job_id), change, utc_now()))

    def truths(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, TrueLabel]:
        """Return true labels as `JobReader.truths`; costs nothing for a job without any."""
        return super().truths(job_id, first, last) if self._known(job_id).is_reviewed else {}

    def set_truths(self, job_id: str, truths: Mapping[str, TrueLabel | None]) -> None:
        """Set true labels of images of a job, by image id; None removes one.

        Raises:
            NotFoundError: also if the job was deleted meanwhile.
        """
        job = self._known(job_id)
        self._store.set_truths(job, truths)
        self._read[job_id] = replace(job, is_reviewed=True)

    def count_open(self) -> tuple[int, int]:
        """Return how many jobs may have images without a result: of all users, and of this user."""
        if not self.owner:
            count = OpenJobs(self.table).count()
            return count, count
        opened = [job.job_id for job in OpenJobs(self.table).find_all()]
        return len(opened), len(self._store.existing(opened, self.owner))

    @property
    def claims(self) -> Claims:
        """The jobs that the user's idempotency keys have created."""
        return Claims(self.table, self.owner)

    def _may_read(self, job: Job) -> bool:
        return job.owner == self.owner or self.share_of(job) is not None

    def _checked(self, job: Job) -> Job:
        if not self._may_read(job):
            raise no_job(job.job_id)
        self._read[job.job_id] = job
        return job

    def _known(self, job_id: str) -> Job:
        """Return a job, read once per request: its owner never changes."""
        return self._read[job_id] if job_id in self._read else self.job(job_id)


def user_jobs() -> UserJobs:
    """Return the jobs of the user who sent the current request."""
    sharing = current_app.extensions.get(SHARING) if current_route().reads_shared_jobs else None
    return UserJobs(current_backend().store.table, current_identity().owner, sharing() if sharing else None)


def bulkhead_caller(job: Job) -> str:
    """Return the name under which a bulkhead counts the current request: holders of an owner's links share one."""
    owner = current_identity().owner
    return f"viewers of {job.owner}" if owner == VIEWER.owner else owner
