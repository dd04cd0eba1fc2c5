"""Retries of failed images.

A retry sends the request of a failed image again, once, if the image is still stored. An image that failed because of
its content, such as a truncated file, is not retried: it would fail again. A user's retry charges the quota like an
upload.

Attempts are numbered. A retry raises the attempts in the item of a pack before it sends the request, by a conditional
write, so that of concurrent calls only one sends it; if the queue rejects the request, the retry restores the item.
While the result belongs to an earlier attempt, the image is being retried, and further calls send nothing. If the
request or its response is lost, or this process ends between the two writes, the controller sends the request again.

A failed result stays until the retry has a result.

A retry of failed images of a cancelled job resumes the job (`web_tier/uploads/cancellation.py`).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from core.ids import ImageRef
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import by_pack
from core.jobs.requests import request_images
from core.messages import ClassificationResult
from web_tier.http.quotas import UNLIMITED, QuotaExceededError, QuotaScope
from web_tier.results.query import is_final, is_retrying
from web_tier.uploads.cancellation import resume_job
from web_tier.uploads.ingest import ImageIngest

MAX_RETRIED: Final = 1_000
"""Failed images that one call examines."""

RetriedOutcome = Literal["sent", "refused", "gone", "final", "running", "not_failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retried:
    """The outcome of a retry of some images.

    Attributes:
        sent: number of images that were requested again.
        rejected: number of requests that the queue rejected; calling again may help.
        missing: images that are no longer stored; only a new upload helps.
        final: number of images that failed because of their content, and would fail again.
        running: number of images that are being retried already.
        next_after: where the next call continues, or None if there are no more.
    """

    sent: int = 0
    rejected: int = 0
    missing: tuple[ImageRecord, ...] = ()
    final: int = 0
    running: int = 0
    next_after: str | None = None

    def __add__(self, later: "Retried") -> "Retried":
        """Return both outcomes as one, to be continued after the later one."""
        return Retried(
            self.sent + later.sent,
            self.rejected + later.rejected,
            (*self.missing, *later.missing),
            self.final + later.final,
            self.running + later.running,
            later.next_after,
        )

    @property
    def counts(self) -> dict[RetriedOutcome, int]:
        """The number of images with each outcome."""
        return {
            "sent": self.sent,
            "refused": self.rejected,
            "gone": len(self.missing),
            "final": self.final,
            "running": self.running,
        }

    def of_one(self) -> RetriedOutcome:
        """Return the outcome of a retry of at most one image."""
        return next((outcome for outcome, count in self.counts.items() if count), "not_failed")


_Retry = tuple[ImageRecord, ImageRecord]
"""The record of an image before and after its attempt is raised."""


def retry_failed(
    ingest: ImageIngest,
    job: Job,
    quota: QuotaScope = UNLIMITED,
    *,
    after: str | None = None,
    max_images: int = MAX_RETRIED,
) -> Retried:
    """Request up to `max_images` failed images of a job again, those after the image id `after`; resume the job.

    Raises:
        QuotaExceededError: they exceed the `quota`; nothing is sent.
    """
    results = ingest.store.summaries(job.job_id)
    failed = [id_ for id_, result in results if result.status == "failed" and (after is None or id_ > after)]
    refs = [ImageRef(job.job_id, image_id) for image_id in failed[:max_images]]
    records, responses = ingest.store.images_of(refs), ingest.store.results_of(refs)
    # A record is missing while the job is being deleted.
    found = [(records[ref], responses[ref]) for ref in refs if ref in records and ref in responses]
    retried = retry_images(ingest, job, found, quota)
    if not retried.sent:
        resume_job(ingest, job, quota.caller)  # no image has failed yet, or none is stored
    return replace(retried, next_after=failed[max_images - 1] if len(failed) > max_images else None)


def retry_all_failed(
    ingest: ImageIngest, job: Job, quota: QuotaScope = UNLIMITED, *, may_continue: Callable[[], bool]
) -> Retried:
    """Request the failed images of a job again, as `retry_failed`, in portions while `may_continue` returns True.

    Raises:
        QuotaExceededError: the first portion exceeds the `quota`; nothing is sent. A later one ends the retry.
    """
    whole = retry_failed(ingest, job, quota)
    while whole.next_after is not None and may_continue():
        try:
            whole += retry_failed(ingest, job, quota, after=whole.next_after)
        except QuotaExceededError:
            break
    return whole


def retry_image(
    ingest: ImageIngest,
    job: Job,
    record: ImageRecord,
    result: ClassificationResult | None,
    quota: QuotaScope = UNLIMITED,
) -> Retried:
    """Request one image of a job again if it failed.

    Raises:
        QuotaExceededError: the `quota` is used up.
    """
    return retry_images(ingest, job, [] if result is None else [(record, result)], quota)


def retry_images(
    ingest: ImageIngest,
    job: Job,
    found: Iterable[tuple[ImageRecord, ClassificationResult]],
    quota: QuotaScope = UNLIMITED,
) -> Retried:
    """Request those images of a job again that failed, each given with its result, for the model that it has now.

    Raises:
        QuotaExceededError: they exceed the `quota`; nothing is sent.
        NotFoundError: the job is being deleted.
    """
    at, retries, final, running = ingest.clock.utc_now(), dict[ImageRef, _Retry](), 0, 0
    for record, result in found:
        if result.status != "failed":
            continue
        if is_final(result):
            final += 1
        elif is_retrying(record, result):
            running += 1
        else:
            attempt = max(record.attempt, result.attempt) + 1
            model = job.requested_model or record.model
            retries[record.ref] = record, replace(record, attempt=attempt, retried_at=at, model=model)
    packs = by_pack(before for before, _ in retries.values())
    exists = list(ingest.pool.map(ingest.bucket.has_original, [image for image, *_ in packs]))
    stored = [pack for pack, is_stored in zip(packs, exists, strict=True) if is_stored]
    missing = tuple(image for pack, is_stored in zip(packs, exists, strict=True) if not is_stored for image in pack)
    with quota.reserve([image for pack in stored for image in pack]) as reservation:
        if stored:
            # Before the requests: workers classify no image of a cancelled job.
            resume_job(ingest, job, quota.caller)
            # Before the records, so that the controller watches the claimed images, and the job does not expire.
            OpenJobs(ingest.store.table).reopen(job.job_id, at)
        changes = [[retries[image.ref] for image in pack] for pack in stored]
        claimed = [
            retries[after.ref] for some in ingest.pool.map(ingest.store.replace_images, changes) for after in some
        ]
        sent = reservation.commit(_send(ingest, job, claimed, at))
    running += sum(map(len, stored)) - len(claimed)
    return Retried(len(sent), len(claimed) - len(sent), missing, final, running)


def _send(ingest: ImageIngest, job: Job, retries: Sequence[_Retry], at: datetime) -> list[ImageRecord]:
    """Send the requests of images with a raised attempt; return those that were sent, and restore the others.

    If the call fails, the requests may have been sent: their attempts stay.
    """
    if not retries:
        return []
    sent = [after for _, after in retries]
    try:
        rejected = request_images(ingest.queue, sent, at, job.group)
        refused, before = {image.ref for image in rejected}, {after.ref: before for before, after in retries}
        sent = [image for image in sent if image.ref not in refused]
        unsent = [[(image, before[image.ref]) for image in pack] for pack in by_pack(rejected)]
        list(ingest.pool.map(ingest.store.replace_images, unsent))
    finally:
        ingest.store.put_retried(job.job_id, at, sent)
    ingest.metrics.retried.inc(len(sent))
    _log.info("failed images were requested again", extra={"job_id": job.job_id, "n": len(sent)})
    return sent
