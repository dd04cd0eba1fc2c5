"""The pages: upload, a job, all jobs, the fleet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import UnprocessableEntity

from services.config import DEMO_BUNDLE
from services.errors import NotFoundError
from services.ids import new_id
from services.jobs import ImageRecord, Job, JobStatus, JobStore
from services.messages import FleetSnapshot
from web_tier.api import classic
from web_tier.backend import current_backend
from web_tier.intake.accept import Rejection
from web_tier.intake.multipart import FormField, Upload
from web_tier.intake.names import shown_job_name
from web_tier.intake.single_request import Parts, first_file_field
from web_tier.intake.uploads import request_parts, upload_status
from web_tier.pages.fleet import FleetBody
from web_tier.pages.job import JobView
from web_tier.pages.upload import BrowserLimits, Plan
from web_tier.parameters import cursor, known_id
from web_tier.results.jobs import jobs_page as find_jobs

IMAGES_A_PAGE = 200
JOBS_A_PAGE = 25
READS_AT_ONCE = 8

pages = Blueprint("pages", __name__)


@pages.get("/")
def upload_form() -> str:
    """Show the form that takes images."""
    backend = current_backend()
    demo = backend.config.worker.bundle == DEMO_BUNDLE
    fleet = backend.store.fleet()
    return render_template(
        "upload.html",
        limits=backend.config.web,
        browser_limits=BrowserLimits.of(backend.config).model_dump(by_alias=True),
        plan=Plan.of(backend.config, fleet).model_dump(by_alias=True),
        fleet=fleet,
        demo=demo,
    )


@pages.post("/")
def upload() -> ResponseReturnValue:
    """Take the form's images into a new job and go to its page; tell first which files were not accepted.

    A load generator's form, told by the name of its field, is answered as `web_tier.api.classic` says instead.
    """
    backend, job_id = current_backend(), new_id()
    field, parts = first_file_field(request_parts(backend.config.web))
    if classic.asks_for_it(field):
        return classic.answer(parts)
    fields: dict[str, str] = {}
    outcomes = backend.intake.put(job_id, _files(parts, fields))
    if not outcomes:
        raise UnprocessableEntity("no file was chosen; go back and choose one or more images")
    job = Job(job_id, shown_job_name(fields.get("name", "")), datetime.now(UTC))
    if any(isinstance(outcome, ImageRecord) for outcome in outcomes):
        backend.store.create(job)
        outcomes = backend.intake.commit(job_id, outcomes)
    rejections = [outcome for outcome in outcomes if isinstance(outcome, Rejection)]
    if not rejections:
        return redirect(url_for("pages.job_page", job_id=job_id), 303)
    page = render_template(
        "outcome.html",
        job=job,
        accepted=len(outcomes) - len(rejections),
        rejections=rejections,
        fleet=backend.store.fleet(),
    )
    return page, upload_status(outcomes)


def _files(parts: Parts, fields: dict[str, str]) -> Iterator[Upload]:
    """Yield the files among `parts`; put what else is in the form into `fields`."""
    for part in parts:
        if isinstance(part, FormField):
            fields[part.name] = part.value
        else:
            yield part


@pages.get("/jobs/<job_id>")
def job_page(job_id: str) -> str:
    """Show a job: where it stands, and a page of its images."""
    store = current_backend().store
    view = JobView.read(store, known_id("job", job_id), IMAGES_A_PAGE)
    return render_template("job.html", view=view, job=view.progress.status.job, model=view.model, fleet=store.fleet())


@pages.get("/jobs")
def jobs_page() -> str:
    """List jobs, newest first, or those with a word in their name."""
    store, name = current_backend().store, request.args.get("q", "").strip()
    found = find_jobs(store, before=cursor("before"), limit=JOBS_A_PAGE, name=name or None)
    with ThreadPoolExecutor(READS_AT_ONCE) as readers:
        statuses = [status for status in readers.map(partial(_status, store), found.jobs) if status is not None]
    return render_template(
        "jobs.html",
        statuses=statuses,
        name=name,
        next_before=found.next_before,
        is_first_page="before" not in request.args,
        fleet=store.fleet(),
    )


def _status(store: JobStore, job: Job) -> JobStatus | None:
    try:
        return store.status(job.job_id)
    except NotFoundError:  # it has just been deleted
        return None


@pages.get("/fleet")
def fleet_page() -> str:
    """Show what the autoscaler saw and decided last."""
    fleet = current_backend().store.fleet()
    return render_template("fleet.html", body=_fleet_body(fleet), fleet=fleet)


@pages.get("/fleet/now")
def fleet_now() -> Response:
    """Return the same for the page to refresh itself."""
    return Response(_fleet_body(current_backend().store.fleet()).model_dump_json(), mimetype="application/json")


def _fleet_body(fleet: FleetSnapshot | None) -> FleetBody:
    return FleetBody.of(fleet, current_backend().config.prices)
