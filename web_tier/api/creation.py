"""Creating a job: at most so many open ones, and no second one for a request that is repeated under the same key."""

from datetime import UTC, datetime
from hashlib import sha256

from services.claims import Claim, Claims
from services.errors import NotFoundError
from services.ids import new_id
from services.job_records import Job
from services.jobs import JobStore
from web_tier.api.models import CreateJob
from web_tier.intake.names import shown_job_name
from web_tier.problems import IdempotencyKeyReusedError, TooManyOpenJobsError


def create_job(store: JobStore, wanted: CreateJob, *, most_open: int) -> Job:
    """Return a new job.

    Raises:
        TooManyOpenJobsError: when `most_open` jobs may have images without a result.
    """
    job = Job(new_id(), shown_job_name(wanted.name), datetime.now(UTC), wanted.keep)
    refuse_too_many(store, most_open)
    store.create(job)
    return job


def create_job_once(store: JobStore, wanted: CreateJob, key: str, *, most_open: int) -> Job:
    """Return the job that the first request with `key` made or makes; this one may be the first.

    Raises:
        IdempotencyKeyReusedError: when that request was another.
        NotFoundError: when its job has been deleted.
        TooManyOpenJobsError: as `create_job`, when there is no such job yet.
    """
    claims, request = Claims(store.table), sha256(wanted.model_dump_json().encode()).hexdigest()
    claim = claims.find(key, datetime.now(UTC)) or _claim_new(claims, store, key, request, most_open)
    if claim.request != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key came with another request before; use a new key")
    if claim.stored:
        return _made_before(store, claim)
    # By the first request, or by a repeat of one that died here: the same item either way.
    job = Job(claim.job_id, shown_job_name(wanted.name), claim.at, wanted.keep)
    store.create(job)
    claims.mark_stored(key)
    return job


def _claim_new(claims: Claims, store: JobStore, key: str, request: str, most_open: int) -> Claim:
    refuse_too_many(store, most_open)
    return claims.take(key, Claim(new_id(), request, datetime.now(UTC)))


def _made_before(store: JobStore, claim: Claim) -> Job:
    try:
        return store.job(claim.job_id)
    except NotFoundError as error:
        raise NotFoundError("the job of this Idempotency-Key has been deleted; use a new key") from error


def refuse_too_many(store: JobStore, most_open: int) -> None:
    """Do nothing while fewer than `most_open` jobs may have images without a result.

    Raises:
        TooManyOpenJobsError: when there are as many.
    """
    if store.count_open() >= most_open:
        raise TooManyOpenJobsError(
            f"{most_open} jobs are open, which is the most allowed; try again when some have finished"
        )
