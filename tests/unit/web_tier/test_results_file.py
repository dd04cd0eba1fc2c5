"""The results file of a job: written once when the job is finished, and again when results change."""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError

from core.config import S3Grant
from core.ids import new_id
from core.jobs.buckets import OutputBucket
from core.jobs.figures import JobFigures
from core.jobs.keys import merged_key
from core.jobs.lifecycle import Cancellations, DeletedJobs, OpenJobs
from core.jobs.models import ImageRecord, Job, MergedFile, MinScores, ResultsCopy, TrueLabel
from core.jobs.store import JobStore
from services.errors import NotFoundError
from services.lease import Tenure
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images, client_error, done, failed, move_border, put_results, request_again
from tests.support.memory_aws.calls import run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from web_tier.controller import results_file
from web_tier.controller.results_file import (
    MAX_CHECK_SECONDS,
    MAX_OPEN_SECONDS,
    QUIET_SECONDS,
    ResultsCopier,
    ResultsFileWriter,
)

LATER = timedelta(seconds=QUIET_SECONDS + 1)


@dataclass
class Scene:
    """A job, the output bucket and a writer of results files, with clocks that the test sets."""

    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    outputs: MemoryBucket = field(default_factory=MemoryBucket)
    clock: Clock = field(default_factory=Clock)
    now: datetime = NOW + LATER
    active: bool = True
    results: str = ""
    buckets: MemorySource = field(default_factory=MemorySource)
    destinations: tuple[str, ...] = ("s3://photos/labels",)
    token: int = 0
    writer: ResultsFileWriter = field(init=False)

    def __post_init__(self) -> None:
        self.job = Job(new_id(), "holiday", NOW, results=self.results)
        self.store.create(self.job)
        self.start()

    def start(self) -> None:
        """Start a writer that remembers nothing, as after a crash."""
        outputs = OutputBucket(self.outputs)
        copier = ResultsCopier(self.buckets, outputs, [S3Grant(location=each) for each in self.destinations])
        tenure = Tenure(token=self.token, active=lambda: self.active)
        self.writer = ResultsFileWriter(
            self.store, outputs, tenure, copier, PlayedClock(self.clock, lambda: self.now)
        )

    def check(self) -> None:
        """Run a round when every job is due."""
        self.clock.now += MAX_CHECK_SECONDS + 1
        self.writer.tick()

    def lines(self) -> list[tuple[str, str]]:
        """Return filename and status of each line of the file."""
        rows = self.outputs.get(merged_key(self.job.job_id)).decode().splitlines()
        return [(row["filename"], row["status"]) for row in map(json.loads, rows)]

    def written_at(self) -> datetime | None:
        merged = self.store.status(self.job.job_id).merged
        return merged.written_at if merged else None

    def is_current(self) -> bool:
        status = self.store.status(self.job.job_id)
        return status.merged is not None and status.merged.edition == status.edition

    def retry(self, image: ImageRecord, at: datetime) -> None:
        """Record that an image was requested again, as the web tier does."""
        OpenJobs(self.store.table).reopen(self.job.job_id, at)
        request_again(self.store, [image], at)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_job_is_not_finished_again_when_only_the_border_of_doubt_has_moved(scene: Scene) -> None:
    finished, unrecorded = list[tuple[str, bool]](), (scene.job.job_id, False)
    scene.writer.on_finished.append(lambda job_id: finished.append((job_id, scene.is_current())))
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    put_results(scene.store, done(one), failed(two))
    scene.check()
    assert finished == [unrecorded]
    for border in (0.9, 0.7):
        move_border(scene.store, scene.job.job_id, MinScores(border), scene.now)
        assert not scene.is_current()
        scene.check()
        assert (scene.is_current(), finished) == (True, [unrecorded])
    scene.retry(two, NOW + timedelta(seconds=1))
    put_results(scene.store, done(one), done(two))
    scene.check()
    assert finished == [unrecorded] * 2, "other results"


def test_a_cancelled_job_gets_a_file_once_every_image_has_its_result(scene: Scene) -> None:
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    Cancellations(scene.store.table).cancel(scene.job.job_id, NOW)
    put_results(scene.store, done(one))
    scene.check()
    assert scene.written_at() is None
    put_results(scene.store, done(one), failed(two, "cancelled", "cancelled"))
    scene.check()
    assert scene.lines() == [("a.jpg", "done"), ("b.jpg", "failed")]


def test_a_finished_job_gets_a_file_of_all_results_once(scene: Scene) -> None:
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    put_results(scene.store, done(one), failed(two))
    scene.check()
    assert scene.lines() == [("a.jpg", "done"), ("b.jpg", "failed")]
    first = scene.written_at()
    assert first == scene.now
    assert scene.writer.is_done_with(scene.job.job_id)
    scene.now += timedelta(minutes=1)
    scene.check()
    scene.start()
    scene.check()
    assert scene.written_at() == first


def test_the_file_has_what_the_model_answered_and_no_true_labels(scene: Scene) -> None:
    """Users may set them at any time, and the file is not written again then."""
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, done(one))
    scene.store.set_truths(scene.job, {one.ref.image_id: TrueLabel("wolf", NOW)})
    scene.check()
    assert scene.lines() == [("a.jpg", "done")]
    assert b"wolf" not in scene.outputs.get(merged_key(scene.job.job_id))


def test_a_job_of_single_images_gets_no_file_and_may_be_closed(scene: Scene) -> None:
    job = Job(new_id(), "Single images", NOW, is_single=True)
    scene.store.create(job)
    [one] = add_images(scene.store, job, "a.jpg")
    put_results(scene.store, done(one))
    scene.check()
    assert (scene.outputs.objects, scene.writer.is_done_with(job.job_id)) == ({}, True)


def test_a_job_may_be_closed_although_the_reply_to_the_record_of_its_file_was_lost(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, failed(one))
    scene.retry(one, NOW + timedelta(seconds=1))
    scene.check()
    put_results(scene.store, failed(one, "worse", attempt=1))
    table = scene.store.table
    assert isinstance(table, MemoryTable)
    table.call = lose_reply_of_put
    scene.check()
    table.call = run_effect
    assert scene.is_current()
    scene.check()
    assert scene.writer.is_done_with(scene.job.job_id)


def lose_reply_of_put(operation: str, effect: Callable[[], Any]) -> Any:
    result = effect()
    if operation == "PutItem":
        raise HTTPClientError(error="the reply was lost")
    return result


@pytest.mark.parametrize("restarted", [False, True])
def test_a_retry_that_fails_again_is_in_the_file(scene: Scene, restarted: bool) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, failed(one))
    scene.check()
    scene.retry(one, NOW + timedelta(seconds=1))
    scene.check()
    assert not scene.is_current()
    assert not scene.writer.is_done_with(scene.job.job_id)
    before = scene.written_at()
    scene.now += timedelta(seconds=5)
    scene.check()
    assert scene.written_at() == before
    put_results(scene.store, failed(one, "worse", attempt=1))
    if restarted:
        scene.start()
    scene.check()
    assert scene.is_current()
    assert "worse" in scene.outputs.get(merged_key(scene.job.job_id)).decode()
    assert scene.writer.is_done_with(scene.job.job_id)


def test_a_controller_that_may_no_longer_act_leaves_the_file_as_it_was(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_file, "PAGE", 1)
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    put_results(scene.store, done(one), done(two))
    turns = iter([True, True, False])
    scene.writer.tenure = Tenure(active=lambda: next(turns, False))
    scene.writer.tick()
    assert scene.written_at() is None
    with pytest.raises(NotFoundError):
        scene.lines()


def test_a_merger_that_was_replaced_lets_the_later_one_write_the_file_again(scene: Scene) -> None:
    """Row 54."""
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, done(one))
    newer = MergedFile(merged_key(scene.job.job_id), "newer", NOW)
    assert JobFigures(scene.store.table).put_merged(scene.job.job_id, newer, token=9)
    scene.writer.tenure = Tenure(token=7)
    scene.check()
    assert scene.store.status(scene.job.job_id).merged is None
    assert OpenJobs(scene.store.table).is_open(scene.job.job_id)
    scene.writer.tenure = Tenure(token=10)
    scene.check()
    assert scene.is_current()


def test_a_file_that_cannot_be_written_delays_no_other(scene: Scene) -> None:
    other = Job(f"00{scene.job.job_id[2:]}", "other", NOW)  # older, so that it comes first
    scene.store.create(other)
    for each in (other, scene.job):
        put_results(scene.store, *[done(image) for image in add_images(scene.store, each, "a.jpg")])

    class Refusing(MemoryBucket):
        def put_parts(self, key: str, parts: Iterator[bytes], content_type: str) -> None:
            if key.startswith(other.job_id):
                raise client_error(503)
            super().put_parts(key, parts, content_type)

    scene.outputs = Refusing()
    scene.start()
    scene.check()
    assert scene.is_current()


def test_a_job_without_images_need_not_stay_open(scene: Scene) -> None:
    OpenJobs(scene.store.table).reopen(scene.job.job_id, NOW)
    scene.check()
    assert scene.writer.is_done_with(scene.job.job_id)
    assert scene.written_at() is None


def test_a_job_is_not_kept_open_for_its_file_for_ever(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, failed(one))
    scene.retry(one, NOW + timedelta(seconds=1))
    scene.check()
    assert not scene.writer.is_done_with(scene.job.job_id)
    scene.clock.now += MAX_OPEN_SECONDS + 1
    scene.check()
    assert scene.writer.is_done_with(scene.job.job_id)


def test_a_job_whose_images_waited_for_days_is_open_until_its_file_is_written(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    scene.check()
    scene.clock.now += 3 * MAX_OPEN_SECONDS
    scene.check()
    put_results(scene.store, done(one))
    assert not scene.writer.is_done_with(scene.job.job_id)
    scene.now = NOW
    scene.check()  # the last result has just arrived
    assert not scene.writer.is_done_with(scene.job.job_id)
    scene.now += LATER
    scene.check()
    assert scene.is_current()
    assert scene.writer.is_done_with(scene.job.job_id)


# Copies


class RefusedError(ClientError):
    """S3 refuses or fails a copy."""

    def __init__(self, status: int, code: str) -> None:
        answer: Any = {
            "Error": {"Code": code, "Message": f"message of {code}"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
        super().__init__(answer, "CopyObject")


@pytest.fixture
def copying() -> Scene:
    """Return a job of one failed image, with a location for its results."""
    scene = Scene(results="s3://photos/labels/day1")
    [image] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, failed(image))
    return scene


def image_in(scene: Scene) -> ImageRecord:
    [image] = scene.store.images(scene.job.job_id)
    return image


def copy_in(scene: Scene) -> bytes | None:
    """Return the user's copy."""
    return scene.buckets.objects.get(("photos", f"labels/day1/{scene.job.job_id}.jsonl"))


def state_in(scene: Scene) -> tuple[str, str]:
    status = scene.store.status(scene.job.job_id)
    return status.copy_state, status.copy.error if status.copy else ""


def test_a_complete_file_is_copied_once_and_the_job_stays_open_until_then(copying: Scene) -> None:
    copying.check()
    assert (copying.written_at(), copy_in(copying)) == (copying.now, None)
    assert state_in(copying) == ("waiting", "")
    assert not copying.writer.is_done_with(copying.job.job_id)
    copying.check()
    assert copy_in(copying) == copying.outputs.get(merged_key(copying.job.job_id))
    assert state_in(copying) == ("written", "")
    assert copying.writer.is_done_with(copying.job.job_id)
    copying.buckets.objects.clear()  # the copy is the user's own: it is not restored
    copying.check()
    copying.start()
    copying.check()
    assert copying.buckets.objects == {}


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "the controller's role needs s3:PutObject"),
        (404, "NoSuchBucket", "this bucket does not exist"),
        (400, "InvalidRequest", "message of InvalidRequest"),  # such as: the file has more than 5 GB
    ],
)
def test_a_refusal_is_reported_and_tried_again_only_when_results_change(
    copying: Scene, status: int, code: str, words: str
) -> None:
    copying.buckets.unwritable = lambda _bucket: RefusedError(status, code)
    copying.check()
    copying.check()
    state, error = state_in(copying)
    assert state == "failed"
    assert error.startswith("s3://photos/labels/day1: ")
    assert words in error
    assert code in error
    assert copying.writer.is_done_with(copying.job.job_id)
    copying.buckets.unwritable = lambda _bucket: None
    copying.check()
    assert copy_in(copying) is None
    copying.retry(image_in(copying), NOW + timedelta(seconds=1))
    put_results(copying.store, done(image_in(copying)))
    copying.check()
    copying.check()
    assert (copy_in(copying) is not None, state_in(copying)) == (True, ("written", ""))


def test_a_location_that_is_not_allowed_any_more_gets_no_copy(copying: Scene) -> None:
    copying.destinations = ("s3://photos/labels/day2",)
    copying.start()
    copying.check()
    copying.check()
    assert copy_in(copying) is None
    assert state_in(copying)[0] == "failed"
    assert "imports.destinations" in state_in(copying)[1]


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (403, "ExpiredToken")])
def test_an_error_of_the_service_delays_the_copy_and_never_fails_it(copying: Scene, status: int, code: str) -> None:
    tries = list[float]()

    def refuse(_bucket: str) -> Exception:
        tries.append(copying.clock.now)
        return RefusedError(status, code)

    copying.buckets.unwritable = refuse
    copying.check()
    copying.check()
    for _ in range(200):
        copying.clock.now += results_file.CHECK_SECONDS
        copying.writer.tick()
    assert state_in(copying) == ("waiting", "")
    pauses = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert 6 <= len(tries) <= 25
    assert max(pauses[:2]) < min(pauses[-2:]) <= results_file.MAX_COPY_PAUSE_SECONDS + results_file.CHECK_SECONDS
    copying.clock.now += MAX_OPEN_SECONDS
    assert not copying.writer.is_done_with(copying.job.job_id), "it does not expire meanwhile"
    copying.buckets.unwritable = lambda _bucket: None
    copying.check()
    assert (copy_in(copying) is not None, state_in(copying)) == (True, ("written", ""))
    assert copying.writer.is_done_with(copying.job.job_id)


def test_a_file_that_is_missing_is_written_again_and_then_copied(copying: Scene) -> None:
    copying.check()
    copying.outputs.delete(merged_key(copying.job.job_id))
    for _ in range(3):
        copying.check()
    assert copy_in(copying) == copying.outputs.get(merged_key(copying.job.job_id))


def test_a_controller_that_may_no_longer_act_copies_nothing_and_a_later_record_stays(copying: Scene) -> None:
    copying.check()
    copying.active = False
    copying.check()
    assert copy_in(copying) is None
    copying.active = True
    assert JobFigures(copying.store.table).put_copy(copying.job.job_id, ResultsCopy("later"), token=9)
    copying.check()
    status = copying.store.status(copying.job.job_id)
    assert status.copy == ResultsCopy("later")
    assert not copying.writer.is_done_with(copying.job.job_id)


def test_deleting_a_job_leaves_the_copy(copying: Scene) -> None:
    copying.check()
    copying.check()
    copied = copy_in(copying)
    DeletedJobs(copying.store.table).delete(copying.job)
    copying.check()
    assert copy_in(copying) == copied is not None
