"""Retries: requests for failed images are sent again, once each, as long as the image is still stored.

An image that failed because of what it is, such as a truncated file, is not retried: it would fail again. A retry
costs its user as much of the day's quota as an upload does.

Attempts are numbered. A retry raises the attempt in the image's record before it sends the request, by a conditional
write, so that of many calls at once only one sends it; if the queue refuses the request, it takes that back. While
the result is of an earlier attempt, the image is being retried, and further calls send nothing. If the request or its
response is lost, or this process ends between the two writes, the controller sends the request again.

A failed result stays until there is a result of the retry.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

from core.ids import ImageRef
from core.job_records import ImageRecord, Job
from core.messages import RequestMessage, Response
from services.sqs import OutgoingMessage
from web_tier.intake.store import ImageIngest
from web_tier.limits.allowance import UNLIMITED, Allowance
from web_tier.results.query import is_final, is_retrying

MAX_RETRIED: Final = 1_000
"""Failed images that one call looks at."""

RetriedOutcome = Literal["sent", "refused", "gone", "final", "running", "not_failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of some failed images.

    Attributes:
        sent: how many were requested again.
        refused: how many the queue did not take; calling again may help.
        gone: those with an image that is no longer stored, so that only a new upload helps.
        final: how many failed because of what they are, so that they would fail again.
        running: how many are being retried already.
        next_after: the image id to go on behind when there are more failed images; None when these were all.
    """

    sent: int = 0
    refused: int = 0
    gone: tuple[ImageRecord, ...] = ()
    final: int = 0
    running: int = 0
    next_after: str | None = None

    def of_one(self) -> RetriedOutcome:
        """Return what became of the image, if there was one at most."""
        counts: dict[RetriedOutcome, int] = {
            "sent": self.sent,
            "refused": self.refused,
            "gone": len(self.gone),
            "final": self.final,
            "running": self.running,
        }
        return next((outcome for outcome, count in counts.items() if count), "not_failed")


@dataclass(frozen=True, slots=True)
class _Retry:
    """The record of an image before and after its attempt is raised."""

    before: ImageRecord
    after: ImageRecord


def retry_failed(
    intake: ImageIngest,
    job: Job,
    allowance: Allowance = UNLIMITED,
    *,
    after: str | None = None,
    most: int = MAX_RETRIED,
) -> Retried:
    """Request up to `most` failed images of a job again, those beyond the image id `after`.

    Raises:
        QuotaExceededError: when they are more than the `allowance`; nothing is sent then.
    """
    statuses = intake.store.statuses(job.job_id)
    failed = sorted(id_ for id_, status in statuses.items() if status == "failed" and (after is None or id_ > after))
    refs = [ImageRef(job.job_id, image_id) for image_id in failed[:most]]
    records, results = intake.store.images_of(refs), intake.store.results_of(refs)
    # A record is missing while the job is being deleted.
    found = [(records[ref], results[ref]) for ref in refs if ref in records and ref in results]
    retried = retry_images(intake, job.job_id, found, allowance)
    return replace(retried, next_after=failed[most - 1] if len(failed) > most else None)


def retry_image(
    intake: ImageIngest, record: ImageRecord, result: Response | None, allowance: Allowance = UNLIMITED
) -> Retried:
    """Request one image again if it failed.

    Raises:
        QuotaExceededError: when the `allowance` is used up.
    """
    return retry_images(intake, record.ref.job_id, [] if result is None else [(record, result)], allowance)


def retry_images(
    intake: ImageIngest,
    job_id: str,
    found: Iterable[tuple[ImageRecord, Response]],
    allowance: Allowance = UNLIMITED,
) -> Retried:
    """Request those images of a job again that failed, each given with its result.

    Raises:
        QuotaExceededError: when they are more than the `allowance`; nothing is sent then.
        NotFoundError: when the job is being deleted.
    """
    at, wanted, final, running = intake.clock(), list[_Retry](), 0, 0
    for record, result in found:
        if result.status != "failed":
            continue
        if is_final(result):
            final += 1
        elif is_retrying(record, result):
            running += 1
        else:
            attempt = max(record.attempt, result.attempt) + 1
            wanted.append(_Retry(record, replace(record, attempt=attempt, retried_at=at)))
    stored = list(intake.pool.map(intake.bucket.exists, [retry.before.key for retry in wanted]))
    there = [retry for retry, is_there in zip(wanted, stored, strict=True) if is_there]
    gone = tuple(retry.before for retry, is_there in zip(wanted, stored, strict=True) if not is_there)
    with allowance.charged([retry.before for retry in there]) as receipt:
        if there:
            # First, so that the controller looks after what is claimed, and the job does not expire meanwhile.
            intake.store.reopen(job_id, at)
        claims = list(intake.pool.map(lambda retry: intake.store.replace_image(retry.before, retry.after), there))
        claimed = [retry for retry, is_ours in zip(there, claims, strict=True) if is_ours]
        sent = receipt.keep(_send(intake, job_id, claimed, at))
    running += len(there) - len(claimed)
    return Retried(len(sent), len(claimed) - len(sent), gone, final, running)


def _send(intake: ImageIngest, job_id: str, retries: Sequence[_Retry], at: datetime) -> list[ImageRecord]:
    """Send requests for images after their attempt was raised; return those that were sent, and restore the others.

    If the call fails, the requests may have been sent: their attempts stay.
    """
    if not retries:
        return []
    try:
        refused = {message.id for message in intake.queue.send([_request(retry.after, at) for retry in retries])}
        left = [retry for retry in retries if retry.after.ref.image_id in refused]
        list(intake.pool.map(lambda retry: intake.store.replace_image(retry.after, retry.before), left))
    finally:
        intake.store.note_retried(job_id, at)
    sent = [retry.after for retry in retries if retry.after.ref.image_id not in refused]
    _log.info("failed images were requested again", extra={"job_id": job_id, "n": len(sent)})
    return sent


def _request(record: ImageRecord, at: datetime) -> OutgoingMessage:
    request = RequestMessage.about(record.ref, record.key, at, record.attempt)
    return OutgoingMessage(record.ref.image_id, request.to_json())
