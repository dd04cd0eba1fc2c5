"""A job's images with their results, in pages: state is derived from what exists."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from core.images import CODES
from core.jobs.models import ImageRecord, JobStatus, Resend
from core.messages import Model, Response
from services.table import LAST

PAGE = 500
"""Images read at a time when all are wanted."""

MAX_EXAMINED = 5_000
"""Images that one filtered page looks at: a filter that nothing passes must not read a job of 100,000 at once."""

ImageState = Literal["waiting", "done", "failed"]


@dataclass(frozen=True, slots=True)
class ImageResult:
    """An accepted image, its result if there is one yet, and its requests that were sent again if there are any."""

    record: ImageRecord
    response: Response | None
    resend: Resend | None = None

    @property
    def retrying(self) -> bool:
        """Whether the image failed, was retried, and has no result of that attempt yet."""
        return self.response is not None and is_retrying(self.record, self.response)

    @property
    def state(self) -> ImageState:
        """Where the image stands."""
        return self.response.status if self.response else "waiting"


@dataclass(frozen=True, slots=True)
class ResultsPage:
    """Some of a job's images, in the order of their ids; `next_after` is the cursor of the next page, if any."""

    items: tuple[ImageResult, ...]
    next_after: str | None

    @property
    def model(self) -> Model | None:
        """The bundle that answered, by the newest result of this page; None before the first."""
        models = (item.response.model for item in reversed(self.items) if item.response)
        return next((model for model in models if model), None)


class JobResults(Protocol):
    """Where the images and results of jobs are read; `JobStore` is one, and `UserJobs` for routes."""

    def images(self, job_id: str, after: str | None = None, limit: int | None = None) -> Iterator[ImageRecord]:
        """Yield a job's images in the order of their ids, those beyond the image id `after`."""
        ...

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Response]:
        """Return results by image id, from the image id `first` to `last`, both included."""
        ...

    def resends(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Resend]:
        """Return the requests that were sent again, in the same way; few images have any."""
        ...


@dataclass(frozen=True, slots=True)
class ResultsFilter:
    """Which images are wanted; what is None asks for nothing.

    Attributes:
        state: where the image stands.
        label: its label, whole.
        min_score, max_score: the least and the greatest score of its label, 0 to 1.
        filename: part of its filename, in any case.
    """

    state: ImageState | None = None
    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    filename: str | None = None

    @property
    def wants_all(self) -> bool:
        """Whether every image passes."""
        return self == ResultsFilter()

    def passes(self, result: ImageResult) -> bool:
        """Return whether an image is wanted."""
        label, score = (result.response.label, result.response.score) if result.response else (None, None)
        return (
            self.state in {None, result.state}
            and self.label in {None, label}
            and (self.min_score is None or (score is not None and score >= self.min_score))
            and (self.max_score is None or (score is not None and score <= self.max_score))
            and (self.filename is None or self.filename.casefold() in result.record.filename.casefold())
        )


def is_retrying(record: ImageRecord, response: Response) -> bool:
    """Return True if an image failed with `response` and a later attempt has no result yet."""
    return response.status == "failed" and response.attempt < record.attempt


def is_final(response: Response) -> bool:
    """Return True if an image failed because of what it is, so that a retry would fail as well."""
    return response.error is not None and response.error.code in CODES


def filtered_page(
    store: JobResults, job_id: str, wanted: ResultsFilter, *, after: str | None = None, limit: int
) -> ResultsPage:
    """Return up to `limit` of a job's images beyond the image id `after` that are `wanted`.

    May return fewer, even none, and a cursor all the same: it looks at `MAX_EXAMINED` images at most.
    """
    if wanted.wants_all:
        return results_page(store, job_id, after=after, limit=limit)
    found: list[ImageResult] = []
    for _ in range(MAX_EXAMINED // PAGE):
        page = results_page(store, job_id, after=after, limit=PAGE)
        found += filter(wanted.passes, page.items)
        if len(found) > limit:
            return ResultsPage(tuple(found[:limit]), found[limit - 1].record.ref.image_id)
        after = page.next_after
        if after is None:
            break
    return ResultsPage(tuple(found), after)


def results_page(store: JobResults, job_id: str, *, after: str | None = None, limit: int) -> ResultsPage:
    """Return up to `limit` of a job's images beyond the image id `after`, with their results."""
    records = list(islice(store.images(job_id, after, limit + 1), limit + 1))
    more = len(records) > limit
    records = records[:limit]
    if not records:
        return ResultsPage((), None)
    ids = [record.ref.image_id for record in records]
    found, resends = store.results(job_id, ids[0], ids[-1]), store.resends(job_id, ids[0], ids[-1])
    items = tuple(
        ImageResult(record, found.get(image_id), resends.get(image_id))
        for image_id, record in zip(ids, records, strict=True)
    )
    return ResultsPage(items, ids[-1] if more else None)


def all_results(store: JobResults, job_id: str, wanted: ResultsFilter | None = None) -> Iterator[ImageResult]:
    """Yield all of a job's images that are `wanted` with their results, reading `PAGE` at a time."""
    wanted = wanted or ResultsFilter()
    after: str | None = None
    while True:
        page = results_page(store, job_id, after=after, limit=PAGE)
        yield from filter(wanted.passes, page.items)
        after = page.next_after
        if after is None:
            return


def images_per_second(status: JobStatus) -> float | None:
    """Return how fast workers answered, from their first result to their last; None if that is not known.

    Images that were answered at once are left out: their times are by the clock of a web process.
    """
    counts = status.counts
    first, last = counts.first_result_at, counts.last_result_at
    answered = counts.done - counts.cached + counts.failed
    if first is None or last is None or last <= first or answered < 2:
        return None
    return (answered - 1) / (last - first).total_seconds()
