import tracemalloc
from collections.abc import Iterator, Mapping

import pytest

from core.ids import new_id
from core.image_limits import ImageLimits
from core.job_records import Job
from core.jobs import JobStore
from tests.support.jobs import NOW, MemoryBucket, MemoryQueue
from tests.support.memory_table import MemoryTable
from tests.support.pictures import picture
from web_tier.intake.accept import RejectedUpload
from web_tier.intake.multipart import Upload
from web_tier.intake.store import MEMORY_BYTES, ImageIngest

FILES = 10_000
FILE_BYTES = 20_000
"""200 MB in all, three times what may be in memory."""


class KeyBucket(MemoryBucket):
    """A bucket that forgets what its objects hold."""

    def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
        super().put(key, b"", content_type, tags)


@pytest.fixture
def intake() -> Iterator[ImageIngest]:
    intake = ImageIngest(ImageLimits(), KeyBucket(), JobStore(MemoryTable()), MemoryQueue())
    yield intake
    intake.pool.shutdown()


def uploads() -> Iterator[Upload]:
    """Yield files of which each hundredth is no image."""
    content = picture()
    for index in range(FILES):
        body = (b"no image" if index % 100 == 99 else content) + bytes(FILE_BYTES)
        yield Upload(f"{index}.jpg", body, len(body))


def test_row_30_ten_thousand_files_are_taken_one_by_one_each_bad_one_with_its_reason(intake: ImageIngest) -> None:
    job = Job(new_id(), "large", NOW)
    intake.store.create(job)
    tracemalloc.start()
    try:
        outcomes = intake.take(job, uploads())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [outcome.filename for outcome in outcomes] == [f"{index}.jpg" for index in range(FILES)]
    rejected = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, RejectedUpload)}
    assert list(rejected) == list(range(99, FILES, 100))
    assert all("not an image" in rejection.message for rejection in rejected.values())
    assert intake.store.count_images(job.job_id) == intake.store.status(job.job_id).accepted == 9_900
    assert peak_bytes < MEMORY_BYTES
