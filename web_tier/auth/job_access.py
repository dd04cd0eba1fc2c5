"""Access to the jobs of the current user: the only way in which a route reads a job and its images.

A job of another user is answered exactly like a missing one: with the same text and status, and as many calls of the
job table.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from core.ids import ImageRef
from core.jobs.listings import ListingStore
from core.jobs.models import ImageRecord, Job, JobStatus, Resend, TrueLabel
from core.jobs.notifications import Channel, Notification, NotificationStore
from core.jobs.store import JobStore, no_job
from core.messages import ClassificationResult
from services.clock import utc_now
from services.table import LAST
from web_tier.auth.identity import current_identity
from web_tier.http.backend import current_backend
from web_tier.http.problems import JobCancelledError, JobTakesNoImagesError
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
    _read: dict[str, Job] = field(default_factory=dict, init=False)

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
            JobTakesNoImagesError: its images come from S3.
        """
        job, is_cancelled = self.store.job_and_cancelled(job_id)
        self._own(job)
        if is_cancelled:
            raise JobCancelledError("the job is cancelled: retry its failed images to resume it, or make another job")
        if job.source:
            raise JobTakesNoImagesError("the images of this job come from S3: make another job for these")
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

    def create(self, job: Job, caller: str = "") -> None:
        """Record a new job of this user; images of its source count towards the quota of `caller`, if any.

        Raises:
            NotFoundError: it has another owner.
        """
        if job.source:
            ListingStore(self.store).create_job(self._own(job), caller, utc_now())
        else:
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
        job, record, response, resend, truth = self.store.whole_image(ref, self.owner)
        return job, ImageResult(record, response, resend, truth)

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those after the image id `after`.

        Raises:
            NotFoundError: as `job`.
        """
        self._known(job_id)
        return self.store.images(job_id, after, limit)

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, ClassificationResult]:
        """Return results by image id, from the image id `first` to `last`, both included.

        Raises:
            NotFoundError: as `job`.
        """
        self._known(job_id)
        return self.store.results(job_id, first, last)

    def images_of(self, job_id: str, image_ids: Collection[str]) -> dict[str, ImageRecord]:
        """Return the records of those of `image_ids`, each once, that are images of a job, by their ids.

        Raises:
            NotFoundError: as `job`.
            TableBusyError: some could not be read.
        """
        self._known(job_id)
        found = self.store.images_of([ImageRef(job_id, image_id) for image_id in image_ids])
        return {ref.image_id: record for ref, record in found.items()}

    def results_of(self, job_id: str, image_ids: Collection[str]) -> dict[str, ClassificationResult]:
        """Return the results of those of `image_ids`, each once, that have one, by their ids.

        Raises:
            NotFoundError: as `job`.
            TableBusyError: some could not be read.
        """
        self._known(job_id)
        found = self.store.results_of([ImageRef(job_id, image_id) for image_id in image_ids])
        return {ref.image_id: response for ref, response in found.items()}

    def resends(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Resend]:
        """Return the requests that were sent again, by image id, in the range of `results`.

        Raises:
            NotFoundError: as `job`.
        """
        self._known(job_id)
        return self.store.resends(job_id, first, last)

    def truths(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, TrueLabel]:
        """Return true labels by image id, in the range of `results`; costs nothing for a job without any.

        Raises:
            NotFoundError: as `job`.
        """
        return self.store.truths(job_id, first, last) if self._known(job_id).is_reviewed else {}

    def set_truths(self, job_id: str, truths: Mapping[str, TrueLabel | None]) -> None:
        """Set true labels of images of a job, by image id; None removes one.

        Raises:
            NotFoundError: as `job`, and if the job was deleted meanwhile.
            TableBusyError: some could not be set; setting all again is safe.
        """
        job = self._known(job_id)
        self.store.set_truths(job, truths)
        self._read[job_id] = replace(job, is_reviewed=True)

    def notification(self, job_id: str) -> Notification:
        """Return what was requested for the end of a job.

        Raises:
            NotFoundError: as `job`.
        """
        self._known(job_id)
        return NotificationStore(self.store.table).find(job_id)

    def request_notification(
        self, job_id: str, targets: Mapping[Channel, str], *, page: str, secret: str
    ) -> Notification:
        """Request messages for the end of a job, as `NotificationStore.request`, and return all of them.

        Raises:
            NotFoundError: as `job`.
            TooManyNotificationsError: as it says.
        """
        self._known(job_id)
        notifications = NotificationStore(self.store.table)
        notifications.request(job_id, targets, utc_now(), page=page, secret=secret)
        self.store.mark_if_removed(job_id)
        return notifications.find(job_id)

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
        self._read[job.job_id] = job
        return job

    def _known(self, job_id: str) -> Job:
        """Return a job, read once per request: its owner never changes."""
        return self._read[job_id] if job_id in self._read else self.job(job_id)


def user_jobs() -> UserJobs:
    """Return the jobs of the user who sent the current request."""
    return UserJobs(current_backend().store, current_identity().owner)
