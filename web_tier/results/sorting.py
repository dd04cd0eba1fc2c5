"""A job's images in another order than that of their upload, for browsers without JavaScript."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from core.jobs.models import JobStatus
from web_tier.results.query import ImageResult, JobResults, ResultsFilter, ResultsPage, all_results

MAX_SORTED = 10_000
"""Images of a job that are sorted: all of them are read for one page."""

_DIGITS = re.compile(r"(\d+)")
_LAST = "\U0010ffff"
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_STATES = ("failed", "waiting", "done")


@dataclass(frozen=True, slots=True)
class SortedPage:
    """Page `number`, from 1, of a job's images in some order; `is_last` tells whether there is none after it."""

    page: ResultsPage
    number: int
    is_last: bool


def natural(text: str) -> tuple[Any, ...]:
    """Return a key by which `image 9` comes before `image 10`, regardless of case."""
    parts = _DIGITS.split(text.casefold())
    return tuple((int(part), "") if part.isdecimal() and len(part) < 20 else (-1, part) for part in parts)


def _by_label(item: ImageResult) -> tuple[Any, ...]:
    return natural((item.response and item.response.label) or _LAST)


def _score(item: ImageResult, without: float) -> float:
    score = item.response.score if item.response else None
    return without if score is None else score


def _recorded_at(item: ImageResult) -> datetime:
    return (item.response and item.response.recorded_at) or _LONG_AGO


ORDERS: Mapping[str, Callable[[ImageResult], Any]] = {
    "name": lambda item: natural(item.record.filename),
    "label": _by_label,
    "sure": lambda item: -_score(item, -1.0),
    "unsure": lambda item: _score(item, 2.0),
    "state": lambda item: _STATES.index(item.state),
    "recent": lambda item: _LONG_AGO - _recorded_at(item),
}
"""The orders there are by what an address calls them; static/job/rows.js has the same."""


def can_sort(status: JobStatus) -> bool:
    """Return whether a job is small enough for its images to be sorted."""
    return status.accepted <= MAX_SORTED


def sorted_page(
    store: JobResults, job_id: str, wanted: ResultsFilter, order: str, *, number: int, limit: int
) -> SortedPage:
    """Return `limit` of the first `MAX_SORTED` of a job's images that are `wanted`, in one of the `ORDERS`."""
    found = []
    for looked_at, item in enumerate(all_results(store, job_id)):
        if looked_at == MAX_SORTED:
            break
        if wanted.passes(item):
            found.append(item)
    found.sort(key=ORDERS[order])
    start = (number - 1) * limit
    items = tuple(found[start : start + limit])
    return SortedPage(ResultsPage(items, None), number, start + limit >= len(found))
