"""What the page of a job shows: where it stands, a page of its images, and how to ask for others."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from flask import request, url_for

from core.format import duration, plural
from core.jobs.models import JobStatus
from core.messages import Model
from web_tier.auth.job_access import UserJobs
from web_tier.backend import current_backend
from web_tier.live import current_live
from web_tier.pages.asked import Asked
from web_tier.pages.progress import Progress, ProgressBody
from web_tier.parameters import cursor, whole_number
from web_tier.results.query import ResultsPage, filtered_page
from web_tier.results.rows import Row
from web_tier.results.sorting import MAX_SORTED, can_sort, sorted_page
from web_tier.uploads.retry import Retried

MAX_LABELS = 20
"""Labels in the histogram, those with most images."""

MAX_PAGES = 1_000
SECONDS_A_DAY = 86_400


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label and how many images have it; `share` is in percent of the most frequent one."""

    label: str
    images: int
    share: float


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the images that are asked for; `next` is how the address of the page after it differs, if any."""

    found: ResultsPage
    is_first: bool
    next: dict[str, str] | None

    @classmethod
    def read(cls, jobs: UserJobs, status: JobStatus, asked: Asked, limit: int) -> "Page":
        """Return the page that the current request asks for, in the order that it asks for if that can be."""
        job_id = status.job.job_id
        if asked.sort and can_sort(status):
            number = whole_number("page", default=1, most=MAX_PAGES)
            part = sorted_page(jobs, job_id, asked.filter, asked.sort, number=number, limit=limit)
            return cls(part.page, number == 1, None if part.is_last else {"page": str(number + 1)})
        after = cursor("after")
        page = filtered_page(jobs, job_id, asked.filter, after=after, limit=limit)
        return cls(page, after is None, {"after": page.next_after} if page.next_after else None)


@dataclass(frozen=True, slots=True)
class JobView:
    """Everything that the page shows of a job; what it has to say is in words, or None."""

    progress: Progress
    body: ProgressBody
    asked: Asked
    page: Page
    rows: tuple[Row, ...]
    labels: list[LabelCount]
    keeping: str | None
    not_sorted: str | None
    note: str | None

    @classmethod
    def read(cls, jobs: UserJobs, job_id: str, limit: int) -> "JobView":
        """Return the view that the current request asks for.

        Raises:
            NotFoundError: when there is no such job.
            BadRequest: when the request asks for what there cannot be.
        """
        status, asked = jobs.status(job_id), Asked.of_request()
        page = Page.read(jobs, status, asked, limit)
        rows = tuple(Row.of_result(item) for item in page.found.items)
        progress, body = current_live().progress(status)
        return cls(
            progress=progress,
            body=body,
            asked=asked,
            page=page,
            rows=rows,
            labels=label_counts(rows),
            keeping=None if status.job.keep else keeping_words(current_backend().config.retention.unkept_days),
            not_sorted=_not_sorted(status, asked),
            note=_retry_note(),
        )

    @property
    def model(self) -> Model | None:
        """The bundle that answered, as far as this page knows."""
        return self.page.found.model

    def address(self, **others: str) -> str:
        """Return the address of this page, but for `others`; from its first images on."""
        page = url_for("pages.job_page", job_id=self.progress.status.job.job_id)
        words = urlencode(self.asked.words(**others))
        return f"{page}?{words}" if words else page


def keeping_words(unkept_days: float) -> str:
    """Say what becomes of the images of a job that does not keep them; it expires after so many days, 0: never."""
    deleted = "Each image is deleted as soon as its label is stored"
    if not unkept_days:
        return f"{deleted}; one that failed stays until it has a label."
    after = duration(unkept_days * SECONDS_A_DAY)
    return f"{deleted}; one that failed stays until it has a label. This job with its results expires after {after}."


def _not_sorted(status: JobStatus, asked: Asked) -> str | None:
    if not asked.sort or can_sort(status):
        return None
    return (
        f"Without JavaScript, jobs of up to {MAX_SORTED:,} images are sorted; this one has {status.accepted:,}, "
        "shown in the order of their upload."
    )


_RETRY_WORDS: Final = {
    "refused": "{count} not taken by the queue: try again in a moment",
    "gone": "{count} no longer stored: upload them again",
    "final": "{count} cannot be classified, so a retry would fail",
    "running": "{count} being tried again already",
}
"""What became of images that were not requested again, by the query parameter that counts them."""


def job_page_after(job_id: str, retried: Retried) -> str:
    """Return the address of a job's page that says what became of a request to retry its failed images."""
    counts = {
        "refused": retried.rejected,
        "gone": len(retried.missing),
        "final": retried.final,
        "running": retried.running,
    }
    others: dict[str, Any] = {name: count for name, count in counts.items() if count}
    return url_for("pages.job_page", job_id=job_id, retried=retried.sent, **others)


def _retry_note() -> str | None:
    """Return the sentence about a request to retry failed images, if the reader comes from one."""
    retried = request.args.get("retried", type=int)
    if retried is None:
        return None
    counts = {name: request.args.get(name, default=0, type=int) for name in _RETRY_WORDS}
    others = [_RETRY_WORDS[name].format(count=f"{count:,}") for name, count in counts.items() if count > 0]
    return "; ".join([f"{plural(max(0, retried), 'failed image')} requested again", *others]) + "."


def label_counts(rows: tuple[Row, ...]) -> list[LabelCount]:
    """Return how often each label was found, most frequent first, `MAX_LABELS` of them."""
    counted = Counter(row.label for row in rows if row.label is not None).most_common(MAX_LABELS)
    most = counted[0][1] if counted else 1
    return [LabelCount(label, images, 100 * images / most) for label, images in counted]
