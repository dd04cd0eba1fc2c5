"""Single images share a job and their writes; each is answered to its own client."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from core.images import ImageLimits
from core.jobs.buckets import InputBucket
from core.jobs.lifecycle import Cancellations, DeletedJobs
from core.jobs.models import ImageRecord, Job, MinScores
from core.jobs.store import JobStore
from core.messages import RequestMessage
from core.model_catalog import JobModel
from services.table import Put
from tests.support.clocks import ManualClock
from tests.support.jobs import NOW, client_error, picture
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.uploads import single
from web_tier.uploads.ingest import ImageIngest, RejectedUpload, UploadResult
from web_tier.uploads.multipart import Upload
from web_tier.uploads.single import MAX_JOB_AGE, MAX_JOB_IMAGES, SingleImages


@dataclass(frozen=True)
class WatchedStore(JobStore):
    """A job store that lists its writes; the first of them waits until `go` is set."""

    created: list[str] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    errors: list[Exception] = field(default_factory=list)

    def create(self, *jobs: Job) -> None:
        if jobs and self.errors:
            raise self.errors.pop()
        self.created.extend(job.job_id for job in jobs)
        super().create(*jobs)

    def record_images(
        self,
        images: Sequence[ImageRecord],
        touched_at: datetime,
        also: Sequence[Put] = (),
        *,
        presigned: bool = False,
    ) -> list[ImageRecord]:
        if images:
            self.writes.append(len(images))
        assert self.go.wait(DEADLINE_SECONDS)
        return super().record_images(images, touched_at, also, presigned=presigned)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0, NOW)


@pytest.fixture
def watched() -> WatchedStore:
    """A job store in memory."""
    watched = WatchedStore(MemoryTable())
    watched.go.set()
    return watched


@pytest.fixture
def singles(
    bucket: MemoryBucket, watched: WatchedStore, queue: MemoryQueue, clock: ManualClock
) -> Iterator[SingleImages]:
    ingest = ImageIngest(ImageLimits(), InputBucket(bucket), watched, queue, inspect)
    yield SingleImages(ingest, clock)
    ingest.pool.shutdown()


def an_upload(number: int = 0) -> Upload:
    data = picture(shade=number)
    return Upload(f"{number}.jpg", data, len(data))


def taken(outcome: tuple[UploadResult, MinScores] | None) -> ImageRecord:
    assert outcome is not None
    assert isinstance(outcome[0], ImageRecord), outcome
    return outcome[0]


def refused(outcome: tuple[UploadResult, MinScores] | None) -> RejectedUpload:
    assert outcome is not None
    assert isinstance(outcome[0], RejectedUpload), outcome
    return outcome[0]


def test_images_that_arrive_while_others_are_recorded_are_recorded_together(
    singles: SingleImages, watched: WatchedStore
) -> None:
    watched.go.clear()
    with ThreadPoolExecutor(20) as clients:
        outcomes = [clients.submit(singles.ingest_one, "", [an_upload(number)]) for number in range(20)]
        wait_until(lambda: sum(watched.writes) + len(singles._waiting) == 20, "all 20 images are taken in hand")
        watched.go.set()
        records = [taken(outcome.result(DEADLINE_SECONDS)) for outcome in outcomes]
    assert len(watched.writes) == 2
    assert [record.filename for record in records] == [f"{number}.jpg" for number in range(20)]
    assert len({record.ref.job_id for record in records}) == 1
    assert watched.status(records[0].ref.job_id).accepted == 20


def test_processes_that_see_another_default_at_different_times_mix_no_models_in_a_job(
    singles: SingleImages, clock: ManualClock, queue: MemoryQueue
) -> None:
    old, new = (JobModel(name, name[0] * 64, f"s3://outputs/models/{name}") for name in ("animals", "birds"))
    known = {"here": old, "there": old}
    here, there = (
        SingleImages(singles.ingest, clock, model=lambda name=name: known[name])  # type: ignore[misc]
        for name in known
    )
    sent = []
    for name, process in (("here", here), ("there", there), ("there", there), ("here", here)):
        sent.append((taken(process.ingest_one("", [an_upload()])).ref.job_id, known[name].requested))
        known["there"] = new
    known["here"] = new
    sent += [(taken(each.ingest_one("", [an_upload()])).ref.job_id, new.requested) for each in (here, there)]
    requests = [RequestMessage.from_json(body) for body in queue.bodies]
    assert [(request.job_id, request.model) for request in requests] == sent
    models = {job_id: {model for each, model in sent if each == job_id} for job_id, _ in sent}
    assert all(len(found) == 1 for found in models.values())
    # Once both know it, they share a job again.
    assert sent[-1][0] == sent[-2][0]


@pytest.fixture
def other(singles: SingleImages, clock: ManualClock) -> SingleImages:
    """The single images of another process."""
    return SingleImages(singles.ingest, clock)


def ingested(process: SingleImages, number: int = 0, owner: str = "") -> ImageRecord:
    return taken(process.ingest_one(owner, [an_upload(number)]))


def test_all_processes_share_the_job_of_a_user(
    singles: SingleImages, other: SingleImages, watched: WatchedStore, bucket: MemoryBucket
) -> None:
    records = [ingested(process, number) for number in range(3) for process in (singles, other)]
    [job] = watched.jobs(9)
    assert {record.ref.job_id for record in records} == {job.job_id}
    assert watched.status(job.job_id).accepted == 6
    assert bucket.objects.keys() == {record.key for record in records}
    annas = ingested(other, owner="anna").ref.job_id
    assert watched.created == [job.job_id, annas]


@pytest.mark.parametrize("dies", [False, True])
def test_a_job_that_is_current_before_it_exists_is_shared_or_replaced(
    dies: bool,
    singles: SingleImages,
    other: SingleImages,
    watched: WatchedStore,
    bucket: MemoryBucket,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create, made = WatchedStore.create, list[ImageRecord]()

    def create_late(store: WatchedStore, *jobs: Job) -> None:
        monkeypatch.setattr(WatchedStore, "create", create)
        if not dies:
            create(store, *jobs)
        made.append(ingested(other, 1, owner="anna"))
        if dies:
            raise client_error(503)

    monkeypatch.setattr(WatchedStore, "create", create_late)
    outcome = singles.ingest_one("anna", [an_upload(2)])
    if dies:
        refused(outcome)
        outcome = singles.ingest_one("anna", [an_upload(2)])
    made.append(taken(outcome))
    [job] = watched.jobs(9, owner="anna")
    assert {record.ref.job_id for record in made} == {job.job_id}
    assert watched.status(job.job_id).accepted == 2
    assert bucket.objects.keys() == {record.key for record in made}


@pytest.mark.parametrize("end", ["deleted", "cancelled", "full"])
def test_a_job_that_takes_no_more_images_has_one_successor_for_all_processes(
    end: str, singles: SingleImages, other: SingleImages, watched: WatchedStore, clock: ManualClock
) -> None:
    first = ingested(singles).ref.job_id
    assert ingested(other).ref.job_id == first
    if end == "deleted":
        DeletedJobs(watched.table).delete(watched.job(first))
    elif end == "cancelled":
        Cancellations(watched.table).cancel(first, NOW)
    else:
        for process in (singles, other):
            process._open[""].images = MAX_JOB_IMAGES
    successors = {ingested(process).ref.job_id for process in (other, singles, other)}
    assert len(successors) == 1
    assert first not in successors
    clock.at += MAX_JOB_AGE
    late = {ingested(process).ref.job_id for process in (singles, other)}
    assert len(late) == 1
    assert not late & {first, *successors}


def test_a_process_that_keeps_images_shares_no_job_with_one_that_does_not(
    singles: SingleImages, other: SingleImages, watched: WatchedStore
) -> None:
    other.keep = True
    assert [watched.job(ingested(process).ref.job_id).keep for process in (singles, other) * 2] == [False, True] * 2


def test_a_request_that_breaks_off_leaves_nothing(singles: SingleImages, bucket: MemoryBucket) -> None:
    def broken() -> Iterator[Upload]:
        yield an_upload()
        raise ConnectionError

    with pytest.raises(ConnectionError):
        singles.ingest_one("", broken())
    assert bucket.objects == {}


def test_an_image_whose_job_cannot_be_recorded_is_not_accepted_and_leaves_nothing(
    singles: SingleImages, watched: WatchedStore, bucket: MemoryBucket, queue: MemoryQueue
) -> None:
    watched.errors.append(client_error(503))
    outcome = singles.ingest_one("", [an_upload()])
    assert refused(outcome).code == "unavailable"
    assert (bucket.objects, queue.bodies) == ({}, [])
    taken(singles.ingest_one("", [an_upload()]))


def test_an_image_that_times_out_before_its_commit_is_rejected_and_leaves_nothing(
    singles: SingleImages,
    watched: WatchedStore,
    bucket: MemoryBucket,
    queue: MemoryQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched.go.clear()
    with ThreadPoolExecutor(1) as senders:
        first = senders.submit(singles.ingest_one, "", [an_upload(1)])
        wait_until(lambda: bool(watched.writes), "the first image is being recorded")
        with monkeypatch.context() as patch:
            patch.setattr(single, "MAX_WAIT_SECONDS", 0)
            refused(singles.ingest_one("", [an_upload(2)]))
        watched.go.set()
        accepted = taken(first.result(DEADLINE_SECONDS))
    later = taken(singles.ingest_one("", [an_upload(3)]))
    assert queue.image_ids == {accepted.ref.image_id, later.ref.image_id}
    assert set(bucket.objects) == {accepted.key, later.key}


def test_an_image_whose_commit_has_begun_is_waited_for(
    singles: SingleImages, watched: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, cancel, gives_up = singles._committer.submit, Future.cancel, threading.Event()

    def submit_until_begun(commit: Callable[[], None]) -> None:
        submit(commit)
        wait_until(lambda: bool(watched.writes), "the image is being recorded")

    def watched_cancel(future: "Future[UploadResult]") -> bool:
        gives_up.set()
        return cancel(future)

    monkeypatch.setattr(singles._committer, "submit", submit_until_begun)
    monkeypatch.setattr(Future, "cancel", watched_cancel)
    monkeypatch.setattr(single, "MAX_WAIT_SECONDS", 0)
    watched.go.clear()
    with ThreadPoolExecutor(1) as senders:
        sent = senders.submit(singles.ingest_one, "", [an_upload()])
        assert gives_up.wait(DEADLINE_SECONDS)
        watched.go.set()
        record = taken(sent.result(DEADLINE_SECONDS))
    assert watched.image(record.ref) == record


def test_an_unexpected_error_reaches_the_request(singles: SingleImages, watched: WatchedStore) -> None:
    watched.errors.append(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        singles.ingest_one("", [an_upload()])
    taken(singles.ingest_one("", [an_upload()]))


def test_images_whose_job_is_deleted_while_they_are_recorded_go_into_another(
    singles: SingleImages, watched: WatchedStore, queue: MemoryQueue
) -> None:
    annas, berts = taken(singles.ingest_one("anna", [an_upload()])), taken(singles.ingest_one("bert", [an_upload()]))
    recorded = len(watched.writes)
    watched.go.clear()
    with ThreadPoolExecutor(2) as senders:
        sent = [senders.submit(singles.ingest_one, "anna", [an_upload(1)])]
        wait_until(lambda: len(watched.writes) > recorded, "the image is being recorded")
        DeletedJobs(watched.table).delete(watched.job(annas.ref.job_id))
        sent.append(senders.submit(singles.ingest_one, "bert", [an_upload(2)]))
        watched.go.set()
        moved, other = [taken(each.result(DEADLINE_SECONDS)) for each in sent]
    assert moved.ref.job_id != annas.ref.job_id
    assert watched.image(moved.ref) == moved
    assert other.ref.job_id == berts.ref.job_id
    assert queue.image_ids == {each.ref.image_id for each in (annas, berts, moved, other)}


def test_open_jobs_are_bounded_and_no_image_is_lost(
    singles: SingleImages, monkeypatch: pytest.MonkeyPatch, watched: WatchedStore, clock: ManualClock
) -> None:
    monkeypatch.setattr(single, "MAX_OPEN_JOBS", 2)
    singles = SingleImages(singles.ingest, clock)
    order = ["a", "b", "a", "c", "a", "b"]
    records, opened = list[ImageRecord](), list[str]()
    for owner in order:
        records.append(taken(singles.ingest_one(owner, [an_upload()])))
        opened.append("".join(sorted(singles._open)))
    assert opened == ["a", "ab", "ab", "ac", "ac", "ab"], "c takes the place of b, since a has been here last"
    jobs = [record.ref.job_id for record in records]
    assert len(set(jobs)) == 3, "the job of b is found again in the table"
    assert [watched.job(job_id).owner for job_id in jobs] == order
