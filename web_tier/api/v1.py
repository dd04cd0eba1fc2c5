"""The API of users, version 1: jobs, their images and results, personal tokens, and what is left of quotas."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any, Self

from flask import Blueprint, Response, stream_with_context
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import Forbidden, NotFound, UnprocessableEntity

from core.config import Config
from core.credentials import MAX_CHARACTERS, MAX_DAYS, PersonalToken, TokenNotMadeError
from core.idempotency import Claim
from core.ids import new_id
from core.jobs.models import Job
from services.errors import NotFoundError
from web_tier.api.operators import FleetStatusBody
from web_tier.api.parsing import (
    FilterQuery,
    JobsQuery,
    ResultsQuery,
    RetryQuery,
    idempotency_key,
    json_response,
    parse_body,
    parse_query,
)
from web_tier.api.schemas import (
    ROOT,
    ApiBody,
    CreateJob,
    ImageRetryOutcome,
    Index,
    JobBody,
    JobsPage,
    JobStatusBody,
    ResultsBody,
    RetryOutcome,
    UploadOutcome,
)
from web_tier.audit import audit_details
from web_tier.auth.context import current_auth
from web_tier.auth.identity import Scope, current_identity
from web_tier.auth.job_access import UserJobs, user_jobs
from web_tier.backend import current_backend
from web_tier.parameters import known_id, known_ref
from web_tier.problems import IdempotencyKeyReusedError, TooManyOpenJobsError
from web_tier.rate_limits.limiter import current_quota_scope, remaining_quota
from web_tier.rate_limits.quotas import QuotaScope
from web_tier.result_services import current_result_services
from web_tier.results.export import JSON_LINES, ImageBody, csv_lines, json_lines, json_object
from web_tier.results.progress import job_cost
from web_tier.results.query import ImageResult, all_results, filtered_page, find_jobs
from web_tier.text import clean_job_name
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.multipart import Upload
from web_tier.uploads.request_body import request_parts, upload_status
from web_tier.uploads.retry import retry_failed, retry_image

api = Blueprint("api_v1", __name__)


limits_api = Blueprint("limits_api", __name__)

tokens_api = Blueprint("tokens_api", __name__)


CREATE_EXAMPLE = '{"name": "nightly", "scopes": ["classify", "read"], "days": 90}'


@api.get("/")
@api.get("")
def index() -> Response:
    """Return the paths of the API."""
    return json_response(Index())


def create_job(jobs: UserJobs, wanted: CreateJob, config: Config, quota: QuotaScope) -> Job:
    """Return a new job among the user's `jobs`.

    Raises:
        TooManyOpenJobsError: as `check_open_jobs_limit`.
        QuotaExceededError: if the day's quota of jobs is used up.
    """
    job = Job(new_id(), clean_job_name(wanted.name), datetime.now(UTC), wanted.keep, jobs.owner)
    check_open_jobs_limit(jobs, config)
    quota.charge_job()
    jobs.create(job)
    return job


def create_job_once(jobs: UserJobs, wanted: CreateJob, key: str, config: Config, quota: QuotaScope) -> Job:
    """Return the job of the user's first request with the idempotency key `key`; this request may be the first.

    Raises:
        IdempotencyKeyReusedError: if the first request was different.
        NotFoundError: if its job was deleted.
        TooManyOpenJobsError, QuotaExceededError: as `create_job`, if there is no such job yet.
    """
    claims, request = jobs.claims, sha256(wanted.model_dump_json().encode()).hexdigest()
    claim = claims.find(key, datetime.now(UTC))
    if claim is None:
        check_open_jobs_limit(jobs, config)
        quota.charge_job()
        claim = claims.acquire(key, Claim(new_id(), request, datetime.now(UTC)))
    if claim.request != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key came with another request before; use a new key")
    if claim.stored:
        try:
            return jobs.job(claim.job_id)
        except NotFoundError as error:
            raise NotFoundError("the job of this Idempotency-Key has been deleted; use a new key") from error
    # This is the first request, or it repeats one that crashed here: both store the same item.
    job = Job(claim.job_id, clean_job_name(wanted.name), claim.at, wanted.keep, jobs.owner)
    jobs.create(job)
    claims.mark_stored(key)
    return job


def check_open_jobs_limit(jobs: UserJobs, config: Config) -> None:
    """Check the number of jobs that may have images without a result, of all users and of this user.

    Raises:
        TooManyOpenJobsError: if all users have `web.max_open_jobs`, or this one has `limits.open_jobs` and signed in.
    """
    total, own = jobs.count_open()
    if total >= config.web.max_open_jobs:
        raise TooManyOpenJobsError(
            f"{config.web.max_open_jobs} jobs are open, which is the most allowed; try again when some have finished"
        )
    max_own = config.limits.open_jobs
    if jobs.owner and max_own and own >= max_own:
        raise TooManyOpenJobsError(
            f"{max_own} of your jobs are open, which is the most that one user may have; "
            "try again when some have finished"
        )


@api.post("/jobs")
def new_job() -> ResponseReturnValue:
    """Create a job."""
    wanted, key = parse_body(CreateJob, '{"name": "..."}'), idempotency_key()
    jobs, config, quota = user_jobs(), current_backend().config, current_quota_scope()
    if key is None:
        job = create_job(jobs, wanted, config, quota)
    else:
        job = create_job_once(jobs, wanted, key, config, quota)
    body = JobBody.of(job)
    return json_response(body, 201), {"Location": body.links.self}


@api.get("/jobs")
def list_jobs() -> Response:
    """List jobs, newest first."""
    query = parse_query(JobsQuery)
    found = find_jobs(user_jobs(), before=query.before, limit=query.limit, name=query.name)
    return json_response(JobsPage(jobs=tuple(JobBody.of(job) for job in found.jobs), next=found.next_before))


@api.get("/jobs/<job_id>")
def job_status(job_id: str) -> Response:
    """Return the status of a job."""
    backend, jobs = current_backend(), user_jobs()
    status = jobs.status(known_id("job", job_id))
    model = backend.models.find(jobs, status)
    cost = job_cost(status.counts, backend.fleet.snapshot(), backend.fleet, backend.config.prices)
    return json_response(JobStatusBody.of_status(status, model, backend.config.names.output_bucket, cost))


@api.delete("/jobs/<job_id>")
def delete_job(job_id: str) -> ResponseReturnValue:
    """Delete a job; its images and results are removed soon after."""
    user_jobs().delete(known_id("job", job_id))
    return "", 204


@api.post("/jobs/<job_id>/images")
def add_images(job_id: str) -> Response:
    """Accept images into a job; each file has its own outcome."""
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
    return json_response(UploadOutcome.of(job_id, outcomes), upload_status(outcomes))


@api.post("/jobs/<job_id>/retry")
def retry_job(job_id: str) -> Response:
    """Request the failed images of a job again."""
    query, job = parse_query(RetryQuery), user_jobs().job(known_id("job", job_id))
    retried = retry_failed(current_backend().intake, job, current_quota_scope(), after=query.after)
    return json_response(RetryOutcome.of(job_id, retried))


@api.post("/jobs/<job_id>/images/<image_id>/retry")
def retry_one(job_id: str, image_id: str) -> Response:
    """Request one failed image again."""
    ref = known_ref(job_id, image_id)
    _, item = user_jobs().image(ref)
    retried = retry_image(current_backend().intake, item.record, item.response, current_quota_scope())
    return json_response(ImageRetryOutcome.of(ref, retried))


@api.get("/jobs/<job_id>/results")
def job_results(job_id: str) -> Response:
    """Return images of a job with their results, a page at a time."""
    query, jobs = parse_query(ResultsQuery), user_jobs()
    jobs.job(known_id("job", job_id))
    page = filtered_page(jobs, job_id, query.filter(), after=query.after, limit=query.limit)
    return json_response(ResultsBody.of(job_id, page))


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
    """Return the results file of a finished job from the output bucket."""
    merged = user_jobs().status(known_id("job", job_id)).merged
    if merged is None:
        raise NotFound("the results are not one file yet; that is written when the job is finished")
    return _download(job_id, current_result_services().objects.results_file(merged.key), "jsonl", JSON_LINES)


@api.get("/jobs/<job_id>/images/<image_id>")
def job_image(job_id: str, image_id: str) -> Response:
    """Return one image of a job with its result."""
    ref = known_ref(job_id, image_id)
    _, item = user_jobs().image(ref)
    return json_response(ImageBody.of(item))


@api.get("/fleet")
def fleet() -> Response:
    """Return the last snapshot of the autoscaler."""
    backend = current_backend()
    snapshot = backend.fleet.snapshot()
    if snapshot is None:
        raise NotFound("the controller has not looked at the fleet yet; try again in a second")
    return json_response(
        FleetStatusBody.of(snapshot, backend.config.prices, backend.reports.silent_seconds(snapshot))
    )


def _wanted_results(job_id: str) -> Iterator[ImageResult]:
    """Return the results that match the query; errors are raised before the first result."""
    wanted, jobs = parse_query(FilterQuery).filter(), user_jobs()
    jobs.job(known_id("job", job_id))
    return all_results(jobs, job_id, wanted)


def _download(job_id: str, lines: Iterator[str] | Iterator[bytes], extension: str, content_type: str) -> Response:
    answer = Response(stream_with_context(lines), content_type=content_type)
    answer.headers.set("Content-Disposition", "attachment", filename=f"{job_id}.{extension}")
    return answer


class LimitsBody(BaseModel):
    """What a user may do, and may still do today (UTC); null is without limit."""

    model_config = ConfigDict(frozen=True)

    requests_per_minute: int | None = Field(default=None, description="More are answered with 429.")
    images_per_day: int | None = None
    images_left: int | None = None
    bytes_per_day: int | None = None
    bytes_left: int | None = None
    jobs_per_day: int | None = None
    jobs_left: int | None = None
    renewed_at: datetime | None = Field(default=None, description="When a new day begins.")
    open_jobs: int | None = Field(default=None, description="Jobs with images without a result, at once.")


@limits_api.get("/limits")
def limits_left() -> Response:
    """Return the limits of the caller, and what is left of the day's quotas."""
    limits, still = current_backend().config.limits, remaining_quota(current_identity().owner)
    if still is None:
        return json_response(LimitsBody())
    body = LimitsBody(
        requests_per_minute=limits.requests_per_minute or None,
        images_per_day=limits.images_per_day or None,
        images_left=still.images,
        bytes_per_day=limits.bytes_per_day or None,
        bytes_left=still.bytes,
        jobs_per_day=limits.jobs_per_day or None,
        jobs_left=still.jobs,
        renewed_at=still.renewed_at,
        open_jobs=limits.open_jobs or None,
    )
    return json_response(body)


class CreateToken(ApiBody):
    """What a personal token is made of."""

    name: str = Field(min_length=1, max_length=MAX_CHARACTERS, description="What to call it; for you.")
    scopes: tuple[Scope, ...] = Field(
        min_length=1,
        max_length=len(Scope),
        description="What it may be used for: to send images and change jobs, to read, or to steer the fleet, which "
        "only operators can allow.",
    )
    days: int = Field(ge=1, le=MAX_DAYS, strict=True, description="After how many days it expires.")


class TokenBody(ApiBody):
    """A personal token; its text is told only once, when it is made."""

    token_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime
    last_used: date | None = Field(description="The last day (UTC) on which it was used.")

    @classmethod
    def of(cls, token: PersonalToken) -> Self:
        """Return the body of a token."""
        return cls(**_token_fields(token))


class NewTokenBody(TokenBody):
    """A personal token that was just made."""

    token: str = Field(description="Send it as `Authorization: Bearer TOKEN`. It is never told again.", repr=False)

    @classmethod
    def of_new(cls, token: PersonalToken, text: str) -> Self:
        """Return the body of a new token, with its text."""
        return cls(**_token_fields(token), token=text)


def _token_fields(token: PersonalToken) -> dict[str, Any]:
    return {
        "token_id": token.token_id,
        "name": token.name,
        "scopes": tuple(scope for scope in Scope if scope in token.scopes),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "last_used": token.last_used,
    }


class TokensBody(ApiBody):
    """The personal tokens of a user that have not expired, newest first."""

    tokens: tuple[TokenBody, ...]


@tokens_api.get("/tokens")
def list_tokens() -> Response:
    """List the tokens of the caller, newest first."""
    tokens = current_auth().personal_tokens.list(current_identity().owner)
    return json_response(TokensBody(tokens=tuple(TokenBody.of(token) for token in tokens)))


@tokens_api.post("/tokens")
def make_token() -> ResponseReturnValue:
    """Create a token and return its text; no other response has it."""
    who, wanted = current_identity(), parse_body(CreateToken, CREATE_EXAMPLE, may_be_empty=False)
    if Scope.OPERATE in wanted.scopes and not who.operates:
        raise Forbidden("only operators can make a token with the scope operate; leave it out")
    try:
        text, token = current_auth().personal_tokens.make(
            who.owner, who.email, wanted.name, wanted.scopes, wanted.days
        )
    except TokenNotMadeError as error:
        raise UnprocessableEntity(str(error)) from error
    audit_details(token_id=token.token_id, name=token.name, scopes=" ".join(sorted(token.scopes)))
    return json_response(NewTokenBody.of_new(token, text), 201), {"Location": f"{ROOT}/tokens/{token.token_id}"}


@tokens_api.delete("/tokens/<token_id>")
def revoke_token(token_id: str) -> ResponseReturnValue:
    """Revoke a token."""
    current_auth().personal_tokens.revoke(current_identity().owner, known_id("token", token_id))
    return "", 204
