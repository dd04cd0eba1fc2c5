"""What the page of a job shows: where it stands, a page of its images, and how to ask for others."""

from collections import Counter
from dataclasses import dataclass
from typing import get_args
from urllib.parse import urlencode

from flask import request, url_for
from werkzeug.exceptions import BadRequest

from services.jobs import JobStore
from services.messages import Model
from web_tier.live import current_live
from web_tier.pages.progress import Progress, ProgressBody
from web_tier.pages.words import plural
from web_tier.parameters import cursor
from web_tier.results.query import ImageState, ResultsFilter, filtered_page
from web_tier.results.rows import Row

MOST_LABELS = 20
"""Labels in the histogram, those with most images."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page's address asks for; `view` is `grid` or `table`."""

    state: ImageState | None
    label: str
    name: str
    view: str

    @classmethod
    def of_request(cls) -> "Asked":
        """Return what the current request asks for.

        Raises:
            BadRequest: when it asks for a state that there is not.
        """
        args = request.args
        state = args.get("state", "")
        known = next((one for one in get_args(ImageState) if one == state), None)
        if state and known is None:
            raise BadRequest(f"state={state[:40]!r} is not one of {', '.join(get_args(ImageState))}")
        view = "table" if args.get("view") == "table" else "grid"
        return cls(known, args.get("label", ""), args.get("q", "").strip(), view)

    @property
    def filter(self) -> ResultsFilter:
        """The filter that takes what is asked for."""
        return ResultsFilter(state=self.state, label=self.label or None, filename=self.name or None)

    def words(self, **others: str) -> dict[str, str]:
        """Return the parameters of an address that asks for the same, but for `others`."""
        own = {"state": self.state or "", "label": self.label, "q": self.name}
        own["view"] = "" if self.view == "grid" else self.view
        return {name: value for name, value in (own | others).items() if value}


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label and how many images have it; `share` is in percent of the most frequent one."""

    label: str
    images: int
    share: float


@dataclass(frozen=True, slots=True)
class JobView:
    """Everything that the page shows of a job."""

    progress: Progress
    body: ProgressBody
    asked: Asked
    rows: tuple[Row, ...]
    labels: list[LabelCount]
    model: Model | None
    next_after: str | None
    is_first_page: bool
    note: str | None

    @classmethod
    def read(cls, store: JobStore, job_id: str, limit: int) -> "JobView":
        """Return the view that the current request asks for.

        Raises:
            NotFoundError: when there is no such job.
            BadRequest: when the request asks for what there cannot be.
        """
        status, asked, after = store.status(job_id), Asked.of_request(), cursor("after")
        page = filtered_page(store, job_id, asked.filter, after=after, limit=limit)
        rows = tuple(Row.of_result(item) for item in page.items)
        body = current_live().progress(status)
        return cls(
            progress=Progress.of(status),
            body=body,
            asked=asked,
            rows=rows,
            labels=label_counts(rows),
            model=page.model,
            next_after=page.next_after,
            is_first_page=after is None,
            note=_retry_note(request.args.get("retried", type=int), request.args.get("gone", default=0, type=int)),
        )

    def address(self, **others: str) -> str:
        """Return the address of this page, but for `others`; from its first images on."""
        page = url_for("pages.job_page", job_id=self.progress.status.job.job_id)
        words = urlencode(self.asked.words(**others))
        return f"{page}?{words}" if words else page


def _retry_note(retried: int | None, gone: int) -> str | None:
    """Say what became of a request to try failed images again, if that is where the reader comes from."""
    if retried is None:
        return None
    if gone <= 0:
        return f"{plural(max(0, retried), 'failed image')} requested again."
    return f"{plural(max(0, retried), 'failed image')} requested again; {gone:,} no longer stored: upload them again."


def label_counts(rows: tuple[Row, ...]) -> list[LabelCount]:
    """Return how often each label was found, most frequent first, `MOST_LABELS` of them."""
    counted = Counter(row.label for row in rows if row.label is not None).most_common(MOST_LABELS)
    most = counted[0][1] if counted else 1
    return [LabelCount(label, images, 100 * images / most) for label, images in counted]
