"""The JSON API, version 1: jobs, their images, their results, the fleet."""

from datetime import UTC, datetime

from flask import Blueprint, Response, request, stream_with_context
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import NotFound, UnprocessableEntity

from services.ids import ImageRef, new_id
from services.jobs import Job, JobStore
from web_tier.api.models import (
    CreateJob,
    ImageBody,
    Index,
    JobBody,
    JobsPage,
    JobStatusBody,
    ResultsBody,
    UploadOutcome,
)
from web_tier.backend import current_backend
from web_tier.intake.multipart import Upload
from web_tier.intake.names import shown_job_name
from web_tier.intake.uploads import request_parts, upload_status
from web_tier.parameters import cursor, known_id, whole_number
from web_tier.results.export import csv_lines
from web_tier.results.query import ImageResult, all_results, results_page

MAX_PAGE = 1_000

api = Blueprint("api_v1", __name__)


@api.get("/")
@api.get("")
def index() -> Response:
    """Say where to begin."""
    return _json(Index())


@api.post("/jobs")
def create_job() -> ResponseReturnValue:
    """Create a job."""
    wanted = _parse_create(request.get_data())
    job = Job(new_id(), shown_job_name(wanted.name), datetime.now(UTC))
    _store().create(job)
    body = JobBody.of(job)
    return _json(body, 201), {"Location": body.links.self}


@api.get("/jobs")
def list_jobs() -> Response:
    """List jobs, newest first."""
    limit = whole_number("limit", default=50, most=200)
    jobs = _store().jobs(limit + 1, cursor("before"))
    more = len(jobs) > limit
    jobs = jobs[:limit]
    return _json(JobsPage(jobs=tuple(JobBody.of(job) for job in jobs), next=jobs[-1].job_id if more else None))


@api.get("/jobs/<job_id>")
def job_status(job_id: str) -> Response:
    """Tell where a job stands."""
    backend = current_backend()
    status = backend.store.status(known_id("job", job_id))
    return _json(JobStatusBody.of_status(status, backend.models.of(backend.store, status)))


@api.post("/jobs/<job_id>/images")
def add_images(job_id: str) -> Response:
    """Take images into a job; each file has an outcome of its own."""
    backend = current_backend()
    backend.store.job(known_id("job", job_id))
    parts = request_parts(backend.config.web)
    outcomes = backend.intake.take(job_id, (part for part in parts if isinstance(part, Upload)))
    if not outcomes:
        raise UnprocessableEntity("the form holds no file; send one or more images in any fields")
    return _json(UploadOutcome.of(job_id, outcomes), upload_status(outcomes))


@api.get("/jobs/<job_id>/results")
def job_results(job_id: str) -> Response:
    """Return images of a job with their results, a page at a time."""
    _store().job(known_id("job", job_id))
    limit = whole_number("limit", default=100, most=MAX_PAGE)
    return _json(ResultsBody.of(job_id, results_page(_store(), job_id, after=cursor("after"), limit=limit)))


@api.get("/jobs/<job_id>/results.csv")
def job_results_csv(job_id: str) -> Response:
    """Return all images of a job with their results as CSV, written as they are read."""
    store = _store()
    store.job(known_id("job", job_id))
    answer = Response(
        stream_with_context(csv_lines(all_results(store, job_id))), content_type="text/csv; charset=utf-8"
    )
    answer.headers.set("Content-Disposition", "attachment", filename=f"{job_id}.csv")
    return answer


@api.get("/jobs/<job_id>/images/<image_id>")
def job_image(job_id: str, image_id: str) -> Response:
    """Return one image of a job with its result."""
    ref = ImageRef(known_id("job", job_id), known_id("image", image_id))
    return _json(ImageBody.of(ImageResult(_store().image(ref), _store().result(ref))))


@api.get("/fleet")
def fleet() -> Response:
    """Return what the autoscaler saw and decided last."""
    snapshot = _store().fleet()
    if snapshot is None:
        raise NotFound("the controller has not looked at the fleet yet; try again in a second")
    return _json(snapshot)


def _store() -> JobStore:
    return current_backend().store


def _parse_create(body: bytes) -> CreateJob:
    try:
        return CreateJob.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        raise UnprocessableEntity(f'{where}: {first["msg"]}; send {{"name": "..."}} or nothing') from error


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(), status, mimetype="application/json")
