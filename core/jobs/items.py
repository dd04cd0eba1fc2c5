"""Items of jobs in the job table: their keys and attributes; `core/jobs/store.py` lists them."""

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, fields
from datetime import datetime
from functools import lru_cache
from typing import cast
from zlib import compress, decompress

from core.jobs.models import (
    MAX_RUNS,
    Counts,
    DeletedJob,
    Job,
    ListingState,
    MergedFile,
    MinScores,
    ResultsCopy,
    ShardPosition,
    Share,
    SourceListing,
    TrueLabel,
    TruthSource,
)
from core.messages import RequestedModel
from core.model_catalog import JobModel
from services.table import EXPIRES_AT, Item

FORMAT = 2
"""Format of a job with its items and objects; jobs of 0.3.0 and earlier state none."""

JOBS, OWNED, OPEN, DELETED, SINGLE = "JOBS", "OWNED#", "OPEN", "DELETED", "SINGLE"
ACCEPTED, CANCELLED, COUNTED, MERGED, RETRIED = "ACCEPTED", "CANCELLED", "COUNTED", "MERGED", "RETRIED"
LISTING, COPIED, RESUMED = "SOURCE", "TARGET", "UNLIMITED"

LISTINGS = "LISTINGS"
"""Partition of the jobs with a source that may not be listed yet."""

SWEEPS = "SWEEPS"
"""Partition of the jobs of which objects may stay without an item."""

COUNTED_FIGURES = ("done", "failed", "cancelled", "system_retried", "resends", "answered_packs", "answered_retries")
"""Attributes of `COUNTED` that are sums over results and resends, as in `Counts`."""

RUN = "run_"
"""Begins an attribute of `COUNTED`, before the number of a billing period: the results of workers in it."""

PACK, RESULT, TRUTH = "PACK#", "RESULT#", "TRUTH#"

EXPIRING = "expiring"
"""Attribute of a mark in `DELETED`: the controller still checks whether images are being added to the job."""

MARKED_AGAIN = "marked_again"
"""Attribute of a mark in `DELETED`: something may have been written after the job was removed."""

REVIEWED = "reviewed"
"""Attribute of a job: images of it may have true labels."""

SHARES = "shares"
"""Attribute of a job: who else may read it, as JSON; in the item of `JOBS` only, which every read of a job reads."""

MAX_FAILED = "max_failed_percent"
"""Attribute of a job, as text: a limit of its failures."""

MIN_SCORES = "min_scores"
"""Attribute of a job, `min_scores_as_text`; absent where they have always been the usual ones."""

ONLY = "only"
"""Attribute of a job and of a pack: the labels that can occur, `core/label_sets.py`; absent for all."""

FINISH_BY = "finish_by"
"""Attribute of a job: when it may be finished at the latest."""


def stated(attributes: Mapping[str, str | int | datetime | None]) -> Item:
    """Return those of `attributes` that an item has: it leaves out zeros, empty texts and what is not known."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in attributes.items()
        if value
    }


def deflated(text: str) -> str:
    """Return a text for an attribute with fewer bytes: deflated, in Base64."""
    return b64encode(compress(text.encode())).decode()


def inflated(text: str) -> str:
    """Return the text of `deflated`."""
    return decompress(b64decode(text)).decode()


def partition(job_id: str) -> str:
    """Return the partition of a job's images, results and keys of uploads."""
    return f"JOB#{job_id}"


def counts_partition(job_id: str) -> str:
    """Return the partition of a job's counts: separate from the images, so that every page reads a few items only."""
    return f"COUNTS#{job_id}"


def jobs_partition(owner: str) -> str:
    """Return the partition that lists the jobs of a user, or all jobs without sign-in."""
    return f"{OWNED}{owner}" if owner else JOBS


def open_item(job_id: str, touched_at: datetime) -> Item:
    """Return the item of an open job."""
    return {"pk": OPEN, "sk": job_id, "touched_at": touched_at.isoformat()}


def job_item(job: Job) -> Item:
    """Return the item of a job."""
    min_scores = "" if job.min_scores == MinScores() else min_scores_as_text(job.min_scores)
    return {
        "pk": JOBS,
        "sk": job.job_id,
        "format": FORMAT,
        "name": job.name,
        "created_at": job.created_at.isoformat(),
        "keep": int(job.keep),
        **stated({"single": int(job.is_single), REVIEWED: int(job.is_reviewed), "owner": job.owner}),
        **stated({"source": job.source, "source_pattern": job.source_pattern, "results": job.results}),
        **stated({MAX_FAILED: str(job.max_failed_percent or ""), MIN_SCORES: min_scores, FINISH_BY: job.finish_by}),
        **job_model_attributes(job.model),
    }


def job_model_attributes(model: JobModel | None) -> Item:
    """Return the attributes for the model of a job, if it has one."""
    if model is None:
        return {}
    return stated({"model": model.name, "digest": model.digest, "place": model.place, ONLY: model.only})


def job_model_in(item: Item) -> JobModel | None:
    """Return the model of `job_model_attributes`, or None."""
    if "model" not in item:
        return None
    return JobModel(str(item["model"]), str(item["digest"]), str(item["place"]), _only_in(item))


def requested_model_attributes(model: RequestedModel | None) -> Item:
    """Return the attributes for the model of a pack, if it has one."""
    return {} if model is None else stated({"model": f"{model.digest} {model.place}", ONLY: model.only})


def requested_model_in(item: Item) -> RequestedModel | None:
    """Return the model of `requested_model_attributes`, or None."""
    return _requested_model(str(item["model"]), _only_in(item)) if "model" in item else None


@lru_cache(maxsize=64)
def _requested_model(text: str, only: str | None) -> RequestedModel:
    """Return the model of these attributes; the packs of a job share it."""
    digest, _, place = text.partition(" ")
    return RequestedModel(digest=digest, place=place, only=only)


def _only_in(item: Item) -> str | None:
    return str(item[ONLY]) if ONLY in item else None


def single_job_item(job: Job, until: datetime) -> Item:
    """Return the item with the current job for the single images of a user."""
    where = {"pk": SINGLE, "sk": jobs_partition(job.owner), "job_id": job.job_id}
    return {**job_item(job), **where, EXPIRES_AT: int(until.timestamp())}


def single_job_of(item: Item) -> Job:
    """Return the job of an item of `SINGLE`."""
    return job_of({**item, "sk": item["job_id"]})


def job_of(item: Item) -> Job:
    """Return the job of an item."""
    return Job(
        job_id=str(item["sk"]),
        name=str(item["name"]),
        created_at=datetime.fromisoformat(str(item["created_at"])),
        keep=bool(item.get("keep", 0)),
        owner=str(item.get("owner", "")),
        is_single="single" in item,
        is_reviewed=REVIEWED in item,
        source=str(item.get("source", "")),
        source_pattern=str(item.get("source_pattern", "")),
        results=str(item.get("results", "")),
        model=job_model_in(item),
        shares=shares_in(item),
        max_failed_percent=float(item[MAX_FAILED]) if MAX_FAILED in item else None,
        finish_by=moment_in(item, FINISH_BY),
        min_scores=MinScores(**json.loads(str(item.get(MIN_SCORES, "{}")))),
    )


def min_scores_as_text(scores: MinScores) -> str:
    """Return the scores below which labels are unsure as one attribute."""
    return json.dumps(asdict(scores), sort_keys=True)


def shares_as_text(shares: Sequence[Share]) -> str:
    """Return the shares of a job as one attribute; empty without any."""
    return json.dumps([asdict(share) for share in shares]) if shares else ""


def shares_in(item: Item) -> tuple[Share, ...]:
    """Return the shares of `shares_as_text` in an item, without what a later release has added to them."""
    if not item.get(SHARES):
        return ()
    found, names = json.loads(str(item[SHARES])), {each.name for each in fields(Share)}
    return tuple(Share(**{name: each[name] for name in names & each.keys()}) for each in found)


def shared_partition(email: str) -> str:
    """Return the partition that lists the jobs which are shared with an address."""
    return f"SHARED#{email}"


def deleted_item(job: Job) -> Item:
    """Return the mark of a deleted job."""
    attributes = stated({"owner": job.owner, SHARES: shares_as_text(job.shares)})
    return {"pk": DELETED, "sk": job.job_id, **attributes}


def deleted_of(item: Item) -> DeletedJob:
    """Return the deleted job of a mark."""
    owner, marked_again = str(item.get("owner", "")), str(item.get(MARKED_AGAIN, ""))
    return DeletedJob(str(item["sk"]), owner, marked_again, shares_in(item))


def keys_of_job(job: Job | DeletedJob) -> list[tuple[str, str]]:
    """Return the keys of the items that make a job exist, for its owner, its readers and the controller."""
    shared = (shared_partition(share.email) for share in job.shares if share.email)
    return [
        (key, job.job_id) for key in dict.fromkeys((JOBS, OPEN, LISTINGS, SWEEPS, jobs_partition(job.owner), *shared))
    ]


def truth_item(job_id: str, image_id: str, truth: TrueLabel) -> Item:
    """Return the item of an image's true label."""
    return {
        "pk": partition(job_id),
        "sk": f"{TRUTH}{image_id}",
        "label": truth.label,
        "set_at": truth.set_at.isoformat(),
        "source": truth.source,
    }


def truth_of(item: Item) -> TrueLabel:
    """Return the true label of an item."""
    source = cast(TruthSource, str(item["source"]))
    return TrueLabel(str(item["label"]), datetime.fromisoformat(str(item["set_at"])), source)


def counts_of(accepted: Item | None, counted: Item | None, retried: Item | None) -> Counts:
    """Return the counts of the items `ACCEPTED`, `COUNTED` and `RETRIED`, as far as these exist."""
    first, item, again = accepted or {}, counted or {}, retried or {}
    runs = sorted((int(name.removeprefix(RUN)), int(item[name])) for name in item if name.startswith(RUN))
    figures = {name: int(item.get(name, 0)) for name in COUNTED_FIGURES}
    return Counts(
        **figures,
        revision=int(item.get("revision", 0)),
        images=int(first.get("images", 0)),
        acceptances=int(first.get("acceptances", 0)),
        presigned=int(first.get("presigned", 0)),
        packs=int(first.get("packs", 0)) + int(again.get("packs", 0)),
        retries=int(again.get("images", 0)),
        first_result_at=moment_in(item, "first_at"),
        last_result_at=moment_in(item, "last_at"),
        runs=tuple(runs[-MAX_RUNS:]),
    )


def merged_of(item: Item) -> MergedFile:
    """Return the file with all results of a job from its item."""
    return MergedFile(str(item["key"]), str(item["edition"]), datetime.fromisoformat(str(item["at"])))


def copy_of(item: Item) -> ResultsCopy:
    """Return the copy of a results file from its item."""
    return ResultsCopy(str(item["version"]), str(item["error"]))


def listing_item(job_id: str, listing: SourceListing) -> Item:
    """Return the item of a source's listing."""
    return {
        "pk": counts_partition(job_id),
        "sk": LISTING,
        "state": listing.state,
        "listed": listing.listed,
        "accepted": listing.accepted,
        "skipped": json.dumps(dict(listing.skipped)),
        "after": listing.after,
        "error": listing.error,
        **stated(
            {
                "shard": json.dumps(astuple(listing.shard)) if listing.shard else None,
                "paused_until": listing.paused_until,
            }
        ),
    }


def listing_of(item: Item) -> SourceListing:
    """Return the listing of an item."""
    return SourceListing(
        state=cast(ListingState, str(item["state"])),
        listed=int(item["listed"]),
        accepted=int(item["accepted"]),
        skipped=json.loads(str(item["skipped"])),
        after=str(item["after"]),
        shard=ShardPosition(*json.loads(str(item["shard"]))) if "shard" in item else None,
        error=str(item["error"]),
        paused_until=moment_in(item, "paused_until"),
    )


def moment_in(item: Item, name: str) -> datetime | None:
    """Return the time in the attribute `name`, or None if it is missing."""
    return None if name not in item else datetime.fromisoformat(str(item[name]))
