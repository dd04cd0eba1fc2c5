"""Failed images once more: their requests are sent again, as long as the image is still stored.

A failed result stays until a better one comes, since `done` beats `failed`; so nothing is lost by asking twice, by
asking for an image that will fail again, or by dying in between.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from services.errors import NotFoundError
from services.ids import ImageRef, new_id
from services.jobs import ImageRecord, JobStore
from services.messages import RequestMessage
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


def retry_failed(intake: Intake, job_id: str, *, after: str | None = None, most: int = MOST_RETRIED) -> Retried:
    """Request up to `most` failed images of a job again, those beyond the image id `after`."""
    failed = _failed_ids(intake.store, job_id, after)
    records = _records(intake.store, job_id, failed[:most], intake.pool)
    stored = list(intake.pool.map(intake.bucket.exists, [record.key for record in records]))
    there = [record for record, is_there in zip(records, stored, strict=True) if is_there]
    gone = tuple(record for record, is_there in zip(records, stored, strict=True) if not is_there)
    refused = intake.queue.send([_request(intake, record) for record in there])
    _log.info("failed images were requested again", extra={"job_id": job_id, "n": len(there) - len(refused)})
    return Retried(len(there) - len(refused), len(refused), gone, failed[most - 1] if len(failed) > most else None)


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


def _request(intake: Intake, record: ImageRecord) -> Outgoing:
    request = RequestMessage.about(record.ref, record.key, intake.clock())
    # An id of its own: by the image's, a FIFO queue would take it for a repeat of the first request and drop it.
    return Outgoing(new_id(), request.to_json())
