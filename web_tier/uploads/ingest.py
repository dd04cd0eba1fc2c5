"""Ingest of images: validate them, put them into the input bucket, record them, and request their results.

There are two phases, so that no image of a request that turns out to be too large, malformed or cut short is ever
classified:

* `put_objects` stores the objects of packs while the request still arrives. Before the first one it marks their job
  (`core/jobs/sweeps.py`): the controller deletes objects that no record follows;
* `commit` accepts images: it records and counts them in one transaction, then enqueues them.

An object, a record and a request are those of a pack of images (`web_tier/uploads/packing.py`), so its images are
accepted together.

Whether a job keeps images is set when it is created, and never changes.

If a step of a pack fails:

=============================  ====================================================================================
the bucket does not store it   not accepted; a sweep deletes an object that may exist
the table does not record it   its record is read, since it may have been written; if not, its object is deleted
the queue does not take it     accepted, since the record exists; the reconciler sends the request again
=============================  ====================================================================================

So images are accepted once their record is written, and never withdrawn after their request may have been sent. It
does not matter whether a failed send succeeded: its reply may have been lost, and a repeat been refused.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial

from werkzeug.exceptions import RequestTimeout

from core.ids import ImageRef, new_id, positioned_id
from core.images import FORMATS, ImageFormat, ImageLimits, ImageRejectedError, sniff, too_large
from core.jobs.buckets import InputBucket
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import PackSizes, pack_batches, pack_object
from core.jobs.requests import request_images
from core.jobs.store import MAX_RECORDED, JobStore
from core.jobs.sweeps import SweepMarks
from core.sandbox.pool import Allowance, SandboxLimits, SandboxPool
from core.sandbox.process import CrashedError, PoolUnavailableError, StarvedError, TooCostlyError, rejection_of
from core.sandbox.zygote import Zygote
from core.tracing import use_traceparent
from services.clock import CLOCK, Clock
from services.errors import NotFoundError
from services.recent_dict import RecentDict
from services.sqs import BATCH as MAX_MESSAGES
from services.sqs import Queue
from services.table import CLOUD_ERRORS, Put, TableBusyError
from web_tier.http.memory import MemoryLimiter
from web_tier.http.metrics import IntakeMetrics
from web_tier.http.quotas import UNLIMITED, QuotaExceededError, QuotaScope, Reservation
from web_tier.uploads.multipart import Upload
from web_tier.uploads.packing import PackDivider, UploadedFile, UploadPacker
from web_tier.uploads.turns import TurnExecutor

CONCURRENCY = 16
"""Concurrent calls of one process to the bucket and the queue; S3 is the slow part of an upload."""

MEMORY_BYTES = 64 * 2**20
"""Bytes of images that one process holds in memory until they are stored: nearly two large packs."""

ARRIVED_BYTES = MEMORY_BYTES * 8 // 9
"""Bytes of the images among them: an object that grows takes up to an eighth more than what it contains."""

BATCH_PACKS = MAX_RECORDED
"""Packs that are recorded in one transaction, and enqueued together."""

MAX_PUT_AGE = timedelta(minutes=30)
"""Time from an image's put to its record; later it is rejected. A sweep leaves objects alone that are younger than a
day."""

MARKED_FOR = timedelta(hours=1)
"""Time for which a process does not mark a job again; a mark stays for days."""

MAX_MARKED_JOBS = 10_000
"""Jobs of which one process remembers that it has marked them."""

MAX_INSPECTED = 2
"""Images that one process inspects at a time; an honest one takes less than a millisecond."""

INSPECTION_SECONDS = 5.0
"""CPU time of inspecting one image: hostile ones of 10 MB take about a second."""

UNAVAILABLE = "unavailable"
"""The code of a rejection for a fault of the system: sending the image again may help."""

AGAIN = "it could not be stored just now: send it again"
UNCERTAIN = "it may have been stored: look into the job before you send it again"
"""The messages of such a rejection: of any file, and of one that may have a record in the job table."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RejectedUpload:
    """A file that was not accepted, with a stable `code` for programs and a `message` for its owner."""

    filename: str
    code: str
    message: str


UploadResult = ImageRecord | RejectedUpload
"""The result of one file: the record of the image, or its rejection."""


@dataclass(frozen=True)
class ImageIngest:
    """Ingests images, for all threads of one process.

    Attributes:
        inspect: `core.image_open.inspect` in other processes, by `sandboxed_inspect`, which takes the owner, too.
        memory: the bytes of images on their way to the bucket.
        marked: when this process has marked jobs.
        metrics: count the images.
        sizes: of the packs.
    """

    limits: ImageLimits
    bucket: InputBucket
    store: JobStore
    queue: Queue
    inspect: Callable[..., object]
    clock: Clock = CLOCK
    pool: TurnExecutor = field(default_factory=lambda: TurnExecutor(CONCURRENCY, thread_name_prefix="ingest"))
    memory: MemoryLimiter = field(default_factory=lambda: MemoryLimiter(ARRIVED_BYTES))
    marked: RecentDict[str, datetime] = field(default_factory=lambda: RecentDict(MAX_MARKED_JOBS))
    metrics: IntakeMetrics = field(default_factory=IntakeMetrics)
    sizes: PackSizes = field(default_factory=PackSizes)
    _packers: list[UploadPacker[UploadResult]] = field(default_factory=list)
    """Of the uploads that arrive now."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ingest(
        self, job: Job, uploads: Iterable[Upload], quota: QuotaScope = UNLIMITED, so_far: int = 0
    ) -> list[UploadResult]:
        """Accept the images of `uploads` into a job that exists; return the result of each file, in order.

        `so_far` is as for `put_objects`.

        Raises:
            NotFoundError: the job has been deleted meanwhile.
            QuotaExceededError: the images exceed the `quota`; none is accepted.
        """
        results = self.put_objects(job, uploads, so_far)
        with self.quota_reservation(results, quota) as reservation:
            return reservation.commit(self.commit(results, job.group))

    def put_objects(self, job: Job, uploads: Iterable[Upload], so_far: int = 0) -> list[UploadResult]:
        """Store the images of `uploads` in the input bucket; return their future records, or rejections, in order.

        `so_far` is a lower bound of the images that the job has had. If reading `uploads` fails, or the job cannot be
        marked, all stored objects are deleted and the error passes through.

        Raises:
            RequestTimeout: they take too long to arrive.
        """
        packer = UploadPacker[UploadResult](
            job.owner,
            self.pool,
            self.memory,
            partial(self._inspect, job),
            partial(self._put, job),
            PackDivider(self.sizes, so_far),
        )
        with self._lock:
            self._packers.append(packer)
        try:
            for upload in self._in_time(uploads):
                self.mark(job.job_id)
                at = upload.position
                file = UploadedFile[UploadResult](upload, new_id() if at is None else positioned_id(job.job_id, at))
                self.memory.acquire(len(upload.data), reclaim=self._close_packs)
                packer.add(file)
            return packer.finish()
        except BaseException:
            packer.abandon()
            self.discard(packer.results())
            raise
        finally:
            with self._lock:
                self._packers.remove(packer)

    def _close_packs(self) -> None:
        """Store the open packs of all uploads: their senders may be slow, and others wait for the memory."""
        with self._lock:
            packers = [*self._packers]
        for packer in packers:
            packer.close_pack()

    def mark(self, job_id: str) -> None:
        """Mark a job before objects of it are put, unless this process has marked it within `MARKED_FOR`."""
        now = self.clock.utc_now()
        with self._lock:
            at = self.marked.get(job_id)
        if at is None or not timedelta(0) <= now - at < MARKED_FOR:
            SweepMarks(self.store.table).put(job_id, now)
            with self._lock:
                self.marked[job_id] = now

    @contextmanager
    def quota_reservation(self, results: Sequence[UploadResult], quota: QuotaScope) -> Iterator[Reservation]:
        """Charge stored images while they are accepted; what the reservation does not commit is refunded.

        Raises:
            QuotaExceededError: the images exceed the `quota`; their objects are deleted.
        """
        try:
            with quota.reserve([result for result in results if isinstance(result, ImageRecord)]) as reservation:
                yield reservation
        except QuotaExceededError:
            self.discard(results)
            raise

    def commit(self, results: Sequence[UploadResult], group: str) -> list[UploadResult]:
        """Accept the stored images of a job: record and enqueue them; return the result of each file, in order.

        Raises:
            NotFoundError: their job has been deleted; of up to `BATCH_PACKS` packs no image is accepted then.
        """
        stored = [result for result in results if isinstance(result, ImageRecord)]
        rejected: dict[ImageRef, RejectedUpload] = {}
        for records in pack_batches(stored, BATCH_PACKS):
            try:
                rejected |= self.record(records)
            except NotFoundError:
                self.discard(records)
                raise
            self.enqueue([record for record in records if record.ref not in rejected], group)
        return [rejected.get(result.ref, result) if isinstance(result, ImageRecord) else result for result in results]

    def record(self, records: Sequence[ImageRecord]) -> dict[ImageRef, RejectedUpload]:
        """Record and count images of up to `BATCH_PACKS` packs of a job; return the rejections of those that are not.

        Raises:
            NotFoundError: the job has been deleted; none is recorded.
        """
        try:
            self.check_age(min(record.accepted_at for record in records))
            self._record(records)
        except CLOUD_ERRORS:
            _log.warning("images could not be recorded", extra={"job_id": records[0].ref.job_id}, exc_info=True)
            return self._unrecorded(records)
        return {}

    def complete(
        self, records: Sequence[ImageRecord], group: str, also: Sequence[Put] = (), *, presigned: bool = False
    ) -> None:
        """Record and enqueue images that are accepted already; it may be repeated.

        `also` and `presigned` are as in `JobStore.record_images`.
        """
        for batch in pack_batches(records, BATCH_PACKS):
            self._record(batch, also, presigned=presigned)
            self.enqueue(batch, group)

    def enqueue(self, records: Sequence[ImageRecord], group: str) -> None:
        """Request the results of recorded images; a repeat is harmless.

        `group` is that of their job, as `ImageRecord.request` takes it.
        """
        list(self.pool.map(partial(self._send, group), pack_batches(records, MAX_MESSAGES)))

    def discard(self, results: Sequence[UploadResult]) -> None:
        """Delete the objects of images that will not be accepted; after an error, a sweep deletes them."""
        records = [result for result in results if isinstance(result, ImageRecord)]
        try:
            self.bucket.delete(records)
        except CLOUD_ERRORS:
            _log.warning("the objects of %d images were not deleted", len(records), exc_info=True)

    def check_age(self, put_at: datetime) -> None:
        """Check that images may be recorded: this process may have been frozen since it put the first of them.

        Raises:
            TableBusyError: it was, for so long that their objects may be deleted before long.
        """
        if self.clock.utc_now() - put_at > MAX_PUT_AGE:
            raise TableBusyError(f"images were put more than {MAX_PUT_AGE} ago: send them again")

    def _in_time(self, uploads: Iterable[Upload]) -> Iterator[Upload]:
        """Yield `uploads` as long as those that were put may be recorded."""
        latest = self.clock.utc_now() + MAX_PUT_AGE
        for upload in uploads:
            if self.clock.utc_now() > latest:
                minutes = MAX_PUT_AGE.total_seconds() / 60
                raise RequestTimeout(f"a request takes at most {minutes:g} minutes: send fewer files in each")
            yield upload

    def _inspect(self, job: Job, upload: Upload) -> ImageFormat | RejectedUpload:
        verdict = validate_image(upload, self.limits, self.inspect, job.owner)
        if isinstance(verdict, RejectedUpload):
            self.metrics.reject(verdict.code)
        return verdict

    def _put(self, job: Job, pack: Sequence[UploadedFile[UploadResult]]) -> list[UploadResult]:
        """Store the object of a pack; return the future records of its images, or their rejections."""
        pack_id, files = pack[0].image_id, [(each.upload.filename, each.extension, each.upload.size) for each in pack]
        images = ImageRecord.of_pack(job, pack_id, files, self.clock.utc_now())
        try:
            self.bucket.put(images[0], pack_object(_taken(pack), len(pack)), is_kept=job.keep)
        except CLOUD_ERRORS:
            _log.warning(
                "images could not be stored", extra={"job_id": job.job_id, "image_id": pack_id}, exc_info=True
            )
            self.metrics.reject(UNAVAILABLE, len(pack))
            return [unavailable(file.upload.filename) for file in pack]
        return list(images)

    def _record(self, records: Sequence[ImageRecord], also: Sequence[Put] = (), *, presigned: bool = False) -> None:
        self._note_accepted(self.store.record_images(records, self.clock.utc_now(), also, presigned=presigned))

    def _note_accepted(self, new: Sequence[ImageRecord]) -> None:
        self.metrics.accept(len(new), sum(record.size for record in new))
        log_accepted(new)

    def _unrecorded(self, records: Sequence[ImageRecord]) -> dict[ImageRef, RejectedUpload]:
        """Return the rejections of those images that the table has not recorded, after a call of unknown outcome."""
        try:
            recorded = self.store.images_of([record.ref for record in records])
        except CLOUD_ERRORS:
            # A record may exist, so its object must: the reconciler would request it.
            _log.warning("images could not be looked up", extra={"job_id": records[0].ref.job_id}, exc_info=True)
            left, message = records, UNCERTAIN
        else:
            self._note_accepted([record for record in records if record.ref in recorded])
            left, message = [record for record in records if record.ref not in recorded], AGAIN
            self.discard(left)
        self.metrics.reject(UNAVAILABLE, len(left))
        return {record.ref: RejectedUpload(record.filename, UNAVAILABLE, message) for record in left}

    def _send(self, group: str, records: Sequence[ImageRecord]) -> None:
        """Send the requests of up to ten recorded images; the reconciler sends those that the queue refuses."""
        extra = {"job_id": records[0].ref.job_id}
        try:
            refused = request_images(self.queue, records, records[0].accepted_at, group)
        except CLOUD_ERRORS:
            _log.warning("the request queue failed; the reconciler sends these requests", extra=extra, exc_info=True)
        else:
            if refused:
                _log.warning(
                    "the request queue refused %d images; the reconciler requests them", len(refused), extra=extra
                )


def _taken(pack: Iterable[UploadedFile[UploadResult]]) -> Iterator[tuple[str, bytes]]:
    """Yield the extension and the data of each image of a pack, and drop the data when the next one is asked for."""
    for file in pack:
        yield file.extension, file.upload.data
        file.drop_data()


@cache
def sandboxed_inspect(limits: ImageLimits, sandbox_limits: SandboxLimits) -> SandboxPool:
    """Return `core.image_open.inspect` in sandboxed processes, which start on first use, so after gunicorn's fork."""
    allowance = Allowance(INSPECTION_SECONDS, limits.decoding_bytes, answer_bytes=0)
    return SandboxPool(Zygote("core.image_open:inspect"), allowance, MAX_INSPECTED, sandbox_limits)


def validate_image(
    upload: Upload, limits: ImageLimits, inspect: Callable[..., object], owner: str
) -> ImageFormat | RejectedUpload:
    """Return the format of an image, or a rejection. The content decides, not the name; nothing is decoded.

    `inspect` is as in `ImageIngest`.
    """
    try:
        if upload.size > limits.max_bytes:
            raise too_large(upload.size, limits)
        inspect(upload.data, owner, limits=limits)
        return FORMATS[sniff(upload.data)]
    except ImageRejectedError as error:
        rejection = error
    except (StarvedError, PoolUnavailableError):
        _log.warning("an image could not be inspected", exc_info=True)
        return unavailable(upload.filename)
    except (TooCostlyError, CrashedError) as error:
        _log.warning("an image ended its inspection", extra={"reason": str(error)})
        rejection = rejection_of(error)
    return RejectedUpload(upload.filename, rejection.code, rejection.message)


def log_accepted(records: Sequence[ImageRecord]) -> None:
    """Log accepted images: a line for those of a job that came in the same request."""
    image_ids: dict[tuple[str, str | None], list[str]] = {}
    for record in records:
        image_ids.setdefault((record.ref.job_id, record.traceparent), []).append(record.ref.image_id)
    for (job_id, traceparent), images in image_ids.items():
        with use_traceparent(traceparent):
            _log.info("accepted", extra={"job": job_id, "images": images})


def unavailable(filename: str) -> RejectedUpload:
    """Return the rejection of a file for a fault of the system."""
    return RejectedUpload(filename, UNAVAILABLE, AGAIN)
