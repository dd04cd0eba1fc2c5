"""The images of the jobs that get results: which the job table has, and which of them wait for a result.

Images are added, taken back and retried by the web tier while their results come. So what is known of them is
brought up to date by their ids: the cost does not grow with the job, unless all of it has to be read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from core.ids import ImageRef
from core.jobs.models import ImageRecord
from services.batches import in_batches
from services.side_by_side import outcomes
from services.table import PAGE
from web_tier.controller.job_cache import JobCache
from web_tier.controller.job_counts import JobCounts, MissingImages

FEW = 3
"""Up to so many unknown images of a job are looked up by their ids, more with a query."""
RECENT = 2_000
"""Known images that `learn_recent` reads again, those with the last ids: while several uploads run, images are not
recorded in the order of their ids."""
LOOKUP = 100
"""Images that are read again at a time."""


@dataclass
class JobImages:
    """Knows the images of jobs. Of a job that does not exist there are none."""

    jobs: JobCache

    def is_accepted(self, ref: ImageRef) -> bool:
        """Return whether `ref` is an accepted image of a job that exists."""
        with self.jobs.hold(ref.job_id) as job:
            if job is None:
                return False
            if ref.image_id not in job.statuses:
                job.add_images(self._records([ref]).values())
            return ref.image_id in job.statuses

    def learn(self, jobs: Mapping[str, JobCounts], refs: Iterable[ImageRef]) -> dict[ImageRef, Exception]:
        """Look up those of `refs` that are not known yet; return those that could not be read, with the reason.

        Args:
            jobs: the jobs of the images; the caller holds their locks.
            refs: images for which there are results.
        """
        unknown, unread = dict[str, list[ImageRef]](), dict[ImageRef, Exception]()
        for ref in refs:
            if ref.image_id not in jobs[ref.job_id].statuses:
                unknown.setdefault(ref.job_id, []).append(ref)

        def read_ahead(job_id: str) -> Sequence[ImageRecord]:
            return list(self.jobs.store.images(job_id, min(ref.image_id for ref in unknown[job_id])[:-1], limit=PAGE))

        # Images mostly arrive in the order of their ids: more unknown ones follow the first one.
        many = [job_id for job_id, of_job in unknown.items() if len(of_job) > FEW]
        for job_id, found in outcomes(self.jobs.store.table.pool, read_ahead, many):
            if isinstance(found, Exception):
                unread |= dict.fromkeys(unknown.pop(job_id), found)
            else:
                jobs[job_id].add_images(found)
        left = [ref for of_job in unknown.values() for ref in of_job if ref.image_id not in jobs[ref.job_id].statuses]
        images, errors = self.jobs.store.find_images(left)
        for ref, image in images.items():
            jobs[ref.job_id].add_image(image)
        return unread | errors

    def learn_recent(self, job_id: str) -> None:
        """Learn from the table which images were added last or taken back; the cost does not grow with the job."""
        with self.jobs.hold(job_id) as job:
            after = "" if job is None else job.statuses.last(RECENT)
        if job is not None:
            self._read_images(job_id, after)

    def resync(self, job_id: str) -> None:
        """Learn from the table which images the job has; costs more the more there are."""
        recorded = self.jobs.store.count_images(job_id)
        with self.jobs.hold(job_id) as job:
            is_known = job is None or recorded == len(job.statuses)
        if not is_known:
            self._read_images(job_id, after="")

    def learn_retries(self, job_id: str) -> None:
        """Learn from the table which failed images of the job were retried."""
        with self.jobs.hold(job_id) as job:
            failed = [] if job is None else list(job.statuses.ids("failed"))
        self._read_all_again(job_id, failed)

    def read_again(self, job_id: str, image_ids: Sequence[str]) -> list[ImageRecord]:
        """Return the records of known images as the table has them now; forget those that were taken back."""
        with self.jobs.hold(job_id) as job:
            if job is None:
                return []
            records = self._records([ImageRef(job_id, image_id) for image_id in image_ids])
            for image_id in image_ids:
                if ImageRef(job_id, image_id) not in records:
                    job.remove_image(image_id)
            job.add_images(records.values())
            return list(records.values())

    def missing(self, job_id: str) -> dict[str, int]:
        """Return the ids of images without a result of their last attempt, oldest first, each with this attempt."""
        with self.jobs.hold(job_id) as job:
            return {} if job is None else job.missing()

    def observe_missing(self, job_id: str, known: Iterable[str] = ()) -> MissingImages:
        """Return how many images are missing, and the attempts of some of them, those of `known` included.

        The cost does not grow with the job.
        """
        with self.jobs.hold(job_id) as job:
            return MissingImages() if job is None else job.observe_missing(job_id, known)

    def waiting(self, job_id: str, limit: int) -> list[str]:
        """Return the ids of up to `limit` images without any result, oldest first."""
        with self.jobs.hold(job_id) as job:
            return [] if job is None else list(islice(job.statuses.ids(None), limit))

    def still_missing(self, job_id: str, image_ids: Sequence[str]) -> list[str]:
        """Return those of `image_ids` that `missing` would return."""
        with self.jobs.hold(job_id) as job:
            return [] if job is None else [each for each in image_ids if job.is_missing(each)]

    def cancelled(self, job_id: str) -> list[str]:
        """Return the ids of images that failed because the job was cancelled, oldest first."""
        with self.jobs.hold(job_id) as job:
            return [] if job is None else sorted(job.cancelled)

    def hopeless(self, job_id: str, limit: int) -> tuple[str, list[ImageRef]] | None:
        """Return how many images of a known job failed, and up to `limit` of them, if these are too many."""
        with self.jobs.hold_known([job_id]) as known:
            job = known.get(job_id)
            if job is None or (words := job.hopeless) is None:
                return None
            failed = (each for each in job.statuses.ids("failed") if each not in job.cancelled)
            return words, [ImageRef(job_id, image_id) for image_id in islice(failed, limit)]

    def _records(self, refs: Sequence[ImageRef]) -> dict[ImageRef, ImageRecord]:
        """Return the records of those of `refs` that are accepted images, after one try: the caller holds a lock."""
        records, unread = self.jobs.store.find_images(refs)
        for error in unread.values():
            raise error
        return records

    def _read_all_again(self, job_id: str, image_ids: Sequence[str]) -> None:
        """Read records again, `LOOKUP` at a time: so long the job's lock is held."""
        for some in in_batches(image_ids, LOOKUP):
            if self.jobs.tenure.active():
                self.read_again(job_id, some)

    def _read_images(self, job_id: str, after: str) -> None:
        """Read which images the job has after the image id `after`; no lock is held while they are read."""
        images, is_last = self.jobs.store.images(job_id, after), False
        while not is_last and self.jobs.tenure.active():
            page = list(islice(images, PAGE))
            is_last = len(page) < PAGE
            until = None if is_last else page[-1].ref.image_id
            with self.jobs.hold(job_id) as job:
                if job is None:
                    return
                recorded = {image.ref.image_id for image in page}
                unrecorded = [each for each in job.statuses.between(after, until) if each not in recorded]
                job.add_images(page)
            # They were taken back, or added since the page was read.
            self._read_all_again(job_id, unrecorded)
            after = until or after
