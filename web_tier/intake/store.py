"""Steps 3 to 5 of an image's way in: put it into the input bucket, record it, ask for its result.

In two halves, so that nothing of a request that turns out to be too large, malformed or cut short is ever classified:

* `put` stores objects while the request still arrives;
* `commit` makes accepted images of them: record, then send, then count.

An image with bytes that the same model has answered before takes a shorter way: its result and then its record are
written, and nothing is put (unless its job keeps images) or sent.

An object of a job that does not keep images is tagged as such, so that a bucket can delete what was left behind there
by rules of its own. Whether a job keeps images is said when it is made, and never changes.

What becomes of an image when a step fails:

=============================  ====================================================================================
the bucket does not take it    not accepted; nothing refers to an object that may be there
the table does not record it   not accepted; the record is deleted in case it was written after all, then the object
the queue does not take it     accepted, since the record stands; the reconciler sends the request again
=============================  ====================================================================================

So an image is accepted when its record is written, and never taken back after its request may have been sent. Whether
a send that failed took place need not be known: its reply may have been lost, and a repeat been refused.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from hashlib import sha256
from typing import Protocol

from botocore.exceptions import BotoCoreError, ClientError

from core.cache import repeated
from core.ids import ImageRef, input_key, new_id
from core.image_limits import ImageLimits
from core.job_records import ImageRecord, Job, Said
from core.jobs import JobStore
from core.messages import RequestMessage, Response
from services.errors import NotFoundError
from services.sqs import BATCH as MESSAGES
from services.sqs import OutgoingMessage
from services.table import BATCH as ITEMS
from services.table import TableBusyError
from web_tier.intake.accept import RejectedUpload, accept
from web_tier.intake.budget import MemoryLimiter
from web_tier.intake.multipart import Upload
from web_tier.intake.tally import Tally
from web_tier.limits.allowance import UNLIMITED, Allowance, Receipt
from web_tier.limits.quotas import QuotaExceededError

CONCURRENCY = 16
"""Calls of one process to the bucket and the queue at once; S3 is the slow part of an upload."""

MEMORY_BYTES = 64 * 2**20
"""Bytes of images that one process holds at once on their way to the bucket."""

SLICE = 5 * ITEMS - 1
"""Images recorded and sent together: with the mark that the job is open they fill five writes."""

GROUP = 50
"""Images of a form that are looked up in the result cache together, before they are put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedImage(ImageRecord):
    """An image that is answered at once, with the result of an earlier one with the same bytes.

    It has an object only where its job keeps images.
    """

    response: Response

    def instead_of(self, record: ImageRecord) -> "CachedImage":
        """Return the image `record`, which has the same bytes, with this one's result."""
        own = {field.name: getattr(record, field.name) for field in fields(ImageRecord)}
        response = self.response.model_copy(
            update={"job_id": record.ref.job_id, "image_id": record.ref.image_id, "recorded_at": record.accepted_at}
        )
        return CachedImage(**own, response=response)


UNKEPT = {"kept": "no"}
"""The object tag of images that their job does not keep; kept images have none."""

Outcome = ImageRecord | RejectedUpload
CLOUD_ERRORS = (BotoCoreError, ClientError, TableBusyError)
UNAVAILABLE = "unavailable"
"""The code of a rejection that is our fault: sending the image again may help."""
UNCERTAIN = "it may have been stored: look into the job before you send it again"
"""The message of a rejection of a file of which the job table may have a record."""

_log = logging.getLogger(__name__)


class ObjectStore(Protocol):
    """Where images go; `services.s3.Bucket` is one."""

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        """Store `body` at `key`, with these object tags."""
        ...

    def delete(self, key: str) -> None:
        """Delete the object at `key`, if any."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether there is an object at `key`."""
        ...


class Sender(Protocol):
    """Where requests go; `services.sqs.Queue` is one."""

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Send `messages`; return those that were refused."""
        ...


@dataclass(frozen=True)
class ImageIngest:
    """Takes images in, for all threads of one process.

    Attributes:
        find_repeats: returns a user's results of those of these SHA-256 that have been answered; as
            `Repeats.find`.
    """

    limits: ImageLimits
    bucket: ObjectStore
    store: JobStore
    queue: Sender
    find_repeats: Callable[[str, Collection[str]], Mapping[str, Response]] = lambda _owner, _digests: {}
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    pool: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="intake")
    )
    budget: MemoryLimiter = field(default_factory=lambda: MemoryLimiter(MEMORY_BYTES))
    tally: Tally = field(default_factory=Tally)

    def take(self, job: Job, uploads: Iterable[Upload], allowance: Allowance = UNLIMITED) -> list[Outcome]:
        """Take `uploads` into a job that exists; return what became of each, in order.

        Raises:
            NotFoundError: when the job has been deleted meanwhile.
            QuotaExceededError: when they are more than the `allowance`; none is accepted.
        """
        put = self.put(job, uploads)
        with self.charged(put, allowance) as receipt:
            return receipt.keep(self.commit(put))

    def put(self, job: Job, uploads: Iterable[Upload]) -> list[Outcome]:
        """Put what is an image into the input bucket; return its record to be, or why not, in order.

        A repeated image is put only where its job keeps images.

        When reading `uploads` fails, everything that was put is deleted and the error passes through.
        """
        pending: list[Future[Outcome]] = []
        try:
            for group in self._groups(uploads):
                pending += self._put_group(job, group)
            return [future.result() for future in pending]
        except BaseException:
            self._delete_objects([future.result() for future in pending if future.exception() is None])
            raise

    @contextmanager
    def charged(self, outcomes: Sequence[Outcome], allowance: Allowance) -> Iterator[Receipt]:
        """Charge the images that were put while they are accepted; what the receipt does not keep is given back.

        Raises:
            QuotaExceededError: when they are more than the `allowance`; what was put is deleted.
        """
        try:
            with allowance.charged([outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]) as receipt:
                yield receipt
        except QuotaExceededError:
            self.discard(outcomes)
            raise

    def commit(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Accept the images that were put: record, send and count them; return what became of each, in order.

        Images of several jobs commits at once only who has the `tally` alone.

        Raises:
            NotFoundError: when one of their jobs has been deleted; of up to `SLICE` images none is accepted then.
        """
        put = [outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]
        refused: dict[ImageRef, RejectedUpload] = {}
        for records in _slices(put, SLICE):
            if rejections := self._record(records):
                refused |= rejections
            else:
                self.request(records)
        self._count([record for record in put if record.ref not in refused])
        return [
            refused.get(outcome.ref, outcome) if isinstance(outcome, ImageRecord) else outcome for outcome in outcomes
        ]

    def finish(self, records: Sequence[ImageRecord], *, count: bool) -> None:
        """Record and send images that are accepted already, and count them if `count`; all else may be repeated.

        Raises:
            TableBusyError: when not all could be recorded.
        """
        for part in _slices(records, SLICE):
            self._write(part)
            self.request(part)
        if count:
            self._count(records)

    def discard(self, outcomes: Sequence[Outcome]) -> None:
        """Delete the objects of images that were put and will not be accepted."""
        self._delete_objects(outcomes)

    def _groups(self, uploads: Iterable[Upload]) -> Iterator[list[Upload]]:
        """Yield `uploads` in groups for which the budget has been taken."""
        group: list[Upload] = []
        try:
            for upload in uploads:
                if group and not self.budget.take_now(len(upload.data)):
                    # What waits for company only must not hold what others, waiting likewise, wait for.
                    yield group
                    group = []
                if not group:
                    self.budget.take(len(upload.data))
                group.append(upload)
                if len(group) == GROUP:
                    yield group
                    group = []
            if group:
                yield group
                group = []
        finally:
            self.budget.give_back(sum(len(upload.data) for upload in group))

    def _put_group(self, job: Job, group: Sequence[Upload]) -> list["Future[Outcome]"]:
        """Put a group, some at the same time; the budget for each is given back when it has been."""
        digests = [sha256(upload.data).hexdigest() for upload in group]
        known = self.find_repeats(job.owner, set(digests))
        return [
            self._begin(ImageRef(job.job_id, new_id()), upload, known.get(digest), keep=job.keep)
            for upload, digest in zip(group, digests, strict=True)
        ]

    def _begin(self, ref: ImageRef, upload: Upload, known: Response | None, *, keep: bool) -> "Future[Outcome]":
        if known is None or known.key is None or keep:
            return self.pool.submit(self._put_one, ref, upload, known, keep=keep)
        # Bytes that a worker has classified need no second look.
        self.budget.give_back(len(upload.data))
        repeat: Future[Outcome] = Future()
        repeat.set_result(self._repeat(ref, upload, input_key(ref, known.key.rpartition(".")[2]), known))
        return repeat

    def _repeat(self, ref: ImageRef, upload: Upload, key: str, known: Response) -> CachedImage:
        now = self.clock()
        response = repeated(known, ref, now)
        return CachedImage(ref, upload.filename, key, upload.size, now, cached=True, response=response)

    def _put_one(self, ref: ImageRef, upload: Upload, known: Response | None, *, keep: bool) -> Outcome:
        try:
            image = accept(upload, self.limits)
            if isinstance(image, RejectedUpload):
                return image
            key = input_key(ref, image.extension)
            self.bucket.put(key, upload.data, image.content_type, None if keep else UNKEPT)
            if known is not None:
                return self._repeat(ref, upload, key, known)
            return ImageRecord(ref, upload.filename, key, upload.size, self.clock())
        except CLOUD_ERRORS:
            _log.exception("an image could not be stored", extra={"job_id": ref.job_id, "image_id": ref.image_id})
            return unavailable(upload.filename)
        finally:
            self.budget.give_back(len(upload.data))

    def _record(self, records: Sequence[ImageRecord]) -> dict[ImageRef, RejectedUpload]:
        try:
            self._write(records)
        except NotFoundError:
            self._withdraw(records)
            raise
        except CLOUD_ERRORS:
            _log.exception("images could not be recorded", extra={"job_id": records[0].ref.job_id})
            return self._withdraw(records)
        return {}

    def _write(self, records: Sequence[ImageRecord]) -> None:
        # Results first: a reader of the record of a repeated image takes it for answered.
        self.store.put_done([record.response for record in records if isinstance(record, CachedImage)])
        self.store.record_images(records, self.clock())

    def request(self, records: Sequence[ImageRecord]) -> None:
        """Request the results of recorded images that were not answered at once; sending again does no harm."""
        requested = [record for record in records if not record.cached]
        list(self.pool.map(self._send, _slices(requested, MESSAGES)))

    def _send(self, records: Sequence[ImageRecord]) -> None:
        """Request the results of up to ten recorded images; the reconciler sends what the queue did not take."""
        extra = {"job_id": records[0].ref.job_id}
        try:
            refused = self.queue.send([_message(record) for record in records])
        except CLOUD_ERRORS:
            _log.exception("the request queue failed; the reconciler sends these requests", extra=extra)
        else:
            if refused:
                _log.error(
                    "the request queue refused %d requests; the reconciler sends them", len(refused), extra=extra
                )

    def _withdraw(self, records: Sequence[ImageRecord]) -> dict[ImageRef, RejectedUpload]:
        """Delete the records of images, of which none has been requested, and their objects."""
        try:
            self.store.forget_images([record.ref for record in records])
        except CLOUD_ERRORS:
            # The record may stand, so the object must: the reconciler would request it.
            _log.exception("images could not be taken back", extra={"job_id": records[0].ref.job_id})
            return {record.ref: _uncertain(record.filename) for record in records}
        self._delete_objects(records)
        return {record.ref: unavailable(record.filename) for record in records}

    def _delete_objects(self, outcomes: Sequence[Outcome]) -> None:
        """Delete what was put; an object that stays is rubbish, not wrong, so failures are only logged."""
        list(self.pool.map(self._delete, [outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]))

    def _delete(self, record: ImageRecord) -> None:
        try:
            self.bucket.delete(record.key)
        except CLOUD_ERRORS:
            _log.warning("the object %s stays behind", record.key, exc_info=True)

    def _count(self, accepted: Sequence[ImageRecord]) -> None:
        images, cached = Counter[str](), Counter[str]()
        for record in accepted:
            images[record.ref.job_id] += 1
            cached[record.ref.job_id] += record.cached
        now = self.clock()
        said = {job_id: self.tally.add(job_id, count, cached[job_id], now) for job_id, count in images.items()}
        try:
            self._say(said)
        except CLOUD_ERRORS:
            # The records stand, and the controller counts those.
            _log.exception("the counts of jobs could not be stored", extra={"job_ids": " ".join(said)})

    def _say(self, said: Mapping[str, tuple[str, Said]]) -> None:
        if len(said) > 1:
            self.store.say_accepted_of(said)
            return
        for job_id, (writer_id, words) in said.items():
            self.store.say_accepted(job_id, writer_id, words)


def _message(record: ImageRecord) -> OutgoingMessage:
    request = RequestMessage.about(record.ref, record.key, record.accepted_at)
    return OutgoingMessage(record.ref.image_id, request.to_json())


def unavailable(filename: str) -> RejectedUpload:
    """Return the rejection of a file for a fault of ours."""
    return RejectedUpload(filename, UNAVAILABLE, "it could not be stored just now: send it again")


def _uncertain(filename: str) -> RejectedUpload:
    """Return the rejection of a file of which the job table may have a record."""
    return RejectedUpload(filename, UNAVAILABLE, UNCERTAIN)


def _slices(records: Sequence[ImageRecord], size: int) -> Iterator[Sequence[ImageRecord]]:
    return (records[start : start + size] for start in range(0, len(records), size))
