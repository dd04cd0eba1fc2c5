"""The pages of jobs: the list, the page of one job with its live updates, and the forms that retry and delete it."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, Final, get_args
from urllib.parse import urlencode

from flask import Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import BadRequest, ServiceUnavailable, UnprocessableEntity

from core.cost import JobCost
from core.format import dollars, duration, percent_text, plural
from core.ids import is_id
from core.jobs.models import JobStatus, Share
from services.errors import NotFoundError
from web_tier.auth.audit import audit_details
from web_tier.auth.job_access import UserJobs, bulkhead_caller, user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.openapi import EVENTS, ApiResponse, operation
from web_tier.http.parameters import (
    MAX_FILENAME_BYTES,
    MAX_LABEL,
    clean_search,
    cursor,
    cursor_of_page,
    known_id,
    whole_number,
)
from web_tier.http.parsing import EventsHeader
from web_tier.http.rate_limits import current_quota_scope
from web_tier.http.routes import Routes
from web_tier.pages.upload import AddingText
from web_tier.results.export import BOOLEAN_TEXTS
from web_tier.results.job_snapshot import ImageRow, ImageRows
from web_tier.results.live_feed import FeedEvent, event_stream
from web_tier.results.progress import JobProgress, ProgressBody, blocked_reason, has_cost, job_costs
from web_tier.results.query import (
    MAX_SORTED,
    ORDERS,
    UNSURE,
    FilterState,
    ImageState,
    ResultsFilter,
    ResultsPage,
    can_sort,
    filtered_page,
    results_page,
    sorted_page,
)
from web_tier.results.services import current_result_services
from web_tier.uploads.cancellation import cancel_job
from web_tier.uploads.retry import Retried, retry_all_failed

job_pages = Routes("jobs")
live = Routes("live", right=Right.READ, is_automatic=True, reads_shared_jobs=True)


JOBS_PER_PAGE = 25
RETRY_SECONDS = 10.0
"""A request to retry a job begins no further portion of failed images after this long."""

MAX_SELECTED = 100
"""Jobs that one request cancels or deletes."""

IMAGES_PER_PAGE = 24
MAX_PAGES = 1_000

STATES: Final[tuple[FilterState, ...]] = (*get_args(ImageState), UNSURE)
"""Of the filter."""

MAX_LABELS = 20
"""Labels in the histogram before it is expanded: the most frequent ones."""

WHOLE_BAR = 0.25
"""Share of the images that a full bar of the histogram stands for, if no label has more."""

MAX_CONCURRENT_READS = 8
"""Jobs of a page with a status that is read at the same time."""

MAX_ROWS = 1_000
"""Rows in one response."""

SEND_SECONDS = 20.0
"""A stream is closed if its browser accepts no data for this long."""

_RETRY_NOTES: Final = {
    "refused": "{count} rejected by the queue: try again in a moment",
    "gone": "{count} no longer stored: upload them again",
    "final": "{count} cannot be classified, so a retry would fail",
    "running": "{count} being tried again already",
}
"""Text for the images that were not requested again, by the query parameter with their number."""

IMAGE_RETRY_NOTES: Final = {
    "sent": "Requested again: a worker will try it once more.",
    "gone": "It is no longer stored, so it cannot be tried again: upload it again.",
    "refused": "The queue rejected the request: try again in a moment.",
    "final": "This file cannot be classified, so it would fail again: upload another one.",
    "running": "It is being tried again already.",
    "not_failed": "It has not failed, so there is nothing to try again.",
}
"""Text for each outcome of a retry of one image."""

MAX_CURSOR_CHARACTERS = 60
SECONDS_PER_DAY = 86_400


@job_pages.get("/jobs", right=Right.READ)
def jobs_page() -> str:
    """List jobs, newest first, or those with a text in their name."""
    jobs, name, before = user_jobs(), clean_search(request.args.get("q", "")), cursor_of_page("before")
    found = jobs.find(before=before, limit=JOBS_PER_PAGE, name=name or None)
    backend, statuses = current_backend(), _statuses(jobs, [job.job_id for job in found.jobs])
    fleet, cancelled = backend.fleet.snapshot(), request.args.get("cancelled", default=0, type=int)
    costs = job_costs(statuses, fleet, backend.fleet, backend.config.prices)
    silent_seconds = backend.reports.silent_seconds(fleet)
    return render_template(
        "jobs.html",
        rows=[
            JobRow(status, cost, blocked_reason(status, fleet, silent_seconds))
            for status, cost in zip(statuses, costs, strict=True)
        ],
        name=name,
        next_before=found.next_before,
        is_first_page=before is None,
        note=f"{plural(cancelled, 'job')} cancelled. A retry of its failed images resumes a job."
        if 0 < cancelled <= MAX_SELECTED
        else None,
        fleet=fleet,
    )


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job in the list of jobs; `job_cost` is None if it is not known, `blocked` if nothing holds up its images."""

    status: JobStatus
    job_cost: JobCost | None
    blocked: str | None

    @property
    def words(self) -> str:
        """How many images have a label, and how many have failed."""
        counts, status = self.status.counts, self.status
        if not status.accepted:
            return "no images"
        failed = [f"{counts.failed - counts.cancelled:,} failed"] if counts.failed > counts.cancelled else []
        cancelled = [f"{counts.cancelled:,} cancelled"] if counts.cancelled else []
        return " · ".join([f"{counts.done:,} of {plural(status.accepted, 'image')}", *failed, *cancelled])

    @property
    def cost(self) -> str | None:
        """The cost so far, once the job has results."""
        return dollars(self.job_cost.dollars) if self.job_cost and has_cost(self.status.counts) else None


def _statuses(jobs: UserJobs, job_ids: Sequence[str]) -> list[JobStatus]:
    """Return the status of those of these jobs that still exist."""
    with ThreadPoolExecutor(MAX_CONCURRENT_READS) as readers:
        return [status for status in readers.map(partial(_status, jobs), job_ids) if status is not None]


def _status(jobs: UserJobs, job_id: str) -> JobStatus | None:
    try:
        return jobs.status(job_id)
    except NotFoundError:  # it was just deleted
        return None


@dataclass(frozen=True, slots=True)
class JobPageQuery:
    """The query of a job page's address: which images, in which order.

    Attributes:
        filter: the filter of the images.
        sort: one of the `ORDERS`, or empty for the order of the upload.
    """

    filter: ResultsFilter
    sort: str

    @classmethod
    def of_request(cls) -> "JobPageQuery":
        """Return the query of the current request; a parameter that is not valid is left out."""
        args = valid_parameters(request.args)
        low, high = (float(args[name]) / 100 if name in args else None for name in ("from", "to"))
        wanted = ResultsFilter(
            state=next((each for each in STATES if each == args.get("state")), None),
            label=args.get("label", "")[:MAX_LABEL] or None,
            min_score=low,
            max_score=high,
            filename=args.get("q", "")[:MAX_FILENAME_BYTES] or None,
            truth=args.get("truth", "")[:MAX_LABEL] or None,
            is_correct=_BOOLEANS.get(args.get("correct", "")),
            is_reviewed=_BOOLEANS.get(args.get("reviewed", "")),
        )
        return cls(wanted, args.get("sort", ""))

    @property
    def api_parameters(self) -> dict[str, str]:
        """The parameters with which the API returns the images of this query."""
        wanted = self.filter
        names = ("state", "label", "min_score", "max_score", "filename", "truth")
        values = {name: getattr(wanted, name) for name in names} | self._booleans
        return {name: str(value) for name, value in values.items() if value is not None}

    @property
    def _booleans(self) -> dict[str, str | None]:
        wanted = {"correct": self.filter.is_correct, "reviewed": self.filter.is_reviewed}
        return {name: BOOLEAN_TEXTS[value] or None for name, value in wanted.items()}

    def parameters(self, **changes: str) -> dict[str, str]:
        """Return the parameters of an address with this query, except for `changes`, scores in percent."""
        wanted = self.filter
        own = {"state": wanted.state, "label": wanted.label, "q": wanted.filename, "sort": self.sort}
        own |= {"from": percent_text(wanted.min_score), "to": percent_text(wanted.max_score)}
        own |= {"truth": wanted.truth, **self._booleans}
        return {name: value for name, value in (own | changes).items() if value}


_BOOLEANS: Final = {"true": True, "false": False}


def valid_parameters(args: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a job page's address without the empty ones and those that are not valid."""
    given = {name: text.strip() for name, text in args.items() if text.strip()}
    return {name: text for name, text in given.items() if name not in _IS_VALID or _IS_VALID[name](text)}


def _is_percentage(text: str) -> bool:
    try:
        return 0 <= float(text) <= 100
    except ValueError:
        return False


_IS_VALID: Final[Mapping[str, Callable[[str], bool]]] = {
    "state": lambda text: text in STATES,
    "sort": lambda text: text in ORDERS,
    "from": _is_percentage,
    "to": _is_percentage,
    "correct": lambda text: text in _BOOLEANS,
    "reviewed": lambda text: text in _BOOLEANS,
    "page": lambda text: text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGES,
    "after": is_id,
    "image": is_id,
}
"""Returns of a parameter with a limited set of values whether a text is one of them."""


@dataclass(frozen=True, slots=True)
class ImageListPage:
    """A page of the images that match; `next` has the changed parameters of the next page's address, if any."""

    found: ResultsPage
    is_first: bool
    next: dict[str, str] | None

    @classmethod
    def read(cls, jobs: UserJobs, status: JobStatus, query: JobPageQuery, limit: int) -> "ImageListPage":
        """Return the page of the current request, sorted if the job is small enough."""
        job_id = status.job.job_id
        if query.sort and can_sort(status):
            number = whole_number("page", default=1, maximum=MAX_PAGES)
            page, is_last = sorted_page(jobs, job_id, query.filter, query.sort, number=number, limit=limit)
            return cls(page, number == 1, None if is_last else {"page": str(number + 1)})
        after = cursor("after")
        page = filtered_page(jobs, job_id, query.filter, after=after, limit=limit)
        return cls(page, after is None, {"after": page.next_after} if page.next_after else None)


@dataclass(frozen=True, slots=True)
class LabelCount:
    """A label and its number of images; `share` is the length of its bar in percent."""

    label: str
    images: int
    share: float


@dataclass(frozen=True, slots=True)
class JobView:
    """Everything that the page shows of a job; `retention`, `not_sorted` and `note` are sentences or None.

    Attributes:
        classes: number of classes of the job's model; None if it is not known.
        image: id of the image that the address opens, or None.
        share: what lets the user read the job of another; None for a job of the user, who may change it.
    """

    progress: JobProgress
    body: ProgressBody
    query: JobPageQuery
    page: ImageListPage
    rows: tuple[ImageRow, ...]
    labels: list[LabelCount]
    retention: str | None
    not_sorted: str | None
    note: str | None
    classes: int | None
    image: str | None
    share: Share | None

    @classmethod
    def read(cls, jobs: UserJobs, job_id: str, limit: int) -> "JobView":
        """Return the view of the current request.

        Raises:
            NotFoundError: if there is no such job.
        """
        status, query = jobs.status(job_id), JobPageQuery.of_request()
        page = ImageListPage.read(jobs, status, query, limit)
        rows = tuple(ImageRow.of_result(item) for item in page.found.items)
        counted = sorted_counts(Counter(row.label for row in rows if row.label is not None))
        whole = max(counted[0][1], WHOLE_BAR * sum(images for _, images in counted)) if counted else 1
        (progress, body), share = current_result_services().progress(status), jobs.share_of(status.job)
        facts, model = current_backend().served.facts(status.job.model), page.found.model
        not_sorted = None
        if query.sort and not can_sort(status):
            not_sorted = (
                f"Without JavaScript, jobs of up to {MAX_SORTED:,} images are sorted; this one has "
                f"{status.accepted:,}, shown in the order of their upload."
            )
        retention = None
        if not status.job.keep:
            retention = "Originals are deleted once classified; thumbnails stay with the job."
            if unkept_days := current_backend().config.retention.unkept_days:
                retention += f" The job expires after {duration(unkept_days * SECONDS_PER_DAY)}."
        retried, note = request.args.get("retried", type=int), None
        if retried is not None:
            counts = {name: request.args.get(name, default=0, type=int) for name in _RETRY_NOTES}
            others = [_RETRY_NOTES[name].format(count=f"{count:,}") for name, count in counts.items() if count > 0]
            note = "; ".join([f"{plural(max(0, retried), 'image')} requested again", *others]) + "."
        return cls(
            progress=progress,
            body=body.for_viewers() if share else body,
            query=query,
            page=page,
            rows=rows,
            labels=[LabelCount(label, images, 100 * images / whole) for label, images in counted],
            retention=retention,
            not_sorted=not_sorted,
            note=note,
            classes=len(facts.labels) if model and model.digest.removeprefix("sha256:") == facts.digest else None,
            image=valid_parameters(request.args).get("image"),
            share=share,
        )

    @property
    def matching(self) -> int | None:
        """The number of images that match the query, or None if they are on several pages."""
        if self.query.filter.is_empty:
            return self.body.accepted
        return len(self.rows) if self.page.is_first and self.page.next is None else None

    @property
    def unsure(self) -> int | None:
        """The number of unsure images of the job, or None if this page does not show all images."""
        is_whole = self.query.filter.is_empty and self.matching == len(self.rows)
        return sum(row.unsure or False for row in self.rows) if is_whole else None

    @property
    def retriable(self) -> str:
        """How many failed images may succeed in a retry: `all` if this page does not show all images, or empty."""
        if self.unsure is None:
            return "all" if self.body.failed else ""
        count = sum(row.status == "failed" and not (row.final or row.retrying) for row in self.rows)
        return f"{count:,}" if count else ""

    @property
    def sentence(self) -> str:
        """What happens at the moment, or what became of the images."""
        retrying = sum(row.retrying or False for row in self.rows) if self.body.state == "finished" else 0
        if not retrying:
            return self.body.sentence
        return "Retrying images." if self.unsure is None else f"Retrying {plural(retrying, 'image')}."

    @property
    def is_mostly_unsure(self) -> bool:
        """Whether the model is known to be unsure about more than half of the images."""
        return (self.unsure or 0) * 2 > self.body.accepted

    def address(self, **changes: str) -> str:
        """Return the address of this page, except for `changes`, from its first images on."""
        page = url_for("jobs.job_page", job_id=self.progress.status.job.job_id)
        parameters = urlencode(self.query.parameters(**changes))
        return f"{page}?{parameters}" if parameters else page


def sorted_counts(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Sort names by their counts, and equally frequent ones by the alphabet, as static/job/rows.js does."""
    return sorted(counts.items(), key=lambda each: (-each[1], each[0].lower(), each[0]))


@job_pages.get("/jobs/<job_id>", right=Right.READ, reads_shared_jobs=True)
def job_page(job_id: str) -> ResponseReturnValue:
    """Show a job: its progress, and a page of its images.

    An address with parameters that are not valid leads to the same page without them.
    """
    valid = valid_parameters(request.args)
    if valid != {name: text.strip() for name, text in request.args.items() if text.strip()}:
        return redirect(url_for("jobs.job_page", job_id=known_id("job", job_id), **dict[str, Any](valid)), 302)
    view = JobView.read(user_jobs(), known_id("job", job_id), IMAGES_PER_PAGE)
    job = view.progress.status.job
    return render_with_fleet(
        "job.html",
        for_viewer=view.share is not None,
        view=view,
        max_labels=MAX_LABELS,
        retry_notes=IMAGE_RETRY_NOTES,
        job=job,
        model=view.page.found.model or job.model,
        possible_labels=current_result_services().possible_labels(job),
        adding=AddingText.from_config(current_backend().config),
        takes_images=not job.source and not view.share and view.progress.status.cancelled_at is None,
    )


@live.get("/api/v1/jobs/<job_id>/events")
@operation(
    ApiResponse(200, "Server-sent events: `resync`, `images`, `results`, `progress`, `alive`, `end`.", EVENTS),
    tag="Results",
    header=EventsHeader,
)
def job_events(job_id: str) -> Response:
    """Stream the events of a job.

    The stream ends with the job, or after a while; a client then connects again with the id of its last event. The
    new stream replaces the earlier one of that id, should it still be open.
    `resync` means that the client must read the results again.
    """
    services, jobs = current_result_services(), user_jobs()
    job = jobs.job(known_id("job", job_id))
    last = request.headers.get("Last-Event-ID") or request.args.get("last_event_id", "")
    connection = request.environ.get("gunicorn.socket")
    stream = services.feeds.join(job_id, bulkhead_caller(job), last[:MAX_CURSOR_CHARACTERS], connection)
    if stream is None:
        raise ServiceUnavailable("too many pages follow their jobs just now; ask for the job's status now and then")
    if connection is not None:
        connection.settimeout(SEND_SECONDS)
    data_of = _data_for_viewers if jobs.share_of(job) else attrgetter("data")
    events = event_stream(stream, services.is_stopping, is_allowed=jobs.access_check(job), data_of=data_of)
    answer = Response(events, mimetype=EVENTS)
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would buffer events
    answer.call_on_close(lambda: services.feeds.leave(stream))
    return answer


def _data_for_viewers(event: FeedEvent) -> str:
    if event.kind not in {"progress", "end"}:
        return event.data
    return ProgressBody.model_validate_json(event.data).for_viewers().model_dump_json()


@live.get("/jobs/<job_id>/rows")
def job_rows(job_id: str) -> Response:
    """Return a job's images as a list shows them, up to 1,000 at a time."""
    jobs = user_jobs()
    jobs.job(known_id("job", job_id))
    limit = whole_number("limit", default=MAX_ROWS, maximum=MAX_ROWS)
    page = results_page(jobs, job_id, after=cursor("after"), limit=limit)
    return Response(ImageRows.of_page(page).to_json(), mimetype="application/json")


@live.get("/jobs/<job_id>/progress")
def job_progress(job_id: str) -> Response:
    """Return the progress of a job, as the events have it: for browsers without a stream."""
    jobs = user_jobs()
    status = jobs.status(known_id("job", job_id))
    body = current_result_services().progress(status)[1]
    shown = body.for_viewers() if jobs.share_of(status.job) else body
    return Response(shown.model_dump_json(), mimetype="application/json")


@job_pages.post("/jobs/<job_id>/retry", right=Right.CLASSIFY)
def retry(job_id: str) -> ResponseReturnValue:
    """Request a job's failed images again, as many as it can for a while, and redirect to its page."""
    job, until = user_jobs().job(known_id("job", job_id)), time.monotonic() + RETRY_SECONDS
    retried = retry_all_failed(
        current_backend().intake, job, current_quota_scope(), may_continue=lambda: time.monotonic() < until
    )
    return redirect(job_page_after(job_id, retried), 303)


def job_page_after(job_id: str, retried: Retried) -> str:
    """Return the address of a job's page that shows the outcome of a retry of failed images."""
    others: dict[str, Any] = {name: count for name, count in retried.counts.items() if count and name != "sent"}
    return url_for("jobs.job_page", job_id=job_id, retried=retried.sent, **others)


def _selected() -> list[str]:
    """Return the ids of the selected jobs of the list, each once.

    Raises:
        NotFoundError: one is no id.
    """
    chosen = [known_id("job", text) for text in dict.fromkeys(request.form.getlist("job"))]
    if not chosen:
        raise BadRequest("no job is selected; go back and select one or more")
    if len(chosen) > MAX_SELECTED:
        raise BadRequest(f"{len(chosen)} jobs are selected; select at most {MAX_SELECTED}")
    return chosen


@job_pages.post("/jobs/cancel", right=Right.CLASSIFY, audit="jobs cancelled")
def cancel_jobs() -> ResponseReturnValue:
    """Cancel the selected jobs that run, and redirect to the list of jobs."""
    cancelled = list[str]()
    for status in _statuses(user_jobs(), _selected()):
        if status.state != "finished":
            with suppress(NotFoundError):  # it was deleted meanwhile
                cancel_job(current_backend().intake, status)
                cancelled.append(status.job.job_id)
    audit_details(jobs=" ".join(cancelled))
    return redirect(url_for("jobs.jobs_page", cancelled=len(cancelled)), 303)


@job_pages.post("/jobs/delete/confirm", right=Right.CLASSIFY)
def ask_to_delete_jobs() -> ResponseReturnValue:
    """Show the form that confirms the deletion of the selected jobs; redirect to the list if none exists."""
    statuses = _statuses(user_jobs(), _selected())
    if not statuses:
        return redirect(url_for("jobs.jobs_page"), 303)
    return render_with_fleet("delete.html", statuses=statuses)


@job_pages.post("/jobs/delete", right=Right.CLASSIFY, audit="jobs deleted")
def delete_jobs() -> ResponseReturnValue:
    """Delete the selected jobs that exist, and redirect to the list of jobs."""
    jobs, deleted = user_jobs(), list[str]()
    for job_id in _selected():
        with suppress(NotFoundError):  # it was deleted meanwhile
            jobs.delete(job_id)
            deleted.append(job_id)
    audit_details(jobs=" ".join(deleted))
    return redirect(url_for("jobs.jobs_page"), 303)


@job_pages.post("/jobs/<job_id>/cancel", right=Right.CLASSIFY, audit="job cancelled")
def cancel(job_id: str) -> ResponseReturnValue:
    """Cancel a job and redirect to its page."""
    cancel_job(current_backend().intake, user_jobs().status(known_id("job", job_id)))
    return redirect(url_for("jobs.job_page", job_id=job_id), 303)


@job_pages.post("/jobs/<job_id>/min-scores", right=Right.CLASSIFY, audit="border of doubt changed")
def change_min_score(job_id: str) -> ResponseReturnValue:
    """Change the score below which a job's images are unsure, except for labels with their own; show the job."""
    jobs, text = user_jobs(), request.form.get("below", "").strip()
    jobs.job(known_id("job", job_id))  # first: the job of another user is answered like a missing one
    if not _is_percentage(text):
        raise UnprocessableEntity("write a percentage from 0 to 100, below which images are unsure")
    jobs.change_min_scores(job_id, lambda scores: replace(scores, every=float(text) / 100))
    return redirect(url_for("jobs.job_page", job_id=job_id), 303)


def job_not_found(_: NotFoundError) -> ResponseReturnValue:
    """Return the page for a job or an image that does not exist, or not any more."""
    unkept_days = current_backend().config.retention.unkept_days
    after = duration(unkept_days * SECONDS_PER_DAY)
    expiry = f"Jobs that are not kept are deleted after {after}." if unkept_days else "It may have been deleted."
    thing = "Image" if "image_id" in (request.view_args or {}) else "Job"
    return render_template("job_not_found.html", thing=thing, expiry=expiry), 404


@job_pages.get("/jobs/<job_id>/delete", right=Right.READ)
def ask_to_delete(job_id: str) -> str:
    """Show the form that confirms the deletion of a job."""
    status = user_jobs().status(known_id("job", job_id))
    return render_with_fleet("delete.html", statuses=[status])


@job_pages.post("/jobs/<job_id>/delete", right=Right.CLASSIFY, audit="job deleted")
def delete(job_id: str) -> ResponseReturnValue:
    """Delete a job and redirect to the list of jobs."""
    user_jobs().delete(known_id("job", job_id))
    return redirect(url_for("jobs.jobs_page", deleted=1), 303)
