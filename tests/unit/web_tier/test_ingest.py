"""Ingest: each accepted image has its object, record and request.

Also validation, counting and the memory limit.
"""

import threading
import tracemalloc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from core.ids import ImageRef, new_id
from core.images import FORMATS, ImageLimits, unknown_reason
from core.jobs.buckets import InputBucket
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import PackSizes
from core.jobs.requests import requests_of
from core.jobs.store import JobStore
from core.sandbox.process import CrashedError, PoolUnavailableError, StarvedError, TooCostlyError
from services.errors import NotFoundError
from services.sqs import OutgoingMessage
from services.table import Put, TableBusyError
from tests.support import fixtures
from tests.support.jobs import NOW, client_error, count_images, picture
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from web_tier.http.memory import BusyError, MemoryLimiter
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.ingest import (
    BATCH_PACKS,
    MEMORY_BYTES,
    UNAVAILABLE,
    ImageIngest,
    RejectedUpload,
    UploadResult,
    validate_image,
)
from web_tier.uploads.multipart import Upload

_T = TypeVar("_T")
SEND_ERRORS = (
    client_error(503),
    # The first try took place, its reply was lost, and the repeat was refused.
    client_error(400, "RequestThrottled"),
    EndpointConnectionError(endpoint_url="http://queue"),
    ReadTimeoutError(endpoint_url="http://queue"),
)


@dataclass(frozen=True)
class FailingStore(JobStore):
    """A job store with steps that fail before or after they are done, as the test says."""

    before: dict[str, Exception] = field(default_factory=dict)
    after: dict[str, Exception] = field(default_factory=dict)

    def record_images(
        self, images: Sequence[ImageRecord], touched_at: object, also: Sequence[Put] = (), *, presigned: bool = False
    ) -> list[ImageRecord]:
        return self._around("record_images", lambda: super(FailingStore, self).record_images(images, NOW, also))

    def images_of(self, refs: Collection[ImageRef]) -> dict[ImageRef, ImageRecord]:
        return self._around("images_of", lambda: super(FailingStore, self).images_of(refs))

    def _around(self, step: str, call: Callable[[], _T]) -> _T:
        if step in self.before:
            raise self.before[step]
        result = call()
        if step in self.after:
            raise self.after[step]
        return result


bucket, queue = fixtures.bucket, fixtures.queue


@pytest.fixture
def failing(store: JobStore) -> FailingStore:
    return FailingStore(store.table)


@pytest.fixture
def ingest(bucket: MemoryBucket, failing: FailingStore, queue: MemoryQueue) -> Iterator[ImageIngest]:
    ingest = ImageIngest(ImageLimits(), InputBucket(bucket), failing, queue, inspect)
    yield ingest
    ingest.pool.shutdown()


def uploads(count: int, *, broken: Sequence[int] = ()) -> list[Upload]:
    """Return files of which those at `broken` are no images; each content is another."""
    contents = [b"no image" if index in broken else picture(size=(8, index + 1)) for index in range(count)]
    return [Upload(f"{index}.jpg", content, len(content)) for index, content in enumerate(contents)]


def accepted(outcomes: Sequence[UploadResult]) -> list[ImageRecord]:
    return [outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]


def codes(outcomes: Sequence[UploadResult]) -> list[str]:
    return [outcome.code for outcome in outcomes if isinstance(outcome, RejectedUpload)]


def counts_of(ingest: ImageIngest) -> tuple[float, float, dict[str, float]]:
    """Return the accepted images, their bytes, and the rejected files by reason."""
    metrics = ingest.metrics
    totals = [
        next(iter(counter.collect())).samples[0].value for counter in (metrics.accepted, metrics.accepted_bytes)
    ]
    rejected = [sample for sample in next(iter(metrics.rejected.collect())).samples if sample.value]
    by_reason = {each.labels["reason"]: each.value for each in rejected if each.name.endswith("_total")}
    return totals[0], totals[1], by_reason


def recorded(store: JobStore, job: Job) -> set[str]:
    return {image.ref.image_id for image in store.images(job.job_id)}


@pytest.mark.parametrize(
    ("owner", "finish_by"),
    [("", None), ("anna", None), ("anna", NOW + timedelta(hours=9))],
    ids=["without sign-in", "with sign-in", "later"],
)
def test_the_message_group_of_an_image_is_its_user_or_else_its_job(
    owner: str, finish_by: datetime | None, ingest: ImageIngest, store: JobStore, queue: MemoryQueue
) -> None:
    job = Job(new_id(), "job", NOW, owner=owner, finish_by=finish_by)
    store.create(job)
    group, files = "anna.later2" if finish_by else owner or job.job_id, uploads(3)
    ingest.ingest(job, files)
    ingest_idempotent(ingest, job, "key", files)
    ingest_idempotent(ingest, job, "key", files)  # the images of the first request are enqueued again
    assert queue.groups == {group: 9}
    assert {message.group for message, _ in requests_of(store.images(job.job_id), NOW)} == {owner or job.job_id}


def test_an_object_has_the_type_and_the_extension_of_its_content(
    store: JobStore, job: Job, queue: MemoryQueue
) -> None:
    types = dict[str, str]()

    class TypedBucket(MemoryBucket):
        def put(
            self, key: str, body: bytes | bytearray, content_type: str, tags: Mapping[str, str] | None = None
        ) -> None:
            types[key.rpartition(".")[2]] = content_type

    ingest = ImageIngest(ImageLimits(), InputBucket(TypedBucket()), store, queue, inspect)
    contents = (picture("PNG"), picture("WEBP"), picture())
    ingest.ingest(job, [Upload("a.gif", content, len(content)) for content in contents])
    assert types == {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg"}
    ingest.pool.shutdown()


def test_an_image_that_the_bucket_does_not_take_is_not_accepted(
    ingest: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    files = uploads(3)
    bucket.fails = lambda body: client_error(503) if body == files[1].data else None
    outcomes = ingest.ingest(job, files)
    assert outcomes[1] == RejectedUpload("1.jpg", "unavailable", "it could not be stored just now: send it again")
    assert counts_of(ingest)[-1] == {"unavailable": 1}
    assert (
        len(accepted(outcomes))
        == len(recorded(store, job))
        == len(queue.bodies)
        == store.status(job.job_id).accepted
        == 2
    )


def test_images_whose_record_failed_are_not_accepted(
    ingest: ImageIngest, failing: FailingStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    failing.before["record_images"] = TableBusyError("busy")
    content = picture()
    outcomes = ingest.ingest(job, [Upload(f"{index}", content, len(content)) for index in range(BATCH_PACKS + 2)])
    assert codes(outcomes) == ["unavailable"] * (BATCH_PACKS + 2)
    assert [outcome.filename for outcome in outcomes] == [str(index) for index in range(BATCH_PACKS + 2)]
    assert (recorded(failing, job), bucket.objects, queue.bodies) == (set(), {}, [])
    assert failing.status(job.job_id).accepted == 0
    assert counts_of(ingest) == (0, 0, {"unavailable": BATCH_PACKS + 2})


def test_images_of_a_job_that_was_deleted_meanwhile_leave_nothing_behind(
    ingest: ImageIngest, failing: FailingStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    failing.before["record_images"] = NotFoundError("the job was deleted")
    with pytest.raises(NotFoundError):
        ingest.ingest(job, uploads(3))
    assert (recorded(failing, job), bucket.objects, queue.bodies) == (set(), {}, [])


@pytest.mark.parametrize("error", SEND_ERRORS, ids=str)
def test_images_are_accepted_if_sending_their_requests_may_have_failed(
    ingest: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue, error: Exception
) -> None:
    # The message may be there, so taking the image back could lose a result; the reconciler sends what is missing.
    queue.fails = _raiser(error)
    images = accepted(ingest.ingest(job, uploads(3)))
    assert len(images) == 3
    assert {image.ref.image_id for image in images} == recorded(store, job)
    assert {image.key for image in images} == set(bucket.objects)
    assert store.status(job.job_id).accepted == 3


def test_an_image_that_may_be_recorded_keeps_its_object(
    ingest: ImageIngest, failing: FailingStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    failing.after["record_images"] = TableBusyError("busy")
    failing.before["images_of"] = client_error(503)
    [outcome] = ingest.ingest(job, uploads(1))
    assert isinstance(outcome, RejectedUpload)
    assert (outcome.filename, outcome.code) == ("0.jpg", "unavailable")
    assert "may have been stored" in outcome.message
    assert (len(recorded(failing, job)), len(bucket.objects), queue.bodies) == (1, 1, [])


def test_images_with_a_lost_reply_of_their_record_are_accepted(
    ingest: ImageIngest, failing: FailingStore, job: Job, queue: MemoryQueue
) -> None:
    failing.after["record_images"] = client_error(503)
    images = accepted(ingest.ingest(job, uploads(2)))
    assert recorded(failing, job) == {image.ref.image_id for image in images} == set(queue.image_ids)
    assert failing.status(job.job_id).accepted == len(images) == 2


def test_the_next_file_is_not_read_before_there_is_memory_for_it(
    ingest: ImageIngest, job: Job, bucket: MemoryBucket
) -> None:
    content = picture()
    limiter = MemoryLimiter(2 * len(content))
    held, most, lock = 0, 0, threading.Lock()

    def count(change: int) -> None:
        nonlocal held, most
        with lock:
            held += change
            most = max(most, held)

    def read() -> Iterator[Upload]:
        for _ in range(20):
            count(1)
            yield Upload("a.jpg", content, len(content))

    bucket.fails = lambda body: count(-1)
    assert len(accepted(replace(ingest, memory=limiter).ingest(job, read()))) == 20
    assert most <= 3  # two that the limiter holds, and the one that waits for its turn


def _raiser(error: Exception) -> Callable[[Sequence[OutgoingMessage]], list[OutgoingMessage]]:
    def fail(messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        raise error

    return fail


LIMITS = ImageLimits(max_bytes=10_000, max_pixels=1_000, max_frames=3)


def rejection(data: bytes, inspection: Callable[..., object] = inspect) -> RejectedUpload:
    outcome = validate_image(Upload("a.jpg", data, len(data)), LIMITS, inspection, "u")
    assert isinstance(outcome, RejectedUpload)
    return outcome


@pytest.mark.parametrize("inspection", [inspect, Mock(return_value=b"PNG")])
def test_data_that_is_no_image_is_rejected_whatever_its_inspection_returns(inspection: Callable[..., object]) -> None:
    assert rejection(b"hello", inspection) == RejectedUpload("a.jpg", "not_an_image", unknown_reason())


def test_a_file_that_is_too_large_is_rejected_by_its_size() -> None:
    assert rejection(picture(size=(40, 40))).code == "too_many_pixels"
    limits, content = ImageLimits(max_bytes=2_000_000), picture()
    cut = Upload("a.jpg", content, 2_100_000)  # a reader of requests keeps no more than is allowed
    message = "2.1 MB is more than the 2.0 MB allowed: shrink it"
    assert validate_image(cut, limits, inspect, "u") == RejectedUpload("a.jpg", "too_large", message)
    limits = ImageLimits(max_bytes=len(content))
    assert validate_image(Upload("a.jpg", content, len(content)), limits, inspect, "u") == FORMATS["JPEG"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TooCostlyError("more than 5 s of processor time"), "too_costly"),
        (CrashedError("its process was ended by Segmentation fault"), "undecodable"),
        # The machine may be the cause, so sending the image again may help.
        (StarvedError("no reply within 15 s"), UNAVAILABLE),
        (PoolUnavailableError("no process"), UNAVAILABLE),
    ],
)
def test_an_image_whose_inspection_dies_is_rejected_only_if_it_is_the_cause(error: Exception, code: str) -> None:
    rejected = rejection(picture(), Mock(side_effect=error))
    assert rejected.code == code
    assert "again" in rejected.message
    assert str(error) not in rejected.message


FILES, MEASURED = 10_000, 2_000
FILE_BYTES = 100_000
"""The last files, whose memory is measured, have 200 MB in all, three times what may be in memory."""


def test_more_than_the_capacity_is_acquired_alone() -> None:
    limiter = MemoryLimiter(100)
    limiter.acquire(500)
    with pytest.raises(BusyError):
        limiter.acquire(1, wait_seconds=0)
    limiter.release(500)
    limiter.acquire(100)


class KeyBucket(MemoryBucket):
    """A bucket that drops the content of its objects."""

    def put(
        self, key: str, body: bytes | bytearray, content_type: str, tags: Mapping[str, str] | None = None
    ) -> None:
        super().put(key, b"", content_type, tags)


def ten_thousand_uploads() -> Iterator[Upload]:
    """Yield files of which each hundredth is no image."""
    content = picture()
    for index in range(FILES):
        if index == FILES - MEASURED:
            tracemalloc.start()
        body = (b"no image" if index % 100 == 99 else content) + bytes(FILE_BYTES)
        yield Upload(f"{index}.jpg", body, len(body))


def test_row_30_ten_thousand_files_are_taken_one_by_one_each_bad_one_with_its_reason(
    job: Job, store: JobStore, queue: MemoryQueue
) -> None:
    sizes = PackSizes(50, lambda: 0.01)
    ingest = ImageIngest(ImageLimits(), InputBucket(KeyBucket()), store, queue, inspect, sizes=sizes)
    try:
        outcomes = ingest.ingest(job, ten_thousand_uploads())
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()  # kept are records, in a table and queue in memory
    finally:
        tracemalloc.stop()
        ingest.pool.shutdown()
    assert [outcome.filename for outcome in outcomes] == [f"{index}.jpg" for index in range(FILES)]
    rejected = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, RejectedUpload)}
    assert list(rejected) == list(range(99, FILES, 100))
    assert all("not an image" in rejection.message for rejection in rejected.values())
    assert count_images(store, job.job_id) == store.status(job.job_id).accepted == len(queue.image_ids) == 9_900
    assert peak_bytes - kept_bytes < MEMORY_BYTES
