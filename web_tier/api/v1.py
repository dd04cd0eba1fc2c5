"""The JSON API, version 1: jobs, their images, their results, the fleet."""

from collections.abc import Iterator

from flask import Blueprint, Response, stream_with_context
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound, UnprocessableEntity

from web_tier.api.creation import create_job, create_job_once
from web_tier.api.downloads import json_lines, json_object
from web_tier.api.exchange import from_body, from_query, idempotency_key, json_answer
from web_tier.api.models import (
    CreateJob,
    FleetStatusBody,
    ImageBody,
    ImageRetryOutcome,
    Index,
    JobBody,
    JobsPage,
    JobStatusBody,
    ResultsBody,
    RetryOutcome,
    UploadOutcome,
)
from web_tier.api.queries import JSON_LINES, FilterQuery, JobsQuery, ResultsQuery, RetryQuery
from web_tier.auth.job_access import user_jobs
from web_tier.backend import current_backend
from web_tier.live import current_live
from web_tier.parameters import known_id, known_ref
from web_tier.rate_limits.limiter import current_quota_scope
from web_tier.results.costs import job_cost
from web_tier.results.export import csv_lines
from web_tier.results.jobs import jobs_page
from web_tier.results.query import ImageResult, all_results, filtered_page
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import request_parts, upload_status
from web_tier.uploads.retry import retry_failed, retry_image

api = Blueprint("api_v1", __name__)


@api.get("/")
@api.get("")
def index() -> Response:
    """Say where to begin."""
    return json_answer(Index())


@api.post("/jobs")
def new_job() -> ResponseReturnValue:
    """Create a job."""
    wanted, key = from_body(CreateJob, '{"name": "..."}'), idempotency_key()
    jobs, config, quota = user_jobs(), current_backend().config, current_quota_scope()
    if key is None:
        job = create_job(jobs, wanted, config, quota)
    else:
        job = create_job_once(jobs, wanted, key, config, quota)
    body = JobBody.of(job)
    return json_answer(body, 201), {"Location": body.links.self}


@api.get("/jobs")
def list_jobs() -> Response:
    """List jobs, newest first."""
    query = from_query(JobsQuery)
    found = jobs_page(user_jobs(), before=query.before, limit=query.limit, name=query.name)
    return json_answer(JobsPage(jobs=tuple(JobBody.of(job) for job in found.jobs), next=found.next_before))


@api.get("/jobs/<job_id>")
def job_status(job_id: str) -> Response:
    """Tell where a job stands."""
    backend, jobs = current_backend(), user_jobs()
    status = jobs.status(known_id("job", job_id))
    model = backend.models.of(jobs, status)
    cost = job_cost(status.counts, backend.fleet.snapshot(), backend.fleet, backend.config.prices)
    return json_answer(JobStatusBody.of_status(status, model, backend.config.names.output_bucket, cost))


@api.delete("/jobs/<job_id>")
def delete_job(job_id: str) -> ResponseReturnValue:
    """Delete a job; what belongs to it is removed soon after."""
    user_jobs().delete(known_id("job", job_id))
    return "", 204


@api.post("/jobs/<job_id>/images")
def add_images(job_id: str) -> Response:
    """Take images into a job; each file has an outcome of its own."""
    backend, key = current_backend(), idempotency_key()
    job = user_jobs().job(known_id("job", job_id))
    uploads = (part for part in request_parts(backend.config.web) if isinstance(part, Upload))
    intake, quota = backend.intake, current_quota_scope()
    if key is None:
        outcomes = intake.ingest(job, uploads, quota)
    else:
        outcomes = ingest_idempotent(intake, job, key, uploads, quota)
    if not outcomes:
        raise UnprocessableEntity("the form holds no file; send one or more images in any fields")
    return json_answer(UploadOutcome.of(job_id, outcomes), upload_status(outcomes))


@api.post("/jobs/<job_id>/retry")
def retry_job(job_id: str) -> Response:
    """Request the failed images of a job again."""
    query, job = from_query(RetryQuery), user_jobs().job(known_id("job", job_id))
    retried = retry_failed(current_backend().intake, job, current_quota_scope(), after=query.after)
    return json_answer(RetryOutcome.of(job_id, retried))


@api.post("/jobs/<job_id>/images/<image_id>/retry")
def retry_one(job_id: str, image_id: str) -> Response:
    """Request one failed image again."""
    ref = known_ref(job_id, image_id)
    _, item = user_jobs().image(ref)
    retried = retry_image(current_backend().intake, item.record, item.response, current_quota_scope())
    return json_answer(ImageRetryOutcome.of(ref, retried))


@api.get("/jobs/<job_id>/results")
def job_results(job_id: str) -> Response:
    """Return images of a job with their results, a page at a time."""
    query, jobs = from_query(ResultsQuery), user_jobs()
    jobs.job(known_id("job", job_id))
    page = filtered_page(jobs, job_id, query.wanted(), after=query.after, limit=query.limit)
    return json_answer(ResultsBody.of(job_id, page))


@api.get("/jobs/<job_id>/results.csv")
def job_results_csv(job_id: str) -> Response:
    """Return all images of a job with their results as CSV, written as they are read."""
    return _download(job_id, csv_lines(_wanted_results(job_id)), "csv", "text/csv; charset=utf-8")


@api.get("/jobs/<job_id>/results.jsonl")
def job_results_jsonl(job_id: str) -> Response:
    """Return all images of a job with their results as JSON Lines, written as they are read."""
    return _download(job_id, json_lines(_wanted_results(job_id)), "jsonl", JSON_LINES)


@api.get("/jobs/<job_id>/results.json")
def job_results_json(job_id: str) -> Response:
    """Return all images of a job with their results as one JSON object, written as they are read."""
    return _download(job_id, json_object(job_id, _wanted_results(job_id)), "json", "application/json")


@api.get("/jobs/<job_id>/results/file")
def job_results_file(job_id: str) -> Response:
    """Return the file in the output bucket that holds all results of a finished job."""
    merged = user_jobs().status(known_id("job", job_id)).merged
    if merged is None:
        raise NotFound("the results are not one file yet; that is written when the job is finished")
    return _download(job_id, current_live().objects.merged(merged.key), "jsonl", JSON_LINES)


@api.get("/jobs/<job_id>/images/<image_id>")
def job_image(job_id: str, image_id: str) -> Response:
    """Return one image of a job with its result."""
    ref = known_ref(job_id, image_id)
    _, item = user_jobs().image(ref)
    return json_answer(ImageBody.of(item))


@api.get("/fleet")
def fleet() -> Response:
    """Return what the autoscaler saw and decided last."""
    backend = current_backend()
    snapshot = backend.fleet.snapshot()
    if snapshot is None:
        raise NotFound("the controller has not looked at the fleet yet; try again in a second")
    return json_answer(FleetStatusBody.of(snapshot, backend.config.prices, backend.reports.silent_seconds(snapshot)))


def _wanted_results(job_id: str) -> Iterator[ImageResult]:
    """Return the results that the query asks for; what is wrong with the request is raised before the first."""
    wanted, jobs = from_query(FilterQuery).wanted(), user_jobs()
    jobs.job(known_id("job", job_id))
    return all_results(jobs, job_id, wanted)


def _download(job_id: str, lines: Iterator[str] | Iterator[bytes], extension: str, content_type: str) -> Response:
    answer = Response(stream_with_context(lines), content_type=content_type)
    answer.headers.set("Content-Disposition", "attachment", filename=f"{job_id}.{extension}")
    return answer
