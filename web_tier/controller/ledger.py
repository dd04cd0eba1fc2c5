"""The ledger: puts results into the job table and keeps each job's counts, of which this is the only writer.

Counts are absolute figures, derived from the statuses of the job's images, and stored after the results. So whatever
is repeated, reordered or cut short in between, the figures end where the items are.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from services.errors import NotFoundError
from services.ids import ImageRef, input_key
from services.job_records import Counts, ImageRecord, with_answers, with_result
from services.jobs import JobStore
from services.messages import Response, Status

_log = logging.getLogger(__name__)

MOST_IMAGES = 500_000
"""Images whose status is kept in memory, over all jobs; some 200 bytes each."""
MOST_ANSWERED = 20_000
"""Of these, images of jobs in which all have their results: what may still come for those is a repeat."""
FEW = 3
"""Up to so many unknown images are looked up one by one, more with a query."""


@dataclass
class JobFigures:
    """What is known of one job: each image's status (None as long as it has no result), and the counts.

    `keep` and `owner` are the job's own: whether its images stay once they have a label, and whose it is.
    """

    statuses: dict[str, Status | None]
    counts: Counts
    keep: bool
    owner: str

    @property
    def answered(self) -> bool:
        """Whether every known image has its result."""
        return len(self.statuses) == self.counts.done + self.counts.failed

    def learn(self, image: ImageRecord) -> None:
        """Know an accepted image, which the web tier may have answered itself."""
        image_id = image.ref.image_id
        if image_id not in self.statuses:
            self.statuses[image_id] = "done" if image.cached else None
            answered = int(image.cached)
            self.counts = replace(self.counts, done=self.counts.done + answered, cached=self.counts.cached + answered)

    def take(self, image_id: str, now: Status, at: datetime) -> None:
        """Count a result that has been put."""
        before = self.statuses[image_id]
        self.counts = with_result(self.counts, before, now, at)
        self.statuses[image_id] = "done" if before == "done" else now


@dataclass
class Ledger:
    """Records results. Its methods may be called from several threads; they take turns.

    Attributes:
        store: the job table.
        delete_inputs: deletes these keys of the input bucket; one that is gone is no error.
        most_images: bound of what is remembered; the jobs that were used last stay.
        most_answered: the same for jobs in which every image has its result.
        now: the wall clock, for the times of a job's first and last result.
        run: is told how many answers of workers were recorded just now; returns the number of the fleet's run in
            which they were given, if that is known.
    """

    store: JobStore
    delete_inputs: Callable[[Sequence[str]], None]
    most_images: int = MOST_IMAGES
    most_answered: int = MOST_ANSWERED
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    run: Callable[[int], int | None] = lambda _answers: None
    _jobs: "OrderedDict[str, JobFigures]" = field(default_factory=OrderedDict, init=False)
    _turn: threading.RLock = field(default_factory=threading.RLock, init=False)

    def record(self, responses: Iterable[Response]) -> None:
        """Put results and store the counts of their jobs; all of it may be repeated.

        Unless its job keeps them, an image is deleted once its label is stored.

        What belongs to no job or no accepted image is logged and dropped.

        Raises:
            TableBusyError: when some could not be put; record all of them again.
        """
        by_job: dict[str, list[Response]] = {}
        for response in responses:
            by_job.setdefault(response.job_id, []).append(response)
        with self._turn:
            for job_id, of_job in by_job.items():
                self._record_job(job_id, best_by_image(of_job))

    def owners(self, job_ids: Iterable[str]) -> dict[str, str]:
        """Return whose those of `job_ids` are that exist.

        What has to be read for it need not be read again when their results are recorded.
        """
        with self._turn:
            found = {job_id: self._figures(job_id) for job_id in dict.fromkeys(job_ids)}
        return {job_id: figures.owner for job_id, figures in found.items() if figures is not None}

    def knows(self, ref: ImageRef) -> bool:
        """Tell whether `ref` is an accepted image of a job that exists."""
        with self._turn:
            figures = self._figures(ref.job_id)
            if figures is None:
                return False
            self._learn(ref.job_id, figures, [ref.image_id])
            return ref.image_id in figures.statuses

    def recount(self, job_id: str) -> None:
        """Learn from the table which images the job has; costs more the more there are."""
        with self._turn:
            figures = self._figures(job_id)
            if figures is not None and self.store.count_images(job_id) != len(figures.statuses):
                recorded = {image.ref.image_id: image for image in self.store.images(job_id)}
                if figures.statuses.keys() - recorded.keys():
                    # The web tier has taken images back, some perhaps with a result: read the job anew.
                    del self._jobs[job_id]
                    self._figures(job_id)
                    return
                for image in recorded.values():
                    figures.learn(image)

    def forget(self, ref: ImageRef) -> None:
        """Forget an image without a result whose record the web tier has taken back."""
        with self._turn:
            figures = self._figures(ref.job_id)
            if figures is not None and figures.statuses.get(ref.image_id, "unknown") is None:
                del figures.statuses[ref.image_id]

    def drop(self, job_id: str) -> None:
        """Forget a job that was deleted; what still comes for it belongs to no job."""
        with self._turn:
            self._jobs.pop(job_id, None)

    def settle(self, job_id: str) -> None:
        """Store the job's counts again if the table has others, as after a late write of an earlier holder."""
        with self._turn:
            figures = self._figures(job_id)
            if figures is not None and self.store.counts(job_id) != _counted(figures):
                self._store_counts(job_id, figures)

    def missing(self, job_id: str) -> list[str]:
        """Return the ids of the known images that have no result, oldest first."""
        with self._turn:
            figures = self._figures(job_id)
            return [] if figures is None else sorted(_missing(figures))

    def _record_job(self, job_id: str, responses: Sequence[Response]) -> None:
        figures = self._figures(job_id)
        if figures is None:
            _log.warning("dropped results of a job that does not exist", extra={"job": job_id, "n": len(responses)})
            return
        self._learn(job_id, figures, [response.image_id for response in responses])
        known = [response for response in responses if response.image_id in figures.statuses]
        if len(known) < len(responses):
            strangers = len(responses) - len(known)
            _log.warning("dropped results of images that were never accepted", extra={"job": job_id, "n": strangers})
        self._put(figures, known)
        self._store_counts(job_id, figures)
        if not figures.keep:
            # Also of those that were recorded before: whoever did may have died before this.
            self.delete_inputs(inputs_of(known))

    def _put(self, figures: JobFigures, responses: Sequence[Response]) -> None:
        at = self.now()
        # Without the digest, which is of use to the cache only: an item of up to 1 KB is one write, above it is two.
        fresh = [
            response.model_copy(update={"recorded_at": at, "sha256": None})
            for response in responses
            if figures.statuses[response.image_id] != "done"
        ]
        done = [response for response in fresh if response.status == "done"]
        self.store.put_done(done)
        for response in done:
            figures.take(response.image_id, "done", at)
        for response in fresh:
            if response.status == "failed":
                figures.take(response.image_id, self._put_failed(response), at)
        if fresh and (run := self.run(len(fresh))) is not None:
            figures.counts = with_answers(figures.counts, run, len(fresh))

    def _put_failed(self, response: Response) -> Status:
        """Put a failed result unless the image is done; return the status that the image has now."""
        if self.store.put_failed(response):
            return "failed"
        there = self.store.result(response.ref)
        return "failed" if there is None else there.status

    def _store_counts(self, job_id: str, figures: JobFigures) -> None:
        figures.counts = _counted(figures)
        self.store.store_counts(job_id, figures.counts)

    def _figures(self, job_id: str) -> JobFigures | None:
        """Return what is known of a job, from memory or from the table; None when there is no such job."""
        if job_id in self._jobs:
            self._jobs.move_to_end(job_id)
            return self._jobs[job_id]
        figures = self._read(job_id)
        if figures is not None:
            self._jobs[job_id] = figures
            self._forget_oldest()
        return figures

    def _read(self, job_id: str) -> JobFigures | None:
        try:
            job = self.store.job(job_id)
        except NotFoundError:
            return None
        results, cached = self.store.statuses(job_id), 0
        statuses: dict[str, Status | None] = {}  # a result without a record belongs to no accepted image
        for image in self.store.images(job_id):
            cached += image.cached
            statuses[image.ref.image_id] = results.get(image.ref.image_id, "done" if image.cached else None)
        counts = derived(statuses, cached, self.store.counts(job_id), self.now())
        return JobFigures(statuses, counts, job.keep, job.owner)

    def _forget_oldest(self) -> None:
        """Keep to the bounds; the job that was used last stays, however large it is."""
        older = list(self._jobs)[:-1]
        self._forget_beyond(self.most_answered, [job_id for job_id in older if self._jobs[job_id].answered])
        self._forget_beyond(self.most_images, list(self._jobs))

    def _forget_beyond(self, most: int, job_ids: Sequence[str]) -> None:
        """Forget the first of `job_ids` until the images of the rest are at most `most`."""
        images = sum(len(self._jobs[job_id].statuses) for job_id in job_ids)
        for job_id in job_ids:
            if images <= most or len(self._jobs) == 1:
                return
            images -= len(self._jobs.pop(job_id).statuses)

    def _learn(self, job_id: str, figures: JobFigures, image_ids: Sequence[str]) -> None:
        """Look up those of `image_ids` that are not known yet."""
        unknown = [image_id for image_id in image_ids if image_id not in figures.statuses]
        if len(unknown) > FEW:
            # Ids are ordered by time: what is unknown stands near the end, with more of its kind behind it.
            self._learn_from(job_id, figures, min(unknown)[:-1])
            return
        for image_id in unknown:
            try:
                figures.learn(self.store.image(ImageRef(job_id, image_id)))
            except NotFoundError:
                continue

    def _learn_from(self, job_id: str, figures: JobFigures, after: str) -> None:
        for image in self.store.images(job_id, after=after):
            figures.learn(image)


def best_by_image(responses: Iterable[Response]) -> list[Response]:
    """Return one response for each image: one that is done if there is any, else the first."""
    best: dict[str, Response] = {}
    for response in responses:
        there = best.setdefault(response.image_id, response)
        if there.status == "failed" and response.status == "done":
            best[response.image_id] = response
    return list(best.values())


def inputs_of(responses: Iterable[Response]) -> list[str]:
    """Return the keys of the images that have a label now, as their workers name them."""
    return [
        response.key
        for response in responses
        if response.status == "done" and response.key and response.key.startswith(input_key(response.ref, ""))
    ]


def derived(statuses: dict[str, Status | None], cached: int, stored: Counts, now: datetime) -> Counts:
    """Return the counts that `statuses` make, `cached` of which the web tier answered itself.

    Times are the stored ones, or `now` where workers' results came since.
    """
    done = sum(status == "done" for status in statuses.values())
    failed = sum(status == "failed" for status in statuses.values())
    counts = replace(stored, done=done, failed=failed, cached=cached)
    if (done - cached, failed) == (stored.done - stored.cached, stored.failed):
        return counts
    return replace(counts, first_result_at=stored.first_result_at or now, last_result_at=now)


def _missing(figures: JobFigures) -> list[str]:
    return [image_id for image_id, status in figures.statuses.items() if status is None]


def _counted(figures: JobFigures) -> Counts:
    return replace(figures.counts, images=len(figures.statuses))
