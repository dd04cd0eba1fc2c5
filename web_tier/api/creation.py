"""Creating a job: at most so many open ones, and no second one for a request that is repeated under the same key."""

from datetime import UTC, datetime
from hashlib import sha256

from core.config import Config
from core.idempotency import Claim
from core.ids import new_id
from core.jobs.models import Job
from services.errors import NotFoundError
from web_tier.api.models import CreateJob
from web_tier.auth.job_access import UserJobs
from web_tier.problems import IdempotencyKeyReusedError, TooManyOpenJobsError
from web_tier.rate_limits.quotas import QuotaScope
from web_tier.text import clean_job_name


def create_job(jobs: UserJobs, wanted: CreateJob, config: Config, quota: QuotaScope) -> Job:
    """Return a new job among the user's `jobs`.

    Raises:
        TooManyOpenJobsError: as `refuse_too_many`.
        QuotaExceededError: when the `quota` has no new job left today.
    """
    job = Job(new_id(), clean_job_name(wanted.name), datetime.now(UTC), wanted.keep, jobs.owner)
    refuse_too_many(jobs, config)
    quota.charge_job()
    jobs.create(job)
    return job


def create_job_once(jobs: UserJobs, wanted: CreateJob, key: str, config: Config, quota: QuotaScope) -> Job:
    """Return the job that the user's first request with `key` made or makes; this one may be the first.

    Raises:
        IdempotencyKeyReusedError: when that request was another.
        NotFoundError: when its job has been deleted.
        TooManyOpenJobsError, QuotaExceededError: as `create_job`, when there is no such job yet.
    """
    claims, request = jobs.claims, sha256(wanted.model_dump_json().encode()).hexdigest()
    claim = claims.find(key, datetime.now(UTC))
    if claim is None:
        refuse_too_many(jobs, config)
        quota.charge_job()
        claim = claims.acquire(key, Claim(new_id(), request, datetime.now(UTC)))
    if claim.request != request:
        raise IdempotencyKeyReusedError("this Idempotency-Key came with another request before; use a new key")
    if claim.stored:
        return _made_before(jobs, claim)
    # By the first request, or by a repeat of one that died here: the same item either way.
    job = Job(claim.job_id, clean_job_name(wanted.name), claim.at, wanted.keep, jobs.owner)
    jobs.create(job)
    claims.mark_stored(key)
    return job


def _made_before(jobs: UserJobs, claim: Claim) -> Job:
    try:
        return jobs.job(claim.job_id)
    except NotFoundError as error:
        raise NotFoundError("the job of this Idempotency-Key has been deleted; use a new key") from error


def refuse_too_many(jobs: UserJobs, config: Config) -> None:
    """Do nothing while few enough jobs may have images without a result, of all users and of this one.

    Raises:
        TooManyOpenJobsError: when there are `web.max_open_jobs` of all, or `limits.open_jobs` of one who signed in.
    """
    of_all, own = jobs.count_open()
    if of_all >= config.web.max_open_jobs:
        raise TooManyOpenJobsError(
            f"{config.web.max_open_jobs} jobs are open, which is the most allowed; try again when some have finished"
        )
    most = config.limits.open_jobs
    if jobs.owner and most and own >= most:
        raise TooManyOpenJobsError(
            f"{most} of your jobs are open, which is the most that one user may have; "
            "try again when some have finished"
        )
