"""Queries over the images of a job: pages, filters, orders.

The state of an image is not stored: it follows from the image's record, its result and the requests that were sent
again. All functions read through a `JobReader`, so a route that passes `UserJobs` cannot read another user's job.
"""

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final, Literal

from core.ids import ImageRef
from core.images import CODES
from core.jobs.models import ImageRecord, JobStatus, MinScores, Resend, TrueLabel
from core.jobs.reader import JobReader
from core.jobs.results import Answer
from core.messages import ClassificationResult, Model
from services.recent_dict import RecentDict

PAGE = 500
"""Images or jobs that are read at a time when more are wanted."""

MAX_EXAMINED = 5_000
"""Images or jobs that one filtered page examines: a filter without a match must not read a job of 100,000 images."""

MAX_SORTED = 10_000
"""Images of a job that are sorted: all of them are read for one page."""

MAX_CACHED_MODELS = 1_000
"""Jobs with a model that is cached."""

_MODEL_IMAGES = 25
"""Images of a job that are searched for the model."""

ImageState = Literal["waiting", "done", "failed"]

FilterState = Literal[ImageState, "unsure"]
"""A state of images, or those that are done and unsure."""

UNSURE: Final = "unsure"
"""The decision on an image if the score of its label is too low."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """An accepted image with its result, its requests that were sent again and its true label, if they exist.

    `min_scores` is that of its job.
    """

    record: ImageRecord
    response: ClassificationResult | None
    resend: Resend | None = None
    truth: TrueLabel | None = None
    min_scores: MinScores = field(default_factory=MinScores)

    @property
    def is_unsure(self) -> bool:
        """Whether its label is a mere guess, as of a picture of something that is not one of the classes."""
        return self.response is not None and self.min_scores.is_unsure(self.response.label, self.response.score)

    @property
    def decision(self) -> str | None:
        """What users take the image for: its label, or `UNSURE`; None without a label."""
        return UNSURE if self.is_unsure else self.response.label if self.response else None

    @property
    def retrying(self) -> bool:
        """Whether the image failed, was retried, and has no result of that attempt yet."""
        return self.response is not None and is_retrying(self.record, self.response)

    @property
    def state(self) -> ImageState:
        """State of the image."""
        return self.response.status if self.response else "waiting"

    @property
    def is_correct(self) -> bool | None:
        """Whether the label is the true one; None if one of them is not known."""
        label = self.response.label if self.response else None
        return None if self.truth is None or label is None else label == self.truth.label


def is_retrying(record: ImageRecord, response: ClassificationResult) -> bool:
    """Return True if an image failed with `response` and a later attempt has no result yet."""
    return response.status == "failed" and response.attempt < record.attempt


def is_final(response: ClassificationResult) -> bool:
    """Return True if the image itself made the request fail, so that a retry would fail as well."""
    return response.error is not None and response.error.code in CODES


def is_settled(image: ImageRecord, results: Mapping[ImageRef, ClassificationResult]) -> bool:
    """Return True if an image of the pack of `image` is done, and each other is, too, or failed for good.

    Then no image of the pack is classified again.
    """
    found = [results.get(ref) for ref in image.pack_refs]
    is_done = [each is not None and each.status == "done" for each in found]
    return any(is_done) and all(done or (each and is_final(each)) for done, each in zip(is_done, found, strict=True))


@dataclass(frozen=True, slots=True)
class ResultsPage:
    """Some of a job's images, in the order of their ids; `next_after` is the cursor of the next page, if any."""

    items: tuple[ImageResult, ...]
    next_after: str | None

    @property
    def model(self) -> Model | None:
        """The model of the newest result of this page; None before the first."""
        models = (item.response.model for item in reversed(self.items) if item.response)
        return next((model for model in models if model), None)


@dataclass(frozen=True, slots=True)
class ResultsFilter:
    """Conditions that an image must meet; None is no condition.

    Attributes:
        min_score, max_score: lowest and highest score of its label, 0 to 1.
        filename: part of its filename, in any case.
        truth: its whole true label.
        is_correct: whether its label is its true label; an image without one of them never matches.
    """

    state: FilterState | None = None
    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    filename: str | None = None
    truth: str | None = None
    is_correct: bool | None = None
    is_reviewed: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether every image matches."""
        return self == ResultsFilter()

    def matches(self, result: ImageResult) -> bool:
        """Return whether an image meets all conditions."""
        label, score = (result.response.label, result.response.score) if result.response else (None, None)
        return (
            (self.state in {None, result.state} or (self.state == UNSURE and result.is_unsure))
            and self.label in {None, label}
            and (self.min_score is None or (score is not None and score >= self.min_score))
            and (self.max_score is None or (score is not None and score <= self.max_score))
            and (self.filename is None or self.filename.casefold() in result.record.filename.casefold())
            and (self.truth is None or (result.truth is not None and result.truth.label == self.truth))
            and self.is_correct in {None, result.is_correct}
            and self.is_reviewed in {None, result.truth is not None}
        )


def results_page(
    jobs: JobReader, job_id: str, *, after: str | None = None, limit: int, with_truths: bool = True
) -> ResultsPage:
    """Return up to `limit` of a job's images beyond the image id `after`, with their results and true labels."""
    records = list(islice(jobs.images(job_id, after, limit + 1), limit + 1))
    more = len(records) > limit
    records = records[:limit]
    if not records:
        return ResultsPage((), None)
    ids = [record.ref.image_id for record in records]
    answers = jobs.answers(job_id, ids[0], ids[-1])
    truths = jobs.truths(job_id, ids[0], ids[-1]) if with_truths else {}
    scores = jobs.min_scores(job_id)
    items = tuple(
        ImageResult(record, *answers.get(image_id, Answer()), truths.get(image_id), scores)
        for image_id, record in zip(ids, records, strict=True)
    )
    return ResultsPage(items, ids[-1] if more else None)


def filtered_page(
    jobs: JobReader, job_id: str, wanted: ResultsFilter, *, after: str | None = None, limit: int
) -> ResultsPage:
    """Return up to `limit` of a job's images beyond the image id `after` that match `wanted`.

    The page may hold fewer images, even none, and still have a cursor: at most `MAX_EXAMINED` images are examined.
    """
    if wanted.is_empty:
        return results_page(jobs, job_id, after=after, limit=limit)
    found: list[ImageResult] = []
    for _ in range(MAX_EXAMINED // PAGE):
        page = results_page(jobs, job_id, after=after, limit=PAGE)
        found += filter(wanted.matches, page.items)
        if len(found) > limit:
            return ResultsPage(tuple(found[:limit]), found[limit - 1].record.ref.image_id)
        after = page.next_after
        if after is None:
            break
    return ResultsPage(tuple(found), after)


def all_results(
    jobs: JobReader, job_id: str, wanted: ResultsFilter | None = None, *, with_truths: bool = True
) -> Iterator[ImageResult]:
    """Yield all of a job's images that match `wanted` with their results; reads `PAGE` images at a time."""
    wanted = wanted or ResultsFilter()
    after: str | None = None
    while True:
        page = results_page(jobs, job_id, after=after, limit=PAGE, with_truths=with_truths)
        yield from filter(wanted.matches, page.items)
        after = page.next_after
        if after is None:
            return


_DIGITS = re.compile(r"(\d+)")
_AFTER_ALL_LABELS = "\U0010ffff"
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_STATES = ("failed", "waiting", "done")


def natural_key(text: str) -> tuple[Any, ...]:
    """Return a sort key by which `image 9` comes before `image 10`, regardless of case."""
    parts = _DIGITS.split(text.casefold())
    return tuple((int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part) for part in parts)


def _score(item: ImageResult, default: float) -> float:
    score = item.response.score if item.response else None
    return default if score is None else score


ORDERS: Mapping[str, Callable[[ImageResult], Any]] = {
    "name": lambda item: natural_key(item.record.filename),
    "label": lambda item: natural_key((item.response and item.response.label) or _AFTER_ALL_LABELS),
    "sure": lambda item: -_score(item, -1.0),
    "unsure": lambda item: _score(item, 2.0),
    "state": lambda item: _STATES.index(item.state),
    "recent": lambda item: _EARLIEST - ((item.response and item.response.recorded_at) or _EARLIEST),
}
"""Sort keys by the name that an address has for the order; static/job/orders.js has the same."""


def can_sort(status: JobStatus) -> bool:
    """Return whether a job is small enough for its images to be sorted."""
    return status.accepted <= MAX_SORTED


def sorted_page(
    jobs: JobReader, job_id: str, wanted: ResultsFilter, order: str, *, number: int, limit: int
) -> tuple[ResultsPage, bool]:
    """Return page `number`, from 1, of those of the first `MAX_SORTED` images that match `wanted`.

    Also return whether it is the last page. `order` is one of the `ORDERS`. This is for browsers without JavaScript:
    a script sorts the images that it has.
    """
    examined = islice(all_results(jobs, job_id), MAX_SORTED)
    found = sorted(filter(wanted.matches, examined), key=ORDERS[order])
    start = (number - 1) * limit
    items = tuple(found[start : start + limit])
    return ResultsPage(items, None), start + limit >= len(found)


def images_per_second(status: JobStatus) -> float | None:
    """Return the speed of a job, or None if it is not known: of a finished one from its creation to its last answer.

    Before, it is the speed of the workers from their first result to their last.
    """
    counts = status.counts
    images = answered = counts.done + counts.failed - counts.cancelled
    begin, end = counts.first_result_at, counts.last_result_at
    if status.is_answered:
        begin = status.job.created_at
    else:
        images -= 1
    if begin is None or end is None or end <= begin or min(images, answered - 1) < 1:
        return None
    return images / (end - begin).total_seconds()


class JobModels:
    """A cache of the models that answered jobs, since clients poll the status of a job; threads may share it."""

    def __init__(self) -> None:
        self._models = RecentDict[str, Model](MAX_CACHED_MODELS)
        self._lock = threading.Lock()

    def find(self, jobs: JobReader, status: JobStatus) -> Model | None:
        """Return the model that answered the first images of a job, or None if it is not known yet."""
        job_id = status.job.job_id
        if status.counts.done + status.counts.failed == 0:
            return None
        with self._lock:
            model = self._models.get(job_id)
        if model is None:
            model = results_page(jobs, job_id, limit=_MODEL_IMAGES).model
        if model is not None:
            with self._lock:
                self._models[job_id] = model
        return model
