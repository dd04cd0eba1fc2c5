"""Single images share a job and their writes, and each is accepted or refused by itself."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from services.images import ImageLimits
from services.job_records import ImageRecord, Job
from services.jobs import JobStore
from tests.unit.web_tier.conftest import NOW, MemoryBucket, MemoryQueue, client_error
from tests.unit.web_tier.pictures import picture
from web_tier.intake.accept import Rejection
from web_tier.intake.multipart import Upload
from web_tier.intake.single import JOB_AGE, JOB_IMAGES, JOB_NAME, SingleIntake
from web_tier.intake.store import UNKEPT, Intake, Outcome


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class WatchedStore(JobStore):
    """A job store that lists its writes; the first of them waits until `go` is set."""

    writes: list[int] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception] = field(default_factory=list)

    def create(self, job: Job) -> None:
        if self.errors:
            raise self.errors.pop()
        super().create(job)

    def record_images(self, images: Sequence[ImageRecord], touched_at: datetime) -> None:
        self.writes.append(len(images))
        assert self.go.wait(20)
        super().record_images(images, touched_at)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(store: JobStore) -> WatchedStore:
    watched = WatchedStore(store.table)
    watched.go.set()
    return watched


@pytest.fixture
def singles(bucket: MemoryBucket, watched: WatchedStore, queue: MemoryQueue, clock: Clock) -> Iterator[SingleIntake]:
    intake = Intake(ImageLimits(), bucket, watched, queue)
    yield SingleIntake(intake, clock)
    intake.pool.shutdown()


def an_upload(number: int = 0) -> Upload:
    data = picture(shade=number)
    return Upload(f"{number}.jpg", data, len(data))


def taken(outcome: Outcome | None) -> ImageRecord:
    assert isinstance(outcome, ImageRecord), outcome
    return outcome


def test_an_image_is_recorded_sent_and_counted_in_a_job_that_says_what_it_is(
    singles: SingleIntake, store: JobStore, queue: MemoryQueue, bucket: MemoryBucket
) -> None:
    record = taken(singles.take([an_upload()]))
    status = store.status(record.ref.job_id)
    assert (status.job.name, status.accepted) == (JOB_NAME, 1)
    assert store.image(record.ref).filename == "0.jpg"
    assert queue.image_ids == {record.ref.image_id}
    assert list(bucket.objects) == [record.key]
    assert (status.job.keep, bucket.tags) == (False, {record.key: UNKEPT})


def test_images_that_arrive_while_others_are_recorded_are_recorded_together(
    singles: SingleIntake, watched: WatchedStore, store: JobStore
) -> None:
    watched.go.clear()
    with ThreadPoolExecutor(20) as clients:
        outcomes = [clients.submit(singles.take, [an_upload(number)]) for number in range(20)]
        pause = threading.Event()
        while sum(watched.writes) + len(singles._waiting) < 20:
            assert not pause.wait(0.005)
        watched.go.set()
        records = [taken(outcome.result(20)) for outcome in outcomes]
    assert len(watched.writes) == 2
    assert [record.filename for record in records] == [f"{number}.jpg" for number in range(20)]
    assert len({record.ref.job_id for record in records}) == 1
    assert store.status(records[0].ref.job_id).accepted == 20


def test_a_new_job_is_begun_when_the_last_one_is_full_or_old(singles: SingleIntake, clock: Clock) -> None:
    first = taken(singles.take([an_upload()])).ref.job_id
    clock.now += JOB_AGE - timedelta(seconds=1)
    assert taken(singles.take([an_upload()])).ref.job_id == first
    clock.now += timedelta(seconds=1)
    second = taken(singles.take([an_upload()])).ref.job_id
    assert second != first
    jobs = {singles._job_to_use().job.job_id for _ in range(JOB_IMAGES)}
    assert len(jobs) == 2


def test_a_file_that_is_no_image_is_refused_and_makes_no_job(singles: SingleIntake, store: JobStore) -> None:
    outcome = singles.take([Upload("a.jpg", b"no image", 8)])
    assert isinstance(outcome, Rejection)
    assert outcome.code == "not_an_image"
    assert store.jobs(10) == []


def test_a_request_without_a_file_is_told_apart(singles: SingleIntake) -> None:
    assert singles.take([]) is None


def test_a_request_that_breaks_off_leaves_nothing(singles: SingleIntake, bucket: MemoryBucket) -> None:
    def broken() -> Iterator[Upload]:
        yield an_upload()
        raise ConnectionError

    with pytest.raises(ConnectionError):
        singles.take(broken())
    assert bucket.objects == {}


def test_an_image_whose_job_cannot_be_recorded_is_not_accepted_and_leaves_nothing(
    singles: SingleIntake, watched: WatchedStore, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    watched.errors.append(client_error(503))
    outcome = singles.take([an_upload()])
    assert isinstance(outcome, Rejection)
    assert outcome.code == "unavailable"
    assert (bucket.objects, queue.bodies) == ({}, [])
    taken(singles.take([an_upload()]))


def test_once_its_job_has_been_deleted_images_go_into_a_new_one(
    singles: SingleIntake, store: JobStore, queue: MemoryQueue
) -> None:
    deleted = taken(singles.take([an_upload()])).ref.job_id
    store.delete(deleted)
    assert isinstance(singles.take([an_upload()]), Rejection)
    assert taken(singles.take([an_upload()])).ref.job_id != deleted
    assert len(queue.bodies) == 2


def test_an_error_that_nobody_expects_reaches_the_request(singles: SingleIntake, watched: WatchedStore) -> None:
    watched.errors.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        singles.take([an_upload()])
    taken(singles.take([an_upload()]))
