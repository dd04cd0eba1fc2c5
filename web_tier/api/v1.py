"""The API of users, version 1: jobs, their images and results, personal tokens, and what is left of quotas."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final, Self

from flask import Response, request
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import Forbidden, NotFound, ServiceUnavailable, UnprocessableEntity

from core.config import MIN_MESSAGE_BYTES, Config, S3Grant, is_granted
from core.credentials import MAX_CHARACTERS, MAX_DAYS, PersonalToken, Scope, TokenNotMadeError
from core.ids import new_id
from core.jobs.buckets import JSON_LINES
from core.jobs.models import Job, MinScores, is_of_shards
from core.jobs.uploads import MAX_FILES as MAX_FILES_WITH_KEY
from core.jobs.uploads import Claim
from core.label_names import ClassNames
from core.label_sets import MAX_SET_CHARACTERS
from core.model_catalog import JobModel
from core.s3_locations import S3Location
from services.clock import utc_now
from services.errors import NotFoundError
from web_tier.api.schemas import (
    ROOT,
    BorderOfDoubt,
    CreateJob,
    ForecastBody,
    ImageRetryOutcome,
    Index,
    JobBody,
    JobsPage,
    JobStatusBody,
    ResultsBody,
    RetryOutcome,
    UploadOutcome,
)
from web_tier.auth.audit import audit_details
from web_tier.auth.context import current_auth
from web_tier.auth.identity import current_family, current_identity
from web_tier.auth.job_access import UserJobs, bulkhead_caller, user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import FILE, FORM, ApiResponse, operation
from web_tier.http.parameters import clean_job_name, job_name_of_time, known_id, known_ref
from web_tier.http.parsing import (
    ArchiveQuery,
    CsvQuery,
    FilterQuery,
    ForecastQuery,
    JobsQuery,
    KeyHeader,
    ResultsQuery,
    RetryQuery,
    idempotency_key,
    json_response,
    parse_body,
    parse_query,
)
from web_tier.http.problems import IdempotencyKeyReusedError, TooManyOpenJobsError
from web_tier.http.quotas import QuotaScope
from web_tier.http.rate_limits import current_quota_scope, remaining_quota
from web_tier.http.routes import Routes
from web_tier.results.archive import label_of, truth_of, zip_parts
from web_tier.results.export import ImageBody, attachment, csv_lines, json_lines
from web_tier.results.progress import blocked_reason, job_costs
from web_tier.results.query import ImageResult, all_results, filtered_page
from web_tier.results.services import current_result_services
from web_tier.uploads.cancellation import cancel_job
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.request_body import (
    NO_FILE,
    POSITIONS_FIELD,
    REMAINING_FIELD,
    positioned_files,
    request_parts,
    upload_status,
)
from web_tier.uploads.retry import retry_failed, retry_image

api = Routes("api_v1")


limits_api = Routes("limits_api")

tokens_api = Routes("tokens_api", right=Right.ACCOUNT, needs_sign_in=True)


ZIP: Final = "application/zip"

MAX_JOB_BYTES: Final = 2**20
"""Longest request for a job: enough for tens of thousands of labels."""

MAX_FINISH_DAYS: Final = 7
"""Days within which a job is finished at the latest. A request expires after 14 days in the queue."""

ARCHIVE_RETRY_SECONDS: Final = 30
"""Seconds after which a client should repeat a download that was rejected since too many others are running."""

SOURCE_REFUSAL: Final = (
    "images of {} may not be classified: ask an operator to add it to imports.sources in config.yaml"
)
RESULTS_REFUSAL: Final = (
    "results may not be written to {}: ask an operator to add it to imports.destinations in config.yaml"
)

CREATE_EXAMPLE = '{"name": "nightly", "scopes": ["classify", "read"], "days": 90}'


@api.get("/", right=Right.PUBLIC)
@api.get("", right=Right.PUBLIC)
@operation(ApiResponse(200, "Paths on this server.", Index), tag="System", problems=(401, 429))
def index() -> Response:
    """List the addresses of the API."""
    return json_response(Index())


def create_job(jobs: UserJobs, wanted: CreateJob, key: str | None, config: Config, quota: QuotaScope) -> Job:
    """Create the wanted job; with an idempotency key, return that of the user's first request with the key.

    Raises:
        IdempotencyKeyReusedError: if the first request was different.
        NotFoundError: if its job was deleted.
        TooManyOpenJobsError: as `check_open_jobs_limit`, if there is no such job yet.
        QuotaExceededError: if there is no such job yet, and the day's quota of jobs is used up.
        UnknownModelError: if there is no such job yet, and no model has the wanted name.
        UnprocessableEntity: as before, if the job names labels that are no classes of its model, or may be finished
            after its images expire.
    """
    claims, request = jobs.claims, wanted.digest
    claim = None if key is None else claims.find(key, utc_now())
    if claim is None:
        job_id = new_id()
        model = current_backend().served.model_for_job(wanted.model)
        min_scores_of(wanted, MinScores(), model)  # refuses unknown labels before the quota is charged
        model = restricted(model, wanted.labels, config.queues.max_message_bytes)
        check_finish_by(wanted.finish_by, config.retention.unkept_days)
        check_open_jobs_limit(jobs, config)
        quota.charge_job()
        claim = Claim(job_id, request, utc_now(), model=model)
        claim = claim if key is None else claims.acquire(key, claim)
    if claim.request != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key came with another request before; use a new key")
    if claim.stored:
        try:
            return jobs.job(claim.job_id)
        except NotFoundError as error:
            raise NotFoundError("the job of this Idempotency-Key has been deleted; use a new key") from error
    # This is the first request, or it repeats one that crashed here: both store the same item.
    job = Job(
        claim.job_id,
        clean_job_name(wanted.name, job_name_of_time(claim.at)),
        claim.at,
        wanted.keep,
        jobs.owner,
        source=wanted.source or "",
        source_pattern=wanted.source_pattern or "",
        results=wanted.results or "",
        model=claim.model,
        max_failed_percent=wanted.max_failed_percent,
        min_scores=min_scores_of(wanted, MinScores(), claim.model),
        finish_by=wanted.finish_by,
    )
    jobs.create(job, quota.caller)
    if key is not None:
        claims.mark_stored(key)
    return job


def min_scores_of(wanted: BorderOfDoubt, scores: MinScores, model: JobModel | None) -> MinScores:
    """Return `scores` with those that are wanted in place of theirs; labels are spelled as a job's model has them.

    Raises:
        UnprocessableEntity: one is no class of the model, as far as these are known; or two names mean the same.
    """
    every = scores.every if wanted.min_score is None else wanted.min_score
    labels = scores.labels if wanted.label_min_scores is None else wanted.label_min_scores
    classes = current_backend().served.facts(model).labels if wanted.label_min_scores else ()
    if classes:
        spelled = _classes_called("label_min_scores", [*labels], classes)
        if twice := [name for name, count in Counter(spelled).items() if count > 1]:
            raise UnprocessableEntity(f"label_min_scores: {twice[0]!r} has two scores; send one")
        labels = dict(zip(spelled, labels.values(), strict=True))
    return MinScores(every, labels)


def restricted(model: JobModel | None, labels: Sequence[str] | None, max_message_bytes: int) -> JobModel | None:
    """Return the model of a job in which only `labels` can occur; None stands for all.

    Raises:
        UnprocessableEntity: one is no class of the model, its classes are not known, or they are too many.
    """
    if labels is None:
        return model
    classes = current_backend().served.facts(model).labels
    if model is None or not classes:
        raise UnprocessableEntity("labels: the classes of the model cannot be read here; leave out the labels")
    found = model.restricted(classes, _classes_called("labels", labels, classes))
    # A request without the labels takes up to `MIN_MESSAGE_BYTES`.
    if len(found.only or "") > min(MAX_SET_CHARACTERS, max_message_bytes - 2 * MIN_MESSAGE_BYTES):
        raise UnprocessableEntity(
            f"labels: requests for some of {len(classes):,} classes are larger than queues.max_message_bytes"
        )
    return found


def _classes_called(field: str, labels: Iterable[str], classes: Sequence[str]) -> list[str]:
    """Return the class that each label means.

    Raises:
        UnprocessableEntity: it names the first label that means none, and the nearest class.
    """
    names, found = ClassNames(classes), list[str]()
    for label in labels:
        if (known := names.find(label)) is None:
            nearest = names.nearest(label)
            hint = "" if nearest is None else f"; the nearest is {nearest!r}"
            raise UnprocessableEntity(f"{field}: of the model's {len(classes):,} classes none is {label!r}{hint}")
        found.append(known)
    return found


def check_finish_by(finish_by: datetime | None, unkept_days: float) -> None:
    """Refuse a time after which the images of a job that are not kept, or their requests in the queue, have expired.

    Raises:
        UnprocessableEntity: it is too late.
    """
    days = min(unkept_days or MAX_FINISH_DAYS, MAX_FINISH_DAYS)
    if finish_by is not None and finish_by > utc_now() + timedelta(days=days):
        raise UnprocessableEntity(f"finish_by: a job waits for at most {days:g} days")


def granted_location(field: str, text: str | None, grants: Sequence[S3Grant], refusal: str) -> str | None:
    """Return a location in S3 of a wanted job in its normal form; `field` is its name in the body.

    Raises:
        UnprocessableEntity: it is no location in S3.
        Forbidden: `grants` do not allow it to the current user; `refusal` says so, with `{}` for the location.
    """
    if text is None:
        return None
    try:
        location = S3Location.parse(text)
    except ValueError as error:
        raise UnprocessableEntity(f"{field}: {error}") from error
    if not is_granted(grants, location, to_operator=current_identity().operates):
        raise Forbidden(refusal.format(location))
    return str(location)


def check_open_jobs_limit(jobs: UserJobs, config: Config) -> None:
    """Check the number of jobs that may have images without a result, of all users and of this user.

    Raises:
        TooManyOpenJobsError: if all users have `web.max_open_jobs`, or this one has 100 and signed in.
    """
    total, own = jobs.count_open()
    if total >= config.web.max_open_jobs:
        raise TooManyOpenJobsError(
            f"{config.web.max_open_jobs} jobs are open, which is the most allowed; try again when some have finished"
        )
    max_own = config.limits.open_jobs
    if jobs.owner and own >= max_own:
        raise TooManyOpenJobsError(
            f"{max_own} of your jobs are open, which is the most that one user may have; "
            "try again when some have finished"
        )


@api.post("/jobs", right=Right.CLASSIFY)
@operation(
    ApiResponse(201, "The job, with links that lead on.", JobBody),
    name="create_job",
    header=KeyHeader,
    body=CreateJob,
    problems=(400, 403, 404),
)
def new_job() -> ResponseReturnValue:
    """Create a job.

    With an `Idempotency-Key` the same request makes the same job for 24 hours, however often it is sent; another
    request with that key is rejected. At most `web.max_open_jobs` jobs may be open at once, and 100 of
    one user.

    With `source` the images of the job come from S3, those whose names match `source_pattern`. They are listed in
    the background: `source` in the job's status shows the progress. Such a job takes no uploads (409,
    `job-takes-no-images`).

    With `model` its images are classified by the model of that name; the models are listed by `GET /models`. A job
    keeps its model when new jobs get another one.

    With `results` the controller copies the results file of the finished job to a folder in S3, and again when
    results change: `results` in the job's status.
    """
    request.max_content_length = MAX_JOB_BYTES
    wanted, key = parse_body(CreateJob, '{"name": "..."}'), idempotency_key()
    jobs, config, quota = user_jobs(), current_backend().config, current_quota_scope()
    source = granted_location("source", wanted.source, config.imports.sources, SOURCE_REFUSAL)
    results = granted_location("results", wanted.results, config.imports.destinations, RESULTS_REFUSAL)
    if wanted.source_pattern is not None and (source is None or not wanted.source_pattern.isprintable()):
        raise UnprocessableEntity("source_pattern goes with source, and has characters that can be printed only")
    if wanted.keep and is_of_shards(wanted.source_pattern or ""):
        raise UnprocessableEntity("keep: the images of shards stay in these; leave it out")
    wanted = wanted.model_copy(update={"source": source, "results": results})
    body = JobBody.from_job(create_job(jobs, wanted, key, config, quota))
    return json_response(body, 201), {"Location": body.links.self}


@api.get("/jobs", right=Right.READ)
@operation(ApiResponse(200, "A page of jobs.", JobsPage), query=JobsQuery)
def list_jobs() -> Response:
    """List jobs, newest first."""
    query = parse_query(JobsQuery)
    found = user_jobs().find(before=query.before, limit=query.limit, name=query.name)
    return json_response(JobsPage(jobs=tuple(JobBody.from_job(job) for job in found.jobs), next=found.next_before))


@api.get("/jobs/<job_id>", right=Right.READ)
@operation(ApiResponse(200, "The job and its counts.", JobStatusBody))
def job_status(job_id: str) -> Response:
    """Get the status of a job."""
    return _status_response(user_jobs(), known_id("job", job_id))


def _status_response(jobs: UserJobs, job_id: str) -> Response:
    backend, status = current_backend(), jobs.status(job_id)
    model, fleet = backend.models.find(jobs, status), backend.fleet.snapshot()
    [cost] = job_costs([status], fleet, backend.fleet, backend.config.prices)
    blocked = blocked_reason(status, fleet, backend.reports.silent_seconds(fleet))
    labels, bucket = current_result_services().possible_labels(status.job), backend.config.names.output_bucket
    return json_response(JobStatusBody.of_status(status, model, labels, bucket, cost, blocked))


@api.post("/jobs/<job_id>/cancel", right=Right.CLASSIFY, audit="job cancelled")
@operation(ApiResponse(200, "The job and its counts, as of now.", JobStatusBody), name="cancel_job")
def cancel(job_id: str) -> Response:
    """Cancel a job and keep its results.

    Each image without a result fails with the code `cancelled`, usually within seconds. An image that a worker has
    already received may still get its label. A job that has finished stays as it is, and so does a cancelled one. A
    retry of the failed images resumes the job. Until then it takes no images (409, `job-cancelled`).
    """
    jobs = user_jobs()
    cancel_job(current_backend().intake, jobs.status(known_id("job", job_id)))
    return _status_response(jobs, job_id)


@api.put("/jobs/<job_id>/min-scores", right=Right.CLASSIFY, audit="border of doubt changed")
@operation(ApiResponse(200, "The job with these scores.", JobBody), name="set_min_scores", body=BorderOfDoubt)
def change_min_scores(job_id: str) -> Response:
    """Change the scores below which the images of a job are `unsure`.

    A field that is not sent keeps its value; `{"label_min_scores": {}}` removes the scores of labels. Results and
    files follow, and so do open pages, at the latest when they are next shown; no image is classified again.
    """
    jobs = user_jobs()
    job, example = jobs.job(known_id("job", job_id)), '{"min_score": 0.8}'
    wanted = parse_body(BorderOfDoubt, example, may_be_empty=False)
    if wanted.min_score is None and wanted.label_min_scores is None:
        raise UnprocessableEntity(f"neither min_score nor label_min_scores was sent; send {example}")
    changed = jobs.change_min_scores(job_id, partial(min_scores_of, wanted, model=job.model))
    return json_response(JobBody.from_job(changed))


@api.delete("/jobs/<job_id>", right=Right.CLASSIFY, audit="job deleted")
@operation(ApiResponse(204, "The job does not exist any more; its images and results are removed soon after."))
def delete_job(job_id: str) -> ResponseReturnValue:
    """Delete a job."""
    user_jobs().delete(known_id("job", job_id))
    return "", 204


_FILES = {
    "type": "object",
    "properties": {
        POSITIONS_FIELD: {
            "type": "string",
            "pattern": "^[0-9]{1,7}(,[0-9]{1,7})*$",
            "description": "The place of each file's image among those of the job, from 0, such as `0,1,2`; before "
            "the files. Without it, images are in the order of their arrival.",
        },
        REMAINING_FIELD: {
            "type": "string",
            "pattern": "^[0-9]{1,9}$",
            "description": "The number of files that you will send to the job in further requests; before the files. "
            "With it and `positions` the last results of the job come earlier.",
        },
        "images": {"type": "array", "items": FILE, "minItems": 1},
    },
    "required": ["images"],
    "description": "Files in any fields, up to 1,000 of `web.max_image_bytes` (25 MB). "
    "A filename may be a relative path, such as `day1/IMG_1.jpg`.",
}


@api.post("/jobs/<job_id>/images", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "The outcome of each file; at least one was accepted.", UploadOutcome),
    ApiResponse(422, "No file was accepted: each says why, or there was none.", UploadOutcome),
    ApiResponse(503, "No file was accepted, and the fault is ours: send them again.", UploadOutcome),
    header=KeyHeader,
    body={FORM: _FILES},
    problems=(400, 408, 409, 415),
)
def add_images(job_id: str) -> Response:
    """Add images to a job.

    Each file has an outcome of its own. With an `Idempotency-Key` a request of up to 250 files may be sent again
    after a lost answer, and each file still becomes one image. With other files the same key gets 422
    (`idempotency-key-reused`).
    """
    backend, key = current_backend(), idempotency_key()
    job, accepted = user_jobs().job_for_images(known_id("job", job_id))
    uploads = positioned_files(request_parts(backend.config.web))
    intake, quota = backend.intake, current_quota_scope()
    if key is None:
        outcomes = intake.ingest(job, uploads, quota, accepted)
    else:
        outcomes = ingest_idempotent(intake, job, key, uploads, quota, accepted)
    if not outcomes:
        raise UnprocessableEntity(NO_FILE)
    return json_response(UploadOutcome.from_outcomes(job_id, enumerate(outcomes)), upload_status(outcomes))


@api.post("/jobs/<job_id>/retry", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "The outcome of up to 1,000 failed images.", RetryOutcome), query=RetryQuery, problems=(422,)
)
def retry_job(job_id: str) -> Response:
    """Request a job's failed images again; resume a cancelled job.

    A failed result stays until a better one comes. Each image is sent once: further calls count it as `running` until
    its result comes, or for 15 minutes. An image that cannot be classified, such as a truncated file, counts as
    `final` and is not sent. An image that is no longer stored is named in `gone`. A retry counts towards the day's
    images like an upload. A job with `labels` keeps its model, since another one has others.
    """
    query, job, backend = parse_query(RetryQuery), user_jobs().job(known_id("job", job_id)), current_backend()
    if query.model is not None:
        model = backend.served.model_for_job(query.model)
        if job.model is not None and job.model.only is not None:
            raise UnprocessableEntity("the job has only some labels of its model: send its images in a new job")
        job = backend.store.put_model(job, model)
    retried = retry_failed(backend.intake, job, current_quota_scope(), after=query.after)
    return json_response(RetryOutcome.from_retried(job_id, retried))


@api.post("/jobs/<job_id>/images/<image_id>/retry", right=Right.CLASSIFY)
@operation(ApiResponse(200, "The outcome.", ImageRetryOutcome), name="retry_image")
def retry_one(job_id: str, image_id: str) -> Response:
    """Request one failed image again.

    Its failed result stays until a better or a newer one comes; until then it is `retrying`. A retry counts towards
    the day's images like an upload.
    """
    ref = known_ref(job_id, image_id)
    job, item = user_jobs().image(ref)
    retried = retry_image(current_backend().intake, job, item.record, item.response, current_quota_scope())
    return json_response(ImageRetryOutcome.from_retried(ref, retried))


@api.get("/jobs/<job_id>/results", right=Right.READ, reads_shared_jobs=True)
@operation(
    ApiResponse(200, "Images with their results, in the order of their ids.", ResultsBody),
    tag="Results",
    query=ResultsQuery,
)
def job_results(job_id: str) -> Response:
    """Read results, a page at a time."""
    query, jobs = parse_query(ResultsQuery), user_jobs()
    jobs.job(known_id("job", job_id))
    page = filtered_page(jobs, job_id, query.filter(), after=query.after, limit=query.limit)
    return json_response(ResultsBody.from_page(job_id, page))


@api.get("/jobs/<job_id>/results.csv", right=Right.READ, reads_shared_jobs=True)
@operation(
    ApiResponse(200, "A header and a line for each image (RFC 4180).", "text/csv"), tag="Results", query=CsvQuery
)
def job_results_csv(job_id: str) -> Response:
    """Read all results as CSV.

    Read columns by name: later versions may add some at the end. Times are in UTC. A cell that a spreadsheet could
    execute as a formula begins with an apostrophe.
    """
    query = parse_query(CsvQuery)
    job, results = _wanted_results(job_id, query)
    return _download(job, query.written(csv_lines(results)), "csv", "text/csv; charset=utf-8")


@api.get("/jobs/<job_id>/results.jsonl", right=Right.READ, reads_shared_jobs=True)
@operation(
    ApiResponse(200, "A line for each image, each an `ImageBody`.", JSON_LINES), tag="Results", query=FilterQuery
)
def job_results_jsonl(job_id: str) -> Response:
    """Read all results as JSON Lines."""
    job, results = _wanted_results(job_id, parse_query(FilterQuery))
    return _download(job, json_lines(results), "jsonl", JSON_LINES)


@api.get("/jobs/<job_id>/images.zip", right=Right.READ, reads_shared_jobs=True)
@operation(
    ApiResponse(200, "A zip of the images in a folder for each label.", ZIP), tag="Results", query=ArchiveQuery
)
def job_images_zip(job_id: str) -> Response:
    """Download the kept images of a job, sorted into folders by label.

    An image is at `LABEL/NAME` without its own folders; equal names get numbers. Images without a label are in
    `_failed` and `_waiting`. Images that are no longer stored are named in `missing.txt`. With `by=truth` the folders
    are true labels, and images without one are not in the zip.
    """
    query = parse_query(ArchiveQuery)
    is_training_set = query.by == "truth"
    job, results = _wanted_results(job_id, query)
    if is_training_set:
        results = (result for result in results if result.truth is not None)
    if not job.keep:
        raise NotFound(
            "the images of this job are not kept: they are deleted once they are classified. "
            "Create a job with `keep`, and upload them again"
        )
    archives, originals = current_backend().bulkheads.archives, current_result_services().originals
    caller = bulkhead_caller(job)
    if not archives.enter(caller):
        raise ServiceUnavailable(
            f"too many downloads of images are running just now; try again in {ARCHIVE_RETRY_SECONDS} s",
            retry_after=ARCHIVE_RETRY_SECONDS,
        )
    answer = _download(job, zip_parts(results, originals, truth_of if is_training_set else label_of), "zip", ZIP)
    answer.headers["X-Accel-Buffering"] = "no"  # nginx would write what a slow client has not read to its disk
    answer.call_on_close(lambda: archives.leave(caller))
    return answer


@api.get("/jobs/<job_id>/results/file", right=Right.READ)
@operation(ApiResponse(200, "A line for each image, each an `ImageBody`.", JSON_LINES), tag="Results")
def job_results_file(job_id: str) -> Response:
    """Read the file that holds all results of a finished job.

    The controller writes it once the job is finished, and again when results change. The job's status contains its
    address in the output bucket. A job of single images has no such file.
    """
    status = user_jobs().status(known_id("job", job_id))
    if status.merged is None:
        raise NotFound("the results are not one file yet; that is written when the job is finished")
    lines = current_backend().outputs.results_file(status.merged)
    return _download(status.job, lines, "jsonl", JSON_LINES)


@api.get("/jobs/<job_id>/images/<image_id>", right=Right.READ, reads_shared_jobs=True)
@operation(ApiResponse(200, "The image, with its result as far as there is one.", ImageBody), tag="Results")
def job_image(job_id: str, image_id: str) -> Response:
    """Read one image's result."""
    ref = known_ref(job_id, image_id)
    _, item = user_jobs().image(ref)
    return json_response(ImageBody.from_result(item))


@api.get("/forecast", right=Right.READ)
@operation(
    ApiResponse(200, "Workers, seconds and US dollars.", ForecastBody),
    tag="System",
    query=ForecastQuery,
    problems=(404,),
)
def forecast() -> Response:
    """Forecast images before they are sent.

    The images in the queue and these are divided among the workers that run and those that will start, by the
    measured times of a boot and of an image. All images count as sent at once.
    """
    query = parse_query(ForecastQuery)
    found = current_backend().forecast(query.images, query.finish_by)
    if found is None:
        raise NotFound("the controller has not reported the fleet just now; try again in a few seconds")
    return json_response(ForecastBody.from_forecast(found))


def _wanted_results(job_id: str, query: FilterQuery) -> tuple[Job, Iterator[ImageResult]]:
    jobs = user_jobs()
    job = jobs.job(known_id("job", job_id))
    return job, all_results(jobs, job_id, query.filter())


def _download(job: Job, parts: Iterator[str] | Iterator[bytes], extension: str, content_type: str) -> Response:
    answer = Response(parts, content_type=content_type)
    names = attachment(job.name, job.job_id, extension)
    answer.headers.set("Content-Disposition", "attachment", **names)
    return answer


class LimitsBody(BaseModel):
    """What a user may do, and may still do today (UTC); null is without limit. All have the limits of a request."""

    model_config = ConfigDict(frozen=True)

    requests_per_minute: int | None = Field(
        default=None, description="More get 429; each MB of a body counts as one."
    )
    images_per_day: int | None = None
    images_left: int | None = None
    bytes_per_day: int | None = None
    bytes_left: int | None = None
    jobs_per_day: int | None = None
    jobs_left: int | None = None
    renewed_at: datetime | None = Field(default=None, description="When a new day begins.")
    open_jobs: int | None = Field(default=None, description="Jobs with images without a result, at once.")
    max_image_bytes: int = Field(description="Of one image.")
    max_request_bytes: int = Field(description="Of all files of a request.")
    max_files: int = Field(description="Of a request.")
    max_files_with_key: int = Field(description="Of a request with an `Idempotency-Key`.")
    direct_uploads: bool = Field(description="Whether to upload straight to the bucket: `POST …/uploads`.")


@limits_api.get("/limits", right=Right.READ)
@operation(ApiResponse(200, "The limits, and what is left of the day's.", LimitsBody), tag="System")
def limits_left() -> Response:
    """Get your limits, and what is left of them today."""
    config, still = current_backend().config, remaining_quota(current_identity().owner)
    limits, web = config.limits, config.web
    of_request = LimitsBody(
        max_image_bytes=web.max_image_bytes,
        max_request_bytes=web.max_request_bytes,
        max_files=web.max_files_per_request,
        max_files_with_key=MAX_FILES_WITH_KEY,
        direct_uploads=web.direct_uploads,
    )
    if still is None:
        return json_response(of_request)
    own = dict[str, int | datetime | None](
        requests_per_minute=limits.requests_per_minute or None,
        images_per_day=limits.images_per_day or None,
        images_left=still.images,
        bytes_per_day=limits.bytes_per_day or None,
        bytes_left=still.bytes,
        jobs_per_day=limits.jobs_per_day,
        jobs_left=still.jobs,
        renewed_at=still.renewed_at,
        open_jobs=limits.open_jobs,
    )
    return json_response(of_request.model_copy(update=own))


class CreateToken(ApiBody):
    """What a personal token is made of."""

    name: str = Field(min_length=1, max_length=MAX_CHARACTERS, description="What to call it; for you.")
    scopes: tuple[Scope, ...] = Field(
        min_length=1,
        max_length=len(Scope),
        description="What the token permits: to send images and change jobs, to read, or to manage the fleet. Only "
        "operators can permit the last.",
    )
    days: int = Field(ge=1, le=MAX_DAYS, strict=True, description="After how many days it expires.")


class TokenBody(ApiBody):
    """A personal token. Only the response that creates it contains its text."""

    token_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime
    last_used: date | None = Field(description="The last day (UTC) on which it was used.")

    @classmethod
    def from_token(cls, made: PersonalToken, **more: str) -> Self:
        """Return the body of a token."""
        return cls.copied_from(made, scopes=tuple(scope for scope in Scope if scope in made.scopes), **more)


class NewTokenBody(TokenBody):
    """A personal token that was just made."""

    token: str = Field(description="Send it as `Authorization: Bearer TOKEN`. It is shown only once.", repr=False)


class TokensBody(ApiBody):
    """The personal tokens of a user that have not expired, newest first."""

    tokens: tuple[TokenBody, ...]


@tokens_api.get("/tokens")
@operation(
    ApiResponse(200, "Those that have not expired, without their text.", TokensBody), tag="Tokens", problems=(404,)
)
def list_tokens() -> Response:
    """List your personal tokens, newest first.

    With a token of the provider only, not with a personal one. Where there is no sign-in there are no tokens: 404.
    """
    tokens = current_auth().personal_tokens.list(current_identity().owner)
    return json_response(TokensBody(tokens=tuple(TokenBody.from_token(token) for token in tokens)))


@tokens_api.post("/tokens", audit="token created")
@operation(
    ApiResponse(201, "The token; its text is shown only once.", NewTokenBody),
    tag="Tokens",
    body=CreateToken,
    problems=(404,),
)
def make_token() -> ResponseReturnValue:
    """Make a personal token.

    With a token of the provider only, not with a personal one, from a sign-in within the last five minutes. Where
    there is no sign-in there are no tokens: 404. Up to 20 at a time.
    """
    who, wanted = current_identity(), parse_body(CreateToken, CREATE_EXAMPLE, may_be_empty=False)
    if not who.has_just_signed_in(current_auth().sessions.clock.epoch_seconds()):
        raise Forbidden("a personal token needs a fresh sign-in: sign in again, and make it within five minutes")
    if Scope.OPERATE in wanted.scopes and not who.operates:
        raise Forbidden("only operators can make a token with the scope operate; leave it out")
    try:
        text, token = current_auth().personal_tokens.make(
            who.owner, who.email, wanted.name, wanted.scopes, wanted.days, who.signed_in, current_family()
        )
    except TokenNotMadeError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return json_response(NewTokenBody.from_token(token, token=text), 201), {
        "Location": f"{ROOT}/tokens/{token.token_id}"
    }


@tokens_api.delete("/tokens/<token_id>", audit="token revoked")
@operation(ApiResponse(204, "The token is no longer accepted."), tag="Tokens")
def revoke_token(token_id: str) -> ResponseReturnValue:
    """Revoke a personal token.

    With a token of the provider only, not with a personal one. Where there is no sign-in there are no tokens: 404.
    """
    current_auth().personal_tokens.revoke(current_identity().owner, token_id)
    return "", 204
