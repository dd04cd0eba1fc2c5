"""Idempotent uploads: the client sends a request with an `Idempotency-Key` until it receives an answer.

The job table stores what a repeated request finds of the first one. `Claims` store which job a client's key has
created, and a `FirstUpload` the images of a repeatable upload.

The first request with a key claims the upload: it stores which objects it has put, before it records any. A repeat
finds that, deletes its own objects, and completes the work of the first request, of which every step may be repeated.
So each file becomes one image, even if answers are lost or web processes die in between. A request with the same key
and other files is rejected, and nothing of it stays. So is one that comes when a sweep has deleted objects of the
first one, after a day.

Nothing of a claimed upload is withdrawn, since a repeat may have accepted it meanwhile: the reconciler sends requests
that the queue did not take, and if the table did not record all images the answer is 503, so that the client repeats.
"""

import json
from collections.abc import Iterable, Iterator
from hashlib import sha256

from werkzeug.exceptions import RequestEntityTooLarge

from core.ids import ImageRef
from core.jobs.lifecycle import no_job
from core.jobs.models import ImageRecord, Job
from core.jobs.sweeps import SweptError
from core.jobs.uploads import MAX_FILES, FirstUpload
from services.errors import FleetsightError, NotFoundError
from services.table import Table
from web_tier.http.quotas import UNLIMITED, QuotaExceededError, QuotaScope
from web_tier.uploads.ingest import ImageIngest, UploadResult, unavailable
from web_tier.uploads.multipart import Upload


class ReusedKeyError(FleetsightError):
    """Raised when an Idempotency-Key is reused with other files, or too late."""


def claim_upload(table: Table, job: Job, key: str, mine: FirstUpload, quota: QuotaScope) -> FirstUpload:
    """Return the first upload with a key: `mine`, which is charged to the `quota`, or an earlier one.

    An upload without an image is not stored.

    Raises:
        NotFoundError: the job has been deleted meanwhile.
        ReusedKeyError: `key` came with other files before.
        QuotaExceededError: `mine` exceeds the `quota`.
    """
    records = list(mine.images.values())
    try:
        with quota.reserve(records) as reservation:
            if records and mine.claim(table, job.job_id, key):
                reservation.commit(records)
                return mine
    except QuotaExceededError:
        if FirstUpload.find(table, job, key) is None:
            raise
    first = FirstUpload.find(table, job, key)
    if first is None and records:
        raise no_job(job.job_id)
    if first is not None and first.digest != mine.digest:
        raise ReusedKeyError("this Idempotency-Key came with other files before; use a new key")
    return first or mine


def ingest_idempotent(
    ingest: ImageIngest,
    job: Job,
    key: str,
    uploads: Iterable[Upload],
    quota: QuotaScope = UNLIMITED,
    so_far: int = 0,
) -> list[UploadResult]:
    """Accept the images of `uploads` into a job, once per `key`; return the result of each file, in order.

    `so_far` is as for `ImageIngest.put_objects`.

    Raises:
        RequestEntityTooLarge: there are more than `MAX_FILES` files.
        ReusedKeyError: `key` came with other files before, or so long ago that they are deleted; nothing is accepted.
        TableBusyError: some images could not be recorded; a repeat continues with them.
        NotFoundError, QuotaExceededError: as for `claim_upload`; nothing is accepted.
    """
    files = list[tuple[str, int, str]]()
    results = ingest.put_objects(job, _recorded(uploads, files), so_far)
    stored = {index: result for index, result in enumerate(results) if isinstance(result, ImageRecord)}
    if stored:
        ingest.check_age(min(record.accepted_at for record in stored.values()))
    mine = FirstUpload(sha256(json.dumps(files).encode()).hexdigest(), stored)
    try:
        first = claim_upload(ingest.store.table, job, key, mine, quota)
    except (NotFoundError, QuotaExceededError, ReusedKeyError):
        ingest.discard(results)
        raise
    accepted = dict[ImageRef, ImageRecord]()
    if first is not mine:
        ingest.discard(results)
        accepted = ingest.store.images_of([record.ref for record in first.images.values()])
        # The process that recorded them may have ended before it enqueued them.
        ingest.enqueue([record for record in accepted.values() if not record.attempt], job.group)
    try:
        ingest.complete([record for record in first.images.values() if record.ref not in accepted], job.group)
    except SweptError as error:
        raise ReusedKeyError(
            "the files that came first with this Idempotency-Key are deleted; use a new key"
        ) from error
    # A file that the first request could not store must be sent with another key.
    others = [unavailable(each.filename) if isinstance(each, ImageRecord) else each for each in results]
    return [first.images.get(index, other) for index, other in enumerate(others)]


def _recorded(uploads: Iterable[Upload], files: list[tuple[str, int, str]]) -> Iterator[Upload]:
    """Yield `uploads`, up to `MAX_FILES`, and add the name, size and SHA-256 of each to `files`."""
    for index, upload in enumerate(uploads):
        if index == MAX_FILES:
            raise RequestEntityTooLarge(
                f"a request with an Idempotency-Key takes at most {MAX_FILES} files, so nothing "
                "was accepted: send the others under other keys"
            )
        files.append((upload.filename, upload.size, sha256(upload.data).hexdigest()))
        yield upload
