"""Ingest: validation, counting, the memory limit, and a batch of 10,000 files."""

import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from core.ids import new_id
from core.image_open import ImageInfo
from core.images import ImageLimits
from core.jobs.models import AcceptedCount, Job
from core.jobs.store import JobStore
from tests.support.jobs import NOW, MemoryBucket, MemoryQueue
from tests.support.memory_table import MemoryTable
from tests.support.pictures import picture
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS
from web_tier.uploads.ingest import MEMORY_BYTES, AcceptedCounter, ImageIngest, RejectedUpload, validate_image
from web_tier.uploads.memory_limiter import BusyError, MemoryLimiter
from web_tier.uploads.multipart import Upload

LIMITS = ImageLimits(max_bytes=10_000, max_pixels=1_000, max_frames=3)


def validated(data: bytes, filename: str = "a.jpg") -> ImageInfo | RejectedUpload:
    return validate_image(Upload(filename, data, len(data)), LIMITS)


def test_the_content_decides_not_the_name() -> None:
    image = validated(picture("PNG"), "holiday.txt")
    assert isinstance(image, ImageInfo)
    assert (image.extension, image.content_type) == ("png", "image/png")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"hello", "not_an_image"),
        (b"%PDF-1.7", "format_not_allowed"),
        (picture(size=(40, 40)), "too_many_pixels"),
        (
            b"GIF89a\x04\x00\x04\x00\x00\x00\x00" + b",\x00\x00\x00\x00\x04\x00\x04\x00\x00\x02\x00" * 4,
            "too_many_frames",
        ),
    ],
)
def test_a_file_that_is_no_image_is_rejected_with_a_reason(data: bytes, code: str) -> None:
    rejection = validated(data)
    assert isinstance(rejection, RejectedUpload)
    assert (rejection.filename, rejection.code) == ("a.jpg", code)
    assert rejection.message


def test_a_file_that_is_too_large_is_rejected_by_its_size() -> None:
    rejection = validate_image(Upload("a.jpg", b"", 3 * 2**20), ImageLimits(max_bytes=2**20))
    assert rejection == RejectedUpload("a.jpg", "too_large", "3 MB is more than the 1 MB allowed: shrink it")


def test_the_count_of_a_job_is_absolute_and_its_writer_stays() -> None:
    counter = AcceptedCounter()
    first, count = counter.add("job", 3, 0, NOW)
    assert count == AcceptedCount(3)
    assert counter.add("job", 2, 0, NOW) == (first, AcceptedCount(5))
    assert counter.add("other", 1, 0, NOW)[0] != first


def test_cached_images_are_counted_with_their_first_and_last_time() -> None:
    counter, later = AcceptedCounter(), NOW + timedelta(seconds=7)
    counter.add("job", 3, 1, NOW)
    counter.add("job", 1, 0, later)
    assert counter.add("job", 2, 2, later)[1] == AcceptedCount(6, 3, NOW, later)


def test_concurrent_counts_are_complete() -> None:
    counter = AcceptedCounter()
    with ThreadPoolExecutor(8) as pool:
        counts = sorted(count.accepted for _, count in pool.map(lambda _: counter.add("job", 1, 0, NOW), range(200)))
    assert counts == list(range(1, 201))


def test_an_evicted_job_starts_a_new_count_with_a_new_writer() -> None:
    # A new count of the old writer would be lower than the stored one, and be rejected.
    counter = AcceptedCounter(max_jobs=1)
    first, _ = counter.add("job", 3, 0, NOW)
    counter.add("other", 1, 0, NOW)
    again, count = counter.add("job", 2, 0, NOW)
    assert (count, again != first) == (AcceptedCount(2), True)


def test_acquire_fails_when_the_memory_is_in_use() -> None:
    limiter = MemoryLimiter(100)
    limiter.acquire(60)
    with pytest.raises(BusyError):
        limiter.acquire(41, wait_seconds=0)
    limiter.acquire(40)


def test_a_waiting_thread_continues_once_enough_is_released() -> None:
    limiter = MemoryLimiter(100)
    limiter.acquire(100)
    waiting = threading.Thread(target=limiter.acquire, args=(50, NEVER_SECONDS), daemon=True)
    waiting.start()
    limiter.release(50)
    waiting.join(DEADLINE_SECONDS)
    assert not waiting.is_alive()
    with pytest.raises(BusyError):
        limiter.acquire(1, wait_seconds=0)


def test_more_than_the_capacity_is_acquired_alone() -> None:
    limiter = MemoryLimiter(100)
    limiter.acquire(500)
    with pytest.raises(BusyError):
        limiter.acquire(1, wait_seconds=0)
    limiter.release(500)
    limiter.acquire(100)


def test_acquired_memory_is_released_after_an_error() -> None:
    limiter = MemoryLimiter(100)
    with pytest.raises(ZeroDivisionError), limiter.acquired(100):
        with pytest.raises(BusyError):
            limiter.acquire(1, wait_seconds=0)
        raise ZeroDivisionError
    limiter.acquire(100, wait_seconds=0)


FILES = 10_000
FILE_BYTES = 20_000
"""200 MB in all, three times what may be in memory."""


class KeyBucket(MemoryBucket):
    """A bucket that drops the content of its objects."""

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        super().put(key, b"", content_type, tags)


@pytest.fixture
def ingest() -> Iterator[ImageIngest]:
    ingest = ImageIngest(ImageLimits(), KeyBucket(), JobStore(MemoryTable()), MemoryQueue())
    yield ingest
    ingest.pool.shutdown()


def uploads() -> Iterator[Upload]:
    """Yield files of which each hundredth is no image."""
    content = picture()
    for index in range(FILES):
        body = (b"no image" if index % 100 == 99 else content) + bytes(FILE_BYTES)
        yield Upload(f"{index}.jpg", body, len(body))


def test_row_30_ten_thousand_files_are_taken_one_by_one_each_bad_one_with_its_reason(ingest: ImageIngest) -> None:
    job = Job(new_id(), "large", NOW)
    ingest.store.create(job)
    tracemalloc.start()
    try:
        outcomes = ingest.ingest(job, uploads())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [outcome.filename for outcome in outcomes] == [f"{index}.jpg" for index in range(FILES)]
    rejected = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, RejectedUpload)}
    assert list(rejected) == list(range(99, FILES, 100))
    assert all("not an image" in rejection.message for rejection in rejected.values())
    assert ingest.store.count_images(job.job_id) == ingest.store.status(job.job_id).accepted == 9_900
    assert peak_bytes < MEMORY_BYTES
