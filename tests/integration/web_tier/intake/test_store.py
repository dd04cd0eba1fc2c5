"""Accepted means: object, record and message are there. Whatever fails, nothing is lost and nothing is doubled."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from core.ids import ImageRef
from core.image_limits import ImageLimits
from core.job_records import ImageRecord, Job, Said
from core.jobs import JobStore
from services.sqs import OutgoingMessage
from services.table import TableBusyError
from tests.support.jobs import NOW, MemoryBucket, MemoryQueue, client_error
from tests.support.pictures import picture
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.intake.accept import RejectedUpload
from web_tier.intake.budget import MemoryLimiter
from web_tier.intake.multipart import Upload
from web_tier.intake.store import CONCURRENCY, SLICE, UNKEPT, ImageIngest, Outcome

SEND_ERRORS = (
    client_error(503),
    # The first try took place, its reply was lost, and the repeat was refused.
    client_error(400, "RequestThrottled"),
    EndpointConnectionError(endpoint_url="http://queue"),
    ReadTimeoutError(endpoint_url="http://queue"),
)


@dataclass(frozen=True)
class FailingStore(JobStore):
    """A job store whose steps can be told to fail, before or after they took place."""

    before: dict[str, Exception] = field(default_factory=dict)
    after: dict[str, Exception] = field(default_factory=dict)

    def record_images(self, images: Sequence[ImageRecord], touched_at: object) -> None:
        self._around("record_images", lambda: super(FailingStore, self).record_images(images, NOW))

    def forget_images(self, refs: Sequence[ImageRef]) -> None:
        self._around("forget_images", lambda: super(FailingStore, self).forget_images(refs))

    def say_accepted(self, job_id: str, writer_id: str, said: Said) -> None:
        self._around("say_accepted", lambda: super(FailingStore, self).say_accepted(job_id, writer_id, said))

    def _around(self, step: str, call: Callable[[], None]) -> None:
        if step in self.before:
            raise self.before[step]
        call()
        if step in self.after:
            raise self.after[step]


@pytest.fixture
def failing(store: JobStore) -> FailingStore:
    return FailingStore(store.table)


@pytest.fixture
def intake(bucket: MemoryBucket, failing: FailingStore, queue: MemoryQueue) -> Iterator[ImageIngest]:
    intake = ImageIngest(ImageLimits(), bucket, failing, queue)
    yield intake
    intake.pool.shutdown()


def uploads(count: int, *, broken: Sequence[int] = ()) -> list[Upload]:
    """Return files of which those at `broken` are no images; each content is another."""
    contents = [b"no image" if index in broken else picture(size=(8, index + 1)) for index in range(count)]
    return [Upload(f"{index}.jpg", content, len(content)) for index, content in enumerate(contents)]


def accepted(outcomes: Sequence[Outcome]) -> list[ImageRecord]:
    return [outcome for outcome in outcomes if isinstance(outcome, ImageRecord)]


def codes(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.code for outcome in outcomes if isinstance(outcome, RejectedUpload)]


def recorded(store: JobStore, job: Job) -> set[str]:
    return {image.ref.image_id for image in store.images(job.job_id)}


def test_an_accepted_image_has_its_object_its_record_and_its_message(
    intake: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    files = uploads(23)
    images = accepted(intake.take(job, files))
    ids = {image.ref.image_id for image in images}
    assert len(ids) == 23
    assert recorded(store, job) == queue.image_ids == ids
    assert [bucket.objects[image.key] for image in images] == [file.data for file in files]
    assert store.status(job.job_id).accepted == 23


@pytest.mark.parametrize(("keep", "tags"), [(False, UNKEPT), (True, None)], ids=["unkept", "kept"])
def test_only_an_object_of_a_job_that_does_not_keep_images_is_tagged(
    intake: ImageIngest, job: Job, bucket: MemoryBucket, keep: bool, tags: dict[str, str] | None
) -> None:
    images = accepted(intake.take(replace(job, keep=keep), uploads(3)))
    assert bucket.tags == {image.key: tags for image in images}


def test_a_bad_file_is_rejected_alone_and_in_its_place(
    intake: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    outcomes = intake.take(job, uploads(5, broken=[1, 4]))
    assert [type(outcome) for outcome in outcomes] == [
        ImageRecord,
        RejectedUpload,
        ImageRecord,
        ImageRecord,
        RejectedUpload,
    ]
    assert [outcome.filename for outcome in outcomes] == [f"{index}.jpg" for index in range(5)]
    assert len(bucket.objects) == len(queue.bodies) == len(recorded(store, job)) == 3
    assert store.status(job.job_id).accepted == 3


def test_more_images_than_a_slice_are_all_taken(
    intake: ImageIngest, store: JobStore, job: Job, queue: MemoryQueue
) -> None:
    content = picture()
    files = [Upload("a.jpg", content, len(content))] * (SLICE + 2)
    assert len(accepted(intake.take(job, files))) == SLICE + 2
    assert len(queue.image_ids) == store.count_images(job.job_id) == SLICE + 2


def test_objects_are_put_at_the_same_time(job: Job, store: JobStore, queue: MemoryQueue) -> None:
    together = threading.Barrier(CONCURRENCY)

    class Meeting(MemoryBucket):
        def put(self, key: str, body: bytes, content_type: str, tags: Mapping[str, str] | None = None) -> None:
            together.wait(DEADLINE_SECONDS)  # breaks, and fails the test, unless all are in here at once

    intake = ImageIngest(ImageLimits(), Meeting(), store, queue)
    assert len(accepted(intake.take(job, uploads(CONCURRENCY)))) == CONCURRENCY
    intake.pool.shutdown()


def test_an_image_that_the_bucket_does_not_take_is_not_accepted(
    intake: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    files = uploads(3)
    bucket.fails = lambda body: client_error(503) if body == files[1].data else None
    outcomes = intake.take(job, files)
    assert codes(outcomes) == ["unavailable"]
    assert len(recorded(store, job)) == len(queue.bodies) == store.status(job.job_id).accepted == 2


@pytest.mark.parametrize("moment", ["before", "after"])
def test_images_that_could_not_be_recorded_are_not_accepted_even_if_the_record_is_there(
    intake: ImageIngest, failing: FailingStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue, moment: str
) -> None:
    getattr(failing, moment)["record_images"] = TableBusyError("busy")
    outcomes = intake.take(job, uploads(3))
    assert codes(outcomes) == ["unavailable"] * 3
    assert (recorded(failing, job), bucket.objects, queue.bodies) == (set(), {}, [])
    assert failing.status(job.job_id).accepted == 0


@pytest.mark.parametrize("error", SEND_ERRORS, ids=str)
def test_images_whose_request_may_not_be_sent_are_accepted_since_their_record_stands(
    intake: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue, error: Exception
) -> None:
    # The message may be there, so taking the image back could lose a result; the reconciler sends what is missing.
    queue.fails = _raiser(error)
    images = accepted(intake.take(job, uploads(3)))
    assert len(images) == 3
    assert {image.ref.image_id for image in images} == recorded(store, job)
    assert {image.key for image in images} == set(bucket.objects)
    assert store.status(job.job_id).accepted == 3


def test_an_image_whose_request_the_queue_returns_is_accepted(
    intake: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    queue.fails = lambda messages: list(messages[:1])
    images = accepted(intake.take(job, uploads(12)))
    assert len(recorded(store, job)) == len(bucket.objects) == len(images) == 12
    assert len(queue.bodies) == 10  # all but one of each batch of ten


def test_an_image_that_may_be_recorded_keeps_its_object_and_its_client_is_told(
    intake: ImageIngest, failing: FailingStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    failing.after["record_images"] = TableBusyError("busy")
    failing.before["forget_images"] = client_error(503)
    [outcome] = intake.take(job, uploads(1))
    assert isinstance(outcome, RejectedUpload)
    assert (outcome.code, "may have been stored" in outcome.message) == ("unavailable", True)
    assert (len(recorded(failing, job)), len(bucket.objects), queue.bodies) == (1, 1, [])


def test_a_count_that_could_not_be_stored_takes_nothing_back(
    intake: ImageIngest, failing: FailingStore, job: Job
) -> None:
    failing.before["say_accepted"] = client_error(503)
    assert len(accepted(intake.take(job, uploads(2)))) == 2
    failing.before.clear()
    intake.take(job, uploads(1))
    assert failing.status(job.job_id).accepted == 3


def test_a_request_that_breaks_off_leaves_nothing_behind(
    intake: ImageIngest, store: JobStore, job: Job, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    def cut() -> Iterator[Upload]:
        yield from uploads(30, broken=[3])
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        intake.take(job, cut())
    assert (bucket.objects, queue.bodies, recorded(store, job)) == ({}, [], set())


def test_the_next_file_is_not_read_before_there_is_memory_for_it(
    intake: ImageIngest, job: Job, bucket: MemoryBucket
) -> None:
    content = picture()
    budget = MemoryLimiter(2 * len(content))
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
    assert len(accepted(replace(intake, budget=budget).take(job, read()))) == 20
    assert most <= 3  # two that the budget holds, and the one that waits for its turn


def _raiser(error: Exception) -> Callable[[Sequence[OutgoingMessage]], list[OutgoingMessage]]:
    def fail(messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        raise error

    return fail
