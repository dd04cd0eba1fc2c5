"""Packs of an upload: which images are in each, and what becomes of them all."""

import tarfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from itertools import groupby
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ulid import ULID

from core.ids import PLACES, new_id, place_of
from core.images import ImageLimits
from core.jobs.buckets import InputBucket
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import PackSizes
from core.jobs.store import JobStore
from core.messages import RequestMessage
from tests.support.jobs import NOW, client_error, member, picture
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from web_tier.http import memory
from web_tier.http.memory import MemoryLimiter
from web_tier.uploads import packing
from web_tier.uploads.idempotency import ingest_idempotent
from web_tier.uploads.ingest import ImageIngest, RejectedUpload
from web_tier.uploads.multipart import Upload

MANY: Final = PackSizes(50, lambda: 0.01)
UNSTORED: Final = picture("PNG", size=(3, 2))
"""The bucket refuses an object with this image."""

CONTENTS: Final = (*(picture("JPEG", shade=shade) for shade in range(6)), *(picture("PNG", shade=9), UNSTORED))
BROKEN: Final = b"no image"


@pytest.mark.parametrize(
    ("max_images", "so_far", "left", "image_seconds", "size"),
    [
        (50, 0, None, 0.01, 1),
        (50, 7, None, 0.01, 1),
        (50, 8, None, 0.01, 2),
        (50, 199, None, 0.01, 49),
        (50, 10**6, None, 0.01, 50),
        (1, 10**6, None, 0.01, 1),
        (50, 10**6, 10**6, 0.01, 50),
        (50, 10**6, 799, 0.01, 49),
        (50, 10**6, 31, 0.01, 1),
        (50, 10**6, 0, 0.01, 1),
        (50, 8, 10**6, 0.01, 2),
        (50, 10**6, None, None, 8),
        (50, 10**6, None, 0.0, 8),
        (50, 12, None, None, 3),
        (50, 10**6, None, 0.1, 20),
        (50, 10**6, None, 3.0, 1),
    ],
)
def test_the_next_pack_is_small_at_both_ends_of_a_job_and_for_slow_workers(
    max_images: int, so_far: int, left: int | None, image_seconds: float | None, size: int
) -> None:
    assert PackSizes(max_images, lambda: image_seconds).next_size(so_far, left) == size


@pytest.mark.parametrize(("max_workers", "size"), [(0, 40), (1, 40), (2, 40), (5, 16), (8, 10), (19, 10)])
def test_the_last_packs_are_the_smaller_the_more_workers_share_them(max_workers: int, size: int) -> None:
    assert PackSizes(50, lambda: 0.01, max_workers).next_size(10**6, 160) == size


class Site:
    """A job in services in memory."""

    def __init__(self) -> None:
        self.bucket, self.queue, self.store = MemoryBucket(), MemoryQueue(), JobStore(MemoryTable())
        self.bucket.fails = lambda body: client_error(503) if UNSTORED in body else None
        self.job = Job(new_id(), "job", NOW, owner="ann")
        self.store.create(self.job)
        self.ingest = ImageIngest(
            ImageLimits(), InputBucket(self.bucket), self.store, self.queue, inspect, sizes=MANY
        )

    def requests(self) -> list[RequestMessage]:
        return [RequestMessage.from_json(body) for body in self.queue.bodies]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.ingest.pool.shutdown()


def upload(number: int, content: bytes, position: int | None = None) -> Upload:
    return Upload(f"{number}.gif", content, len(content), position=position)


def accepted(results: Sequence[ImageRecord | RejectedUpload]) -> list[ImageRecord]:
    return [result for result in results if isinstance(result, ImageRecord)]


_contents = st.sampled_from([*CONTENTS[:7]] * 3 + [BROKEN, UNSTORED])
_positions = st.one_of(
    st.none(),
    st.integers(0, 100),
    st.lists(st.integers(1, 2), min_size=60, max_size=60).map(lambda steps: [sum(steps[:end]) for end in range(60)]),
)


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(_contents, min_size=1, max_size=60),
    positions=_positions,
    so_far=st.sampled_from((0, 40, 400)),
    max_bytes=st.sampled_from((2_000, 2**25)),
    has_key=st.booleans(),
)
def test_a_pack_has_the_bytes_of_its_images_one_item_and_one_request(
    contents: list[bytes], positions: list[int] | int | None, so_far: int, max_bytes: int, *, has_key: bool
) -> None:
    site, patch = Site(), pytest.MonkeyPatch()
    patch.setattr(packing, "MAX_PACK_BYTES", max_bytes)
    places = [*range(positions, positions + 60)] if isinstance(positions, int) else positions
    files = [upload(index, each, places[index] if places else None) for index, each in enumerate(contents)]
    try:
        if has_key:
            results = ingest_idempotent(site.ingest, site.job, "key", files, so_far=so_far)
            assert ingest_idempotent(site.ingest, site.job, "key", files, so_far=2_000) == results
        else:
            results = site.ingest.ingest(site.job, files, so_far=so_far)
    finally:
        site.ingest.pool.shutdown()
        patch.undo()
    images = accepted(results)
    packs = [list(pack) for _, pack in groupby(images, key=lambda image: image.pack_id)]
    assert len(packs) == len({image.pack_id for image in images}), "a pack has neighbours in the order of the files"
    assert images == sorted(images, key=lambda image: image.ref.image_id)
    assert sorted(site.bucket.objects) == sorted(pack[0].key for pack in packs)
    for pack in packs:
        data = [contents[index] for index, result in enumerate(results) if result in pack]
        assert [place_of(image.ref.image_id) for image in pack] == [*range(len(pack))]
        assert {image.sizes for image in pack} == {tuple(map(len, data))}
        stored = site.bucket.objects[pack[0].key]
        assert [member(image.sizes, stored, place) for place, image in enumerate(pack)] == data
        if len(pack) == 1:
            assert (stored, site.bucket.types[pack[0].key]) == (data[0], pack[0].content_type)
            continue
        assert sum(map(len, data)) <= max_bytes
        assert site.bucket.types[pack[0].key] == "application/x-tar"
        with tarfile.open(fileobj=BytesIO(stored)) as tar:
            assert [tar.extractfile(each).read() for each in tar] == data  # type: ignore[union-attr]
            assert [each.name for each in tar] == [
                f"{place:02}.{image.extension}" for place, image in enumerate(pack)
            ]
    for index, result in enumerate(results):
        assert isinstance(result, ImageRecord) or contents[index] != BROKEN or result.code == "not_an_image"
        assert contents[index] in CONTENTS[:7] or not isinstance(result, ImageRecord)
        if places and isinstance(result, ImageRecord):
            first = int.from_bytes(ULID.from_str(result.pack_id).bytes[6:10]) // PLACES
            assert first + place_of(result.ref.image_id) == places[index], "the id names the position"
    if UNSTORED not in contents:
        assert len(images) == len(contents) - contents.count(BROKEN)
    assert {image.ref.image_id: image for image in site.store.images(site.job.job_id)} == {
        image.ref.image_id: image for image in images
    }
    assert site.store.status(site.job.job_id).accepted == len(images)
    asked = [ref for request in site.requests()[: len(packs)] for ref in request.refs]
    assert sorted(asked, key=lambda ref: ref.image_id) == sorted((i.ref for i in images), key=lambda r: r.image_id)
    assert len(site.requests()) == len(packs) * (1 + has_key)


def test_a_slow_sender_keeps_no_memory_that_another_one_waits_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RECLAIM_SECONDS", 0.01)
    files = [upload(index, content) for index, content in enumerate(CONTENTS[:2])]
    is_sent, may_go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[Upload]:
        yield from files
        is_sent.set()
        may_go_on.wait()
        yield from files

    ingest = replace(site.ingest, memory=MemoryLimiter(2 * max(file.size for file in files)))
    with ThreadPoolExecutor(1) as senders:
        slow = senders.submit(ingest.ingest, site.job, slowly(), so_far=400)
        is_sent.wait()
        try:
            quick = accepted(ingest.ingest(site.job, files, so_far=400))
        finally:
            may_go_on.set()
        images = [*accepted(slow.result()), *quick]
    assert [len(image.sizes) for image in images] == [2] * 6
    assert len(site.bucket.objects) == 3


@pytest.mark.parametrize("positions", [(0, 1, 2), (0, 10, 20)], ids=["in an open pack", "in packs"])
def test_an_upload_that_breaks_off_leaves_no_object_and_no_bytes_in_memory(
    site: Site, positions: Sequence[int]
) -> None:
    limiter = MemoryLimiter(10**6)

    def cut() -> Iterator[Upload]:
        for index, position in enumerate(positions):
            yield upload(index, CONTENTS[index], position)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        replace(site.ingest, memory=limiter).ingest(site.job, cut(), so_far=400)
    limiter.acquire(10**6, wait_seconds=0)
    assert (site.bucket.objects, site.queue.bodies, [*site.store.images(site.job.job_id)]) == ({}, [], [])
