"""A job's images with their results, in pages: state is derived from what exists."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from services.jobs import ImageRecord, JobStatus, JobStore
from services.messages import Model, Response

PAGE = 500
"""Images read at a time when all are wanted."""

ImageState = Literal["waiting", "done", "failed"]


@dataclass(frozen=True, slots=True)
class ImageResult:
    """An accepted image and its result, if there is one yet."""

    record: ImageRecord
    response: Response | None

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


def results_page(store: JobStore, job_id: str, *, after: str | None = None, limit: int) -> ResultsPage:
    """Return up to `limit` of a job's images beyond the image id `after`, with their results."""
    records = list(islice(store.images(job_id, after, limit + 1), limit + 1))
    more = len(records) > limit
    records = records[:limit]
    if not records:
        return ResultsPage((), None)
    found = store.results(job_id, records[0].ref.image_id, records[-1].ref.image_id)
    items = tuple(ImageResult(record, found.get(record.ref.image_id)) for record in records)
    return ResultsPage(items, records[-1].ref.image_id if more else None)


def all_results(store: JobStore, job_id: str) -> Iterator[ImageResult]:
    """Yield all of a job's images with their results, reading `PAGE` at a time."""
    after: str | None = None
    while True:
        page = results_page(store, job_id, after=after, limit=PAGE)
        yield from page.items
        after = page.next_after
        if after is None:
            return


def images_per_second(status: JobStatus) -> float | None:
    """Return how fast results came, from the first to the last; None as long as that cannot be told."""
    counts = status.counts
    if counts.first_result_at is None or counts.last_result_at is None:
        return None
    seconds = (counts.last_result_at - counts.first_result_at).total_seconds()
    return (counts.done + counts.failed - 1) / seconds if seconds > 0 else None
