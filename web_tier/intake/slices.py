"""Uploads that may be repeated: the client names one with an `Idempotency-Key`, and sends it until it is answered.

The first request with a key claims the slice: it writes down which objects it has put, before it records any. A
repeat finds that claim, deletes what it has put itself, and finishes the first one's work, of which every step may be
done twice. So each file becomes one image, even if answers are lost or web processes die in between. A request
with the same key and other files is refused, and nothing of it stays.

Nothing of a claimed slice is taken back, since a repeat may have accepted it meanwhile: what the queue did not take
is sent by the reconciler, and what the table did not record is answered with 503, so that the client repeats.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256

from werkzeug.exceptions import RequestEntityTooLarge

from core.job_records import ImageRecord, Job
from core.jobs import JobStore
from core.slices import MAX_FILES, ReusedKeyError, Slice, SlicedImages, UploadManifests
from web_tier.intake.multipart import Upload
from web_tier.intake.store import CachedImage, ImageIngest, Outcome, unavailable
from web_tier.limits.allowance import UNLIMITED, Allowance
from web_tier.limits.quotas import QuotaExceededError


def take_once(
    intake: ImageIngest, job: Job, key: str, uploads: Iterable[Upload], allowance: Allowance = UNLIMITED
) -> list[Outcome]:
    """Take `uploads` into a job that exists, unless `key` was taken before; return what became of each, in order.

    Raises:
        RequestEntityTooLarge: when there are more than `MAX_FILES`.
        ReusedKeyError: when `key` came with other files before; nothing is accepted.
        TableBusyError: when not all could be recorded; a repeat goes on with them.
        QuotaExceededError: when they are more than the `allowance`, which a repeat is not held to.
    """
    slices, files = UploadManifests(intake.store.table), list[tuple[str, int, str]]()
    outcomes = intake.put(job, _noted(uploads, files))
    digest = sha256(json.dumps(files).encode()).hexdigest()
    put = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, ImageRecord)}
    if put:
        try:
            with intake.charged(outcomes, allowance) as receipt:
                if slices.claim(job.job_id, key, put, digest):
                    receipt.keep(outcomes)
                    intake.finish(list(put.values()), count=True)
                    return outcomes
        except QuotaExceededError:
            if slices.find(job.job_id, key) is None:
                raise
        intake.discard(outcomes)
    # There is none where no file is an image, or where the job has been deleted since.
    first = slices.find(job.job_id, key) or Slice({}, digest)
    if first.digest not in {"", digest}:
        raise ReusedKeyError(f"the key {key!r} came with other files before")
    images = _answerable(intake.store, first.images, outcomes)
    accepted = intake.store.images_of([record.ref for record in images.values()])
    if accepted:
        # A process that recorded them may have ended before the job was marked as open.
        intake.store.reopen(job.job_id, intake.clock())
        # It may have ended before it sent their requests, too.
        intake.request([record for record in accepted.values() if not record.attempt])
    # Not counted: the first request may just be doing that. The controller counts what is recorded. And images that
    # are recorded may have been retried since: their records stay as they are.
    intake.finish([record for record in images.values() if record.ref not in accepted], count=False)
    return [_of_first(images, index, outcome) for index, outcome in enumerate(outcomes)]


def _answerable(store: JobStore, first: SlicedImages, outcomes: Sequence[Outcome]) -> SlicedImages:
    """Return the images of the first request, repeated ones with their result as this request has found it.

    Left out is one that the first request did not come to answer, and that has an earlier result which has expired
    since: it was never accepted, and has no object that a worker could classify.
    """
    repeated_ones = [record.ref for record in first.values() if record.cached]
    answered = store.results_of(repeated_ones) if repeated_ones else {}
    found: dict[int, ImageRecord] = {}
    for index, record in first.items():
        outcome = outcomes[index] if index < len(outcomes) else None
        if not record.cached or record.ref in answered:
            found[index] = record
        elif isinstance(outcome, CachedImage):
            found[index] = outcome.instead_of(record)
    return found


def _of_first(first: SlicedImages, index: int, outcome: Outcome) -> Outcome:
    """Return what became of a file in the first request; one that it could not store must come with another key."""
    if index in first:
        return first[index]
    return unavailable(outcome.filename) if isinstance(outcome, ImageRecord) else outcome


def _noted(uploads: Iterable[Upload], files: list[tuple[str, int, str]]) -> Iterator[Upload]:
    """Yield `uploads`, up to `MAX_FILES`, and add name, size and SHA-256 of each to `files`."""
    for index, upload in enumerate(uploads):
        if index == MAX_FILES:
            raise RequestEntityTooLarge(
                f"a request with an Idempotency-Key takes at most {MAX_FILES} files, so nothing "
                "was accepted: send the others under other keys"
            )
        files.append((upload.filename, upload.size, sha256(upload.data).hexdigest()))
        yield upload
