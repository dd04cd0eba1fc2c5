"""The results file of a job: written once when the job is finished, and again when results change."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from core.ids import merged_key, new_id
from core.jobs.models import Counts, ImageRecord, Job, MergedFile, TrueLabel
from core.jobs.store import JobStore
from services.errors import NotFoundError
from tests.support.autoscaler import Clock
from tests.support.jobs import NOW, add_images, client_error, done, failed, put_results, request_again
from tests.support.memory_services import MemoryBucket
from tests.support.memory_table import MemoryTable
from web_tier.controller import results_file
from web_tier.controller.results_file import MAX_CHECK_SECONDS, MAX_OPEN_SECONDS, QUIET_SECONDS, ResultsFileWriter

LATER = timedelta(seconds=QUIET_SECONDS + 1)


@dataclass
class Scene:
    """A job, the output bucket and a writer of results files, with clocks that the test sets."""

    store: JobStore = field(default_factory=lambda: JobStore(MemoryTable()))
    outputs: MemoryBucket = field(default_factory=MemoryBucket)
    clock: Clock = field(default_factory=Clock)
    now: datetime = NOW + LATER
    active: bool = True
    writer: ResultsFileWriter = field(init=False)

    def __post_init__(self) -> None:
        self.job = Job(new_id(), "holiday", NOW)
        self.store.create(self.job)
        self.start()

    def start(self) -> None:
        """Start a writer that remembers nothing, as after a crash."""
        self.writer = ResultsFileWriter(self.store, self.outputs, lambda: self.active, self.clock, lambda: self.now)

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
        self.store.reopen(self.job.job_id, at)
        request_again(self.store, [image], at)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_cancelled_job_gets_a_file_once_every_image_has_its_result(scene: Scene) -> None:
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    scene.store.put_cancelled(scene.job.job_id, NOW)
    put_results(scene.store, scene.job, done(one))
    scene.check()
    assert scene.written_at() is None
    put_results(scene.store, scene.job, done(one), failed(two, "cancelled", "cancelled"))
    scene.check()
    assert scene.lines() == [("a.jpg", "done"), ("b.jpg", "failed")]


def test_a_finished_job_gets_a_file_of_all_results_once(scene: Scene) -> None:
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    put_results(scene.store, scene.job, done(one), failed(two))
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
    put_results(scene.store, scene.job, done(one))
    scene.store.set_truths(scene.job, {one.ref.image_id: TrueLabel("wolf", NOW)})
    scene.check()
    assert scene.lines() == [("a.jpg", "done")]
    assert b"wolf" not in scene.outputs.get(merged_key(scene.job.job_id))


def test_the_file_is_apart_from_predictions_and_replaces_one_of_an_earlier_version(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, done(one))
    old = f"{scene.job.job_id}/results.jsonl"
    scene.outputs.put(old, b"{}", "application/x-ndjson")
    scene.store.put_merged(scene.job.job_id, MergedFile(old, scene.store.status(scene.job.job_id).edition, NOW))
    scene.check()
    assert list(scene.outputs.objects) == [old], "it holds the current results"
    put_results(scene.store, scene.job, failed(one))
    scene.store.put_retried(scene.job.job_id, NOW)
    scene.check()
    assert list(scene.outputs.objects) == [f"results/{scene.job.job_id}.jsonl"]
    merged = scene.store.status(scene.job.job_id).merged
    assert merged is not None
    assert merged.key == f"results/{scene.job.job_id}.jsonl"


def test_a_job_of_single_images_gets_no_file_and_may_be_closed(scene: Scene) -> None:
    job = Job(new_id(), "Single images", NOW, is_single=True)
    scene.store.create(job)
    [one] = add_images(scene.store, job, "a.jpg")
    put_results(scene.store, job, done(one))
    scene.check()
    assert (scene.outputs.objects, scene.writer.is_done_with(job.job_id)) == ({}, True)


def test_a_running_job_and_one_that_has_just_finished_get_no_file(scene: Scene) -> None:
    one, two = add_images(scene.store, scene.job, "a.jpg", "b.jpg")
    put_results(scene.store, scene.job, done(one))
    scene.check()
    put_results(scene.store, scene.job, done(one), done(two))
    scene.now = NOW + timedelta(seconds=1)
    scene.check()
    assert scene.written_at() is None
    assert not scene.writer.is_done_with(scene.job.job_id)
    with pytest.raises(NotFoundError):
        scene.lines()


def test_a_file_is_written_again_when_results_change(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, failed(one))
    scene.check()
    put_results(scene.store, scene.job, done(one))
    scene.check()
    assert scene.lines() == [("a.jpg", "done")]


def test_images_that_the_web_tier_withdraws_are_in_no_file(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, done(one))
    [recorded] = add_images(scene.store, scene.job, "b.jpg")
    scene.check()
    assert scene.written_at() is None
    scene.store.delete_images([recorded.ref])
    scene.check()
    assert scene.lines() == [("a.jpg", "done")]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_retry_that_fails_again_is_in_the_file(scene: Scene, restarted: bool) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, failed(one))
    scene.check()
    scene.retry(one, NOW + timedelta(seconds=1))
    scene.check()
    assert not scene.is_current()
    assert not scene.writer.is_done_with(scene.job.job_id)
    before = scene.written_at()
    scene.now += timedelta(seconds=5)
    scene.check()
    assert scene.written_at() == before
    scene.store.put_failed(failed(one, "worse", attempt=1))
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
    put_results(scene.store, scene.job, done(one), done(two))
    turns = iter([True, True, False])
    ResultsFileWriter(scene.store, scene.outputs, lambda: next(turns, False), scene.clock, lambda: scene.now).tick()
    assert scene.written_at() is None
    with pytest.raises(NotFoundError):
        scene.lines()


def test_a_merger_that_was_replaced_lets_the_later_one_write_the_file_again(scene: Scene) -> None:
    """Row 54."""
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, done(one))
    newer = MergedFile(merged_key(scene.job.job_id), "newer", NOW)
    assert scene.store.put_merged(scene.job.job_id, newer, token=9)
    scene.writer.token = 7
    scene.check()
    assert scene.store.status(scene.job.job_id).merged is None
    assert scene.store.is_open(scene.job.job_id)
    scene.writer.token = 10
    scene.check()
    assert scene.is_current()


def test_a_file_that_cannot_be_written_delays_no_other(scene: Scene) -> None:
    other = Job(f"00{scene.job.job_id[2:]}", "other", NOW)  # older, so that it comes first
    scene.store.create(other)
    for each in (other, scene.job):
        put_results(scene.store, each, *[done(image) for image in add_images(scene.store, each, "a.jpg")])

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
    scene.store.reopen(scene.job.job_id, NOW)
    scene.check()
    assert scene.writer.is_done_with(scene.job.job_id)
    assert scene.written_at() is None


def test_a_job_is_not_kept_open_for_its_file_for_ever(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, failed(one))
    scene.retry(one, NOW + timedelta(seconds=1))
    scene.check()
    assert not scene.writer.is_done_with(scene.job.job_id)
    scene.clock.now += MAX_OPEN_SECONDS + 1
    assert scene.writer.is_done_with(scene.job.job_id)


def test_a_settled_job_is_checked_less_and_less_often_until_it_is_touched(scene: Scene) -> None:
    [one] = add_images(scene.store, scene.job, "a.jpg")
    put_results(scene.store, scene.job, done(one))
    for _ in range(8):
        scene.check()
    [two] = add_images(scene.store, scene.job, "b.jpg")
    scene.store.put_done([done(two)])
    scene.store.store_counts(scene.job.job_id, Counts(2, 0, 2, NOW, NOW))
    scene.clock.now += 3
    scene.writer.tick()
    assert len(scene.lines()) == 1
    scene.store.reopen(scene.job.job_id, NOW + timedelta(seconds=9))
    scene.writer.tick()
    assert len(scene.lines()) == 2
