"""The pages: upload, a job, all jobs, the fleet."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import Forbidden, UnprocessableEntity

from core.config import DEMO_BUNDLE
from core.fleet.store import FleetState
from core.ids import merged_key, new_id
from core.jobs.models import ImageRecord, Job, JobStatus
from services.errors import NotFoundError
from web_tier.api import classic
from web_tier.api.creation import refuse_too_many
from web_tier.auth.browser import CSRF_FIELD, check_csrf
from web_tier.auth.job_access import UserJobs, user_jobs
from web_tier.backend import current_backend
from web_tier.pages.chart import FIRST_WINDOW, WINDOWS
from web_tier.pages.fleet import FleetBody, fleet_chart, window_named
from web_tier.pages.job import JobView
from web_tier.pages.upload import BrowserLimits, Plan, keeping_sentence
from web_tier.parameters import cursor, known_id
from web_tier.rate_limits.limiter import current_quota_scope
from web_tier.results.jobs import jobs_page as find_jobs
from web_tier.text import clean_job_name, clean_search
from web_tier.uploads.ingest import RejectedUpload
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import request_parts, up_to_first_file, upload_status

IMAGES_A_PAGE = 200
JOBS_A_PAGE = 25
READS_AT_ONCE = 8
MAX_COUNTED_LETTERS = 100
"""Dead letters that the fleet's page counts; each costs it three reads of the job table."""
KEEP_FIELD = "keep"
"""The form's box: whether the images and the records stay. It and the name stand before the files."""

FORM_WITHOUT_SESSION = (
    "Nothing was sent: that form was opened before you signed in. Choose the images once more and send them here."
)

pages = Blueprint("pages", __name__)


@pages.get("/")
def upload_form() -> str:
    """Show the form that takes images."""
    return _upload_form()


@pages.get("/upload")
def plain_upload_form() -> str:
    """Show the same form where the first page is a file: browsers without scripts need the session's token in it."""
    return _upload_form()


def _upload_form(fault: str | None = None) -> str:
    backend = current_backend()
    demo = backend.config.worker.bundle == DEMO_BUNDLE
    fleet = backend.fleet.snapshot()
    return render_template(
        "upload.html",
        limits=backend.config.web,
        browser_limits=BrowserLimits.of(backend.config).model_dump(by_alias=True),
        plan=Plan.of(backend.config, fleet).model_dump(by_alias=True),
        keeping=keeping_sentence(backend.config.retention.unkept_days),
        fleet=fleet,
        demo=demo,
        fault=fault,
    )


@pages.post("/")
def upload() -> ResponseReturnValue:
    """Take the form's images into a new job and go to its page; tell first which files were not accepted.

    At most `web.max_open_jobs` jobs may be open, as through the API.

    A load generator's form, told by the name of its field, is answered as `web_tier.api.classic` says instead.
    """
    backend, jobs = current_backend(), user_jobs()
    fields, file_field, parts = up_to_first_file(request_parts(backend.config.web))
    try:
        check_csrf(fields.get(CSRF_FIELD))
    except Forbidden:
        return _upload_form(FORM_WITHOUT_SESSION), 403
    if classic.asks_for_it(file_field):
        return classic.answer(parts)
    refuse_too_many(jobs, backend.config)
    name, keep = clean_job_name(fields.get("name", "")), KEEP_FIELD in fields
    job = Job(new_id(), name, datetime.now(UTC), keep, jobs.owner)
    outcomes = backend.intake.put_objects(job, (part for part in parts if isinstance(part, Upload)))
    if not outcomes:
        raise UnprocessableEntity("no file was chosen; go back and choose one or more images")
    if any(isinstance(outcome, ImageRecord) for outcome in outcomes):
        with backend.intake.quota_reservation(outcomes, current_quota_scope()) as reservation:
            jobs.create(job)
            outcomes = reservation.commit(backend.intake.commit(outcomes))
    rejections = [outcome for outcome in outcomes if isinstance(outcome, RejectedUpload)]
    if not rejections:
        return redirect(url_for("pages.job_page", job_id=job.job_id), 303)
    page = render_template(
        "outcome.html",
        job=job,
        accepted=len(outcomes) - len(rejections),
        rejections=rejections,
        fleet=backend.fleet.snapshot(),
    )
    return page, upload_status(outcomes)


@pages.get("/jobs/<job_id>")
def job_page(job_id: str) -> str:
    """Show a job: where it stands, and a page of its images."""
    backend = current_backend()
    view = JobView.read(user_jobs(), known_id("job", job_id), IMAGES_A_PAGE)
    return render_template(
        "job.html",
        view=view,
        job=view.progress.status.job,
        model=view.model,
        output_bucket=backend.config.names.output_bucket,
        file_key=merged_key(job_id),
        fleet=backend.fleet.snapshot(),
    )


@pages.get("/jobs")
def jobs_page() -> str:
    """List jobs, newest first, or those with a word in their name."""
    jobs, name = user_jobs(), clean_search(request.args.get("q", ""))
    found = find_jobs(jobs, before=cursor("before"), limit=JOBS_A_PAGE, name=name or None)
    with ThreadPoolExecutor(READS_AT_ONCE) as readers:
        statuses = [status for status in readers.map(partial(_status, jobs), found.jobs) if status is not None]
    return render_template(
        "jobs.html",
        statuses=statuses,
        name=name,
        next_before=found.next_before,
        is_first_page="before" not in request.args,
        fleet=current_backend().fleet.snapshot(),
    )


def _status(jobs: UserJobs, job: Job) -> JobStatus | None:
    try:
        return jobs.status(job.job_id)
    except NotFoundError:  # it has just been deleted
        return None


@pages.get("/fleet")
def fleet_page() -> str:
    """Show what the autoscaler saw and decided, and how it went over time."""
    window = window_named(request.args.get("span", FIRST_WINDOW))
    store = current_backend().fleet
    state = store.state()
    chart = fleet_chart(store, state.snapshot, window)
    return render_template(
        "fleet.html",
        body=_fleet_body(state),
        chart=chart,
        windows=WINDOWS,
        dead_letters=current_backend().dead_letters.page(limit=MAX_COUNTED_LETTERS),
        fleet=state.snapshot,
    )


@pages.get("/fleet/now")
def fleet_now() -> Response:
    """Return the same, but for the chart, for the page to refresh itself."""
    return Response(_fleet_body(current_backend().fleet.state()).model_dump_json(), mimetype="application/json")


def _fleet_body(state: FleetState) -> FleetBody:
    backend = current_backend()
    silent_seconds = backend.reports.silent_seconds(state.snapshot)
    return FleetBody.of(
        state, backend.config.prices, silent_seconds=silent_seconds, controller_ahead=backend.reports.ahead
    )
