"""Failed images once more: their requests are sent again, as long as the image is still stored.

Images are noted as requested again once they are, with the time from before: so what the queue refused is not said to
be tried again, and a result that comes at once is newer all the same.

A failed result stays until a better one comes, since `done` beats `failed`; so nothing is lost by asking twice, by
asking for an image that will fail again, or by dying in between.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from services.errors import NotFoundError
from services.ids import ImageRef, new_id
from services.job_records import ImageRecord, Job
from services.jobs import JobStore
from services.messages import RequestMessage, Response
from services.sqs import Outgoing
from web_tier.intake.store import Intake

MOST_RETRIED = 1_000
"""Failed images that one call sends again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of some failed images.

    Attributes:
        sent: how many were requested again.
        refused: how many the queue did not take; asking again may help.
        gone: those whose image is no longer stored, so that only a new upload helps.
        next_after: the image id to go on behind when there are more failed images; None when these were all.
    """

    sent: int
    refused: int
    gone: tuple[ImageRecord, ...]
    next_after: str | None


def retry_failed(intake: Intake, job: Job, *, after: str | None = None, most: int = MOST_RETRIED) -> Retried:
    """Request up to `most` failed images of a job again, those beyond the image id `after`."""
    failed = _failed_ids(intake.store, job.job_id, after)
    records = _records(intake.store, job.job_id, failed[:most], intake.pool)
    return _request_again(intake, records, next_after=failed[most - 1] if len(failed) > most else None)


def retry_image(intake: Intake, record: ImageRecord, result: Response | None) -> Retried:
    """Request one image again if its result is that it has failed; of one that has not nothing is sent."""
    return _request_again(intake, [record] if result is not None and result.status == "failed" else [])


def _request_again(intake: Intake, records: Sequence[ImageRecord], next_after: str | None = None) -> Retried:
    """Send the requests of these images of one job again, as far as they are stored."""
    stored = list(intake.pool.map(intake.bucket.exists, [record.key for record in records]))
    there = [record for record, is_there in zip(records, stored, strict=True) if is_there]
    gone = tuple(record for record, is_there in zip(records, stored, strict=True) if not is_there)
    sent = _send(intake, there)
    return Retried(len(sent), len(there) - len(sent), gone, next_after)


def _send(intake: Intake, records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Send requests and note it; return the images whose requests were taken."""
    if not records:
        return []
    job_id, at = records[0].ref.job_id, intake.clock()
    intake.store.reopen(job_id, at)  # so that the controller looks at it again, and merges its results anew
    messages = [_request(record, at) for record in records]
    refused = set(intake.queue.send(messages))
    sent = [record for record, message in zip(records, messages, strict=True) if message not in refused]
    intake.store.note_retried(sent, at)
    _log.info("failed images were requested again", extra={"job_id": job_id, "n": len(sent)})
    return sent


def _failed_ids(store: JobStore, job_id: str, after: str | None) -> list[str]:
    failed = [image_id for image_id, status in store.statuses(job_id).items() if status == "failed"]
    return sorted(image_id for image_id in failed if after is None or image_id > after)


def _records(
    store: JobStore, job_id: str, image_ids: Sequence[str], readers: ThreadPoolExecutor
) -> list[ImageRecord]:
    found = readers.map(lambda image_id: _record(store, ImageRef(job_id, image_id)), image_ids)
    return [record for record in found if record is not None]


def _record(store: JobStore, ref: ImageRef) -> ImageRecord | None:
    try:
        return store.image(ref)
    except NotFoundError:  # the job is being deleted
        return None


def _request(record: ImageRecord, at: datetime) -> Outgoing:
    request = RequestMessage.about(record.ref, record.key, at)
    # An id of its own: by the image's, a FIFO queue would take it for a repeat of the first request and drop it.
    return Outgoing(new_id(), request.to_json())
