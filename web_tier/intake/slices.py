"""Uploads that may be repeated: the client names one with an `Idempotency-Key`, and sends it until it is answered.

The first request with a key claims the slice: it writes down which objects it has put, before it records any. A
repeat finds that claim, deletes what it has put itself, and finishes the first one's work, of which every step may be
done twice. So however often an answer is lost, and whoever dies in between, each file becomes one image.

Nothing of a claimed slice is taken back, since a repeat may have accepted it meanwhile: what the queue did not take
is sent by the reconciler, and what the table did not record is answered with 503, so that the client repeats.
"""

from collections.abc import Iterable, Iterator, Sequence

from werkzeug.exceptions import RequestEntityTooLarge

from services.job_records import ImageRecord, Job
from services.jobs import JobStore
from services.slices import MOST_FILES, SlicedImages, Slices
from web_tier.intake.multipart import Upload
from web_tier.intake.store import Intake, Outcome, RepeatedImage, unavailable
from web_tier.limits.allowance import UNLIMITED, Allowance
from web_tier.limits.quotas import QuotaExceededError


def take_once(
    intake: Intake, job: Job, key: str, uploads: Iterable[Upload], allowance: Allowance = UNLIMITED
) -> list[Outcome]:
    """Take `uploads` into a job that exists, unless `key` was taken before; return what became of each, in order.

    Raises:
        RequestEntityTooLarge: when there are more than `MOST_FILES`.
        TableBusyError: when not all could be recorded; a repeat goes on with them.
        QuotaExceededError: when they are more than the `allowance`, which a repeat is not held to.
    """
    slices = Slices(intake.store.table)
    outcomes = intake.put(job, _bounded(uploads))
    put = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, ImageRecord)}
    if not put:
        return outcomes
    try:
        with intake.charged(outcomes, allowance) as receipt:
            if slices.claim(job.job_id, key, put):
                receipt.keep(outcomes)
                intake.finish(list(put.values()), count=True)
                return outcomes
    except QuotaExceededError:
        if not slices.images(job.job_id, key):
            raise
    intake.discard(outcomes)
    first = _answerable(intake.store, slices.images(job.job_id, key), outcomes)
    # Not counted: the first request may just be doing that. The controller counts what is recorded.
    intake.finish(list(first.values()), count=False)
    return [_of_first(first, index, outcome) for index, outcome in enumerate(outcomes)]


def _answerable(store: JobStore, first: SlicedImages, outcomes: Sequence[Outcome]) -> SlicedImages:
    """Return the images of the first request, repeated ones with their result as this request has found it.

    Left out is one that the first request did not come to answer, and whose earlier result has expired since: it
    was never accepted, and has no object that a worker could classify.
    """
    repeated_ones = [record.ref for record in first.values() if record.cached]
    answered = store.results_of(repeated_ones) if repeated_ones else {}
    found: dict[int, ImageRecord] = {}
    for index, record in first.items():
        outcome = outcomes[index] if index < len(outcomes) else None
        if not record.cached or record.ref in answered:
            found[index] = record
        elif isinstance(outcome, RepeatedImage):
            found[index] = outcome.instead_of(record)
    return found


def _of_first(first: SlicedImages, index: int, outcome: Outcome) -> Outcome:
    """Return what became of a file in the first request; one that it could not store must come with another key."""
    if index in first:
        return first[index]
    return unavailable(outcome.filename) if isinstance(outcome, ImageRecord) else outcome


def _bounded(uploads: Iterable[Upload]) -> Iterator[Upload]:
    for index, upload in enumerate(uploads):
        if index == MOST_FILES:
            raise RequestEntityTooLarge(
                f"a request with an Idempotency-Key takes at most {MOST_FILES} files, so nothing "
                "was accepted: send the others under other keys"
            )
        yield upload
