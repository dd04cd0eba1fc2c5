"""Retries: requests for failed images are sent again, once each, as long as the image is still stored.

An image that failed because of what it is, such as a truncated file, is not retried: it would fail again. A retry
costs its user as much of the day's quota as an upload does.

The image's record is marked before its request is sent, by a conditional write, so that of many calls at once only
one sends it. The mark is taken back if the queue refuses the request. While it stands, and the result is older, the
image is being retried, and further calls send nothing. The request may be lost, or this process may end between mark
and send, so the image can be retried once more after `RETRY_AGAIN`.

A failed result stays until a better one comes, since `done` beats `failed`.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from services.ids import ImageRef, new_id
from services.job_records import ImageRecord, Job
from services.messages import RequestMessage, Response
from services.sqs import Outgoing
from web_tier.intake.store import Intake
from web_tier.limits.allowance import UNLIMITED, Allowance
from web_tier.results.query import is_final, is_retrying

MAX_RETRIED: Final = 1_000
"""Failed images that one call looks at."""

RETRY_AGAIN: Final = timedelta(minutes=15)
"""How long an image that is being retried is not requested once more."""

RetriedOutcome = Literal["sent", "refused", "gone", "final", "running", "not_failed"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of some failed images.

    Attributes:
        sent: how many were requested again.
        refused: how many the queue did not take; calling again may help.
        gone: those whose image is no longer stored, so that only a new upload helps.
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


def retry_failed(
    intake: Intake, job: Job, allowance: Allowance = UNLIMITED, *, after: str | None = None, most: int = MAX_RETRIED
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
    return _retry(intake, job.job_id, found, allowance, next_after=failed[most - 1] if len(failed) > most else None)


def retry_image(
    intake: Intake, record: ImageRecord, result: Response | None, allowance: Allowance = UNLIMITED
) -> Retried:
    """Request one image again if it failed.

    Raises:
        QuotaExceededError: when the `allowance` is used up.
    """
    return _retry(intake, record.ref.job_id, [] if result is None else [(record, result)], allowance)


def _retry(
    intake: Intake,
    job_id: str,
    found: Iterable[tuple[ImageRecord, Response]],
    allowance: Allowance,
    next_after: str | None = None,
) -> Retried:
    at, wanted, final, running = intake.clock(), [], 0, 0
    for record, result in found:
        if result.status != "failed":
            continue
        if is_final(result):
            final += 1
        elif _is_running(record, result, at):
            running += 1
        else:
            wanted.append(record)
    stored = list(intake.pool.map(intake.bucket.exists, [record.key for record in wanted]))
    there = [record for record, is_there in zip(wanted, stored, strict=True) if is_there]
    gone = tuple(record for record, is_there in zip(wanted, stored, strict=True) if not is_there)
    with allowance.charged(there) as receipt:
        claims = list(intake.pool.map(lambda record: intake.store.claim_retry(record, at), there))
        claimed = [record for record, is_ours in zip(there, claims, strict=True) if is_ours]
        sent = receipt.keep(_send(intake, job_id, claimed, at))
    running += len(there) - len(claimed)
    return Retried(len(sent), len(claimed) - len(sent), gone, final, running, next_after)


def _is_running(record: ImageRecord, result: Response, now: datetime) -> bool:
    is_recent = record.retried_at is not None and now < record.retried_at + RETRY_AGAIN
    return is_recent and is_retrying(record, result)


def _send(intake: Intake, job_id: str, records: Sequence[ImageRecord], at: datetime) -> list[ImageRecord]:
    """Send requests for images that are marked; return those that the queue took, and unmark the others.

    If the call fails, the requests may have been sent: their marks stay.
    """
    if not records:
        return []
    intake.store.reopen(job_id, at)  # so that the controller looks at it again, and merges its results anew
    messages = [_request(record, at) for record in records]
    refused = set(intake.queue.send(messages))
    outcomes = list(zip(records, messages, strict=True))
    sent = [record for record, message in outcomes if message not in refused]
    left = [record for record, message in outcomes if message in refused]
    list(intake.pool.map(lambda record: intake.store.release_retry(record, at), left))
    if sent:
        intake.store.note_retried(job_id, at)
    _log.info("failed images were requested again", extra={"job_id": job_id, "n": len(sent)})
    return sent


def _request(record: ImageRecord, at: datetime) -> Outgoing:
    request = RequestMessage.about(record.ref, record.key, at)
    # An id of its own: by the image's, a FIFO queue would take it for a repeat of the first request and drop it.
    return Outgoing(new_id(), request.to_json())
