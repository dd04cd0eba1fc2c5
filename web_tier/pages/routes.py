"""The pages: upload, a job, all jobs, the fleet."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from flask import Blueprint, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import UnprocessableEntity

from services.config import DEMO_BUNDLE
from services.ids import new_id
from services.jobs import ImageRecord, Job
from web_tier.backend import current_backend
from web_tier.intake.accept import Rejection
from web_tier.intake.multipart import FormField, Upload
from web_tier.intake.names import shown_job_name
from web_tier.intake.uploads import request_parts, upload_status
from web_tier.pages.progress import Progress
from web_tier.parameters import cursor, known_id
from web_tier.results.query import results_page

IMAGES_A_PAGE = 200
JOBS_A_PAGE = 25
READS_AT_ONCE = 8

pages = Blueprint("pages", __name__)


@pages.get("/")
def upload_form() -> str:
    """Show the form that takes images."""
    backend = current_backend()
    demo = backend.config.worker.bundle == DEMO_BUNDLE
    return render_template("upload.html", limits=backend.config.web, fleet=backend.store.fleet(), demo=demo)


@pages.post("/")
def upload() -> ResponseReturnValue:
    """Take the form's images into a new job and go to its page; tell first which files were not accepted."""
    backend, job_id = current_backend(), new_id()
    fields: dict[str, str] = {}
    outcomes = backend.intake.put(job_id, _files(fields))
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


def _files(fields: dict[str, str]) -> Iterator[Upload]:
    """Yield the files of the request; put what else is in the form into `fields`."""
    for part in request_parts(current_backend().config.web):
        if isinstance(part, FormField):
            fields[part.name] = part.value
        else:
            yield part


@pages.get("/jobs/<job_id>")
def job_page(job_id: str) -> str:
    """Show a job: where it stands, and a page of its images."""
    store = current_backend().store
    status = store.status(known_id("job", job_id))
    after = cursor("after")
    page = results_page(store, job_id, after=after, limit=IMAGES_A_PAGE)
    return render_template(
        "job.html",
        job=status.job,
        progress=Progress.of(status),
        page=page,
        is_first_page=after is None,
        fleet=store.fleet(),
    )


@pages.get("/jobs")
def jobs_page() -> str:
    """List jobs, newest first."""
    store = current_backend().store
    jobs = store.jobs(JOBS_A_PAGE + 1, cursor("before"))
    with ThreadPoolExecutor(READS_AT_ONCE) as readers:
        statuses = list(readers.map(store.status, [job.job_id for job in jobs[:JOBS_A_PAGE]]))
    return render_template(
        "jobs.html",
        statuses=statuses,
        next_before=jobs[JOBS_A_PAGE - 1].job_id if len(jobs) > JOBS_A_PAGE else None,
        is_first_page="before" not in request.args,
        fleet=store.fleet(),
    )


@pages.get("/fleet")
def fleet_page() -> str:
    """Show what the autoscaler saw and decided last."""
    return render_template("fleet.html", fleet=current_backend().store.fleet())
