"""A watch tells every viewer of a job everything once, in whatever order it comes, and reads the table for all."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from core.jobs.models import AcceptedCount, Counts, Job, JobStatus, Resend
from core.jobs.store import JobStore
from core.messages import Response
from services.errors import NotFoundError
from services.table import LAST
from tests.support.jobs import NOW, add_images, done, failed, put_results, record, request_again
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.results import known
from web_tier.results.watch import SEARCH_SECONDS, Event, Watch


@dataclass(frozen=True)
class CountingStore(JobStore):
    """Notes which results are read."""

    reads: list[tuple[str, str]] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)

    def status(self, job_id: str) -> JobStatus:
        self.looks.append(job_id)
        return super().status(job_id)

    def results(self, job_id: str, first: str = "", last: str = LAST) -> Mapping[str, Response]:
        self.reads.append((first, last))
        return super().results(job_id, first, last)


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def counting(store: JobStore) -> CountingStore:
    return CountingStore(store.table)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(counting: CountingStore, job: Job, clock: Clock) -> Watch:
    return Watch(counting, job.job_id, tell, clock=clock)


def tell(status: JobStatus) -> tuple[str, bool]:
    return json.dumps({"done": status.counts.done}), status.state == "finished"


def news(watch: Watch, cursor: str | None) -> tuple[list[tuple[str, Any]], str | None]:
    """Let the watch look; return what it tells after `cursor`, and the cursor after that."""
    watch.look()
    found = watch.wait(cursor, 0)
    told: list[tuple[str, Any]] = [(event.kind, json.loads(event.data)) for _, event in found]
    return told, found[-1][0] if found else cursor


def results_in(told: Sequence[tuple[str, Any]]) -> dict[str, str]:
    rows = [row for kind, body in told if kind == "results" for row in body["rows"]]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["status"] for row in rows}


def test_a_new_viewer_is_told_to_read_everything_and_how_far_the_job_is(
    watch: Watch, store: JobStore, job: Job
) -> None:
    add_images(store, job, "a.jpg", "b.jpg")
    told, _ = news(watch, None)
    assert told == [("resync", {}), ("progress", {"done": 0})]


def test_results_are_told_once_in_whatever_order_they_come(watch: Watch, store: JobStore, job: Job) -> None:
    one, two, three = add_images(store, job, "a.jpg", "b.jpg", "c.jpg")
    _, cursor = news(watch, None)
    put_results(store, job, done(three))
    told, cursor = news(watch, cursor)
    assert results_in(told) == {three.ref.image_id: "done"}
    put_results(store, job, done(three), failed(one))
    told, cursor = news(watch, cursor)
    assert results_in(told) == {one.ref.image_id: "failed"}
    put_results(store, job, done(three), failed(one), done(two))
    told, cursor = news(watch, cursor)
    assert results_in(told) == {two.ref.image_id: "done"}
    assert told[-1] == ("end", {"done": 2})


def test_nothing_is_told_when_nothing_is_new(watch: Watch, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    _, cursor = news(watch, None)
    assert news(watch, cursor)[0] == []


def test_results_are_read_only_while_the_counts_say_that_there_are_new_ones(
    watch: Watch, counting: CountingStore, job: Job
) -> None:
    one, _ = add_images(counting, job, "a.jpg", "b.jpg")
    news(watch, None)
    put_results(counting, job, done(one))
    news(watch, None)
    counting.reads.clear()
    news(watch, None)
    assert counting.reads == []


def test_blocks_in_which_every_image_has_its_result_are_not_read_again(
    watch: Watch, counting: CountingStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "BLOCK", 2)
    monkeypatch.setattr(known, "BLOCKS_A_LOOK", 1)
    images = add_images(counting, job, *[f"{n}.jpg" for n in range(6)])
    told, cursor = news(watch, None)
    put_results(counting, job, *[done(image) for image in images[:4]])
    found: dict[str, str] = {}
    for _ in range(3):  # one block a look, in turn
        told, cursor = news(watch, cursor)
        found |= results_in(told)
    assert set(found) == {image.ref.image_id for image in images[:4]}
    counting.reads.clear()
    monkeypatch.setattr(known, "BLOCKS_A_LOOK", 3)
    put_results(counting, job, *[done(image) for image in images])
    told, cursor = news(watch, cursor)
    assert counting.reads == [(images[4].ref.image_id, images[5].ref.image_id)]


def test_images_that_are_added_meanwhile_are_told_with_their_names(watch: Watch, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    _, cursor = news(watch, None)
    later = record(job, "b.jpg")
    store.record_images([later], NOW)
    store.put_accepted_count(job.job_id, "writer", AcceptedCount(2))
    told, _ = news(watch, cursor)
    assert told[0] == (
        "images",
        {"rows": [{"id": later.ref.image_id, "name": "b.jpg", "bytes": 1234, "status": "waiting"}]},
    )


def test_an_image_whose_id_lies_in_between_is_found_by_a_search(
    watch: Watch, store: JobStore, job: Job, clock: Clock
) -> None:
    early = record(job, "of another process.jpg")
    add_images(store, job, "a.jpg")
    _, cursor = news(watch, None)
    store.record_images([early], NOW)
    store.put_accepted_count(job.job_id, "writer", AcceptedCount(2))
    assert [kind for kind, _ in news(watch, cursor)[0]] == []
    clock.now += SEARCH_SECONDS
    told, _ = news(watch, cursor)
    assert [row["id"] for row in told[0][1]["rows"]] == [early.ref.image_id]


def test_a_failed_image_that_got_its_label_after_all_is_told_again(watch: Watch, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, job, failed(one), done(two))
    _, cursor = news(watch, None)
    put_results(store, job, done(one), done(two))
    told, _ = news(watch, cursor)
    assert results_in(told)[one.ref.image_id] == "done"


def rows_in(told: Sequence[tuple[str, Any]]) -> list[tuple[str, bool, str | None]]:
    """Return id, whether it is tried again, and reason of each row that tells a result."""
    rows = [row for kind, body in told if kind == "results" for row in body["rows"]]
    return [(row["id"], row.get("retrying", False), row.get("reason")) for row in rows]


def test_an_image_that_is_tried_again_is_told_and_so_is_its_newer_failure(
    watch: Watch, store: JobStore, job: Job
) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, job, failed(one), failed(two))
    told, cursor = news(watch, None)
    assert told[-1][0] == "end"
    request_again(store, [one], NOW + timedelta(seconds=1))
    told, cursor = news(watch, cursor)
    assert rows_in(told) == [(one.ref.image_id, True, "its workers crashed")]
    assert told[-1][0] == "progress"
    assert news(watch, cursor)[0] == []
    store.put_failed(failed(one, "worse", attempt=1))
    told, cursor = news(watch, cursor)
    assert rows_in(told) == [(one.ref.image_id, False, "worse")]
    assert told[-1][0] == "end"
    request_again(store, [one], NOW + timedelta(seconds=3))
    told, cursor = news(watch, cursor)
    assert rows_in(told) == [(one.ref.image_id, True, "worse")]


def test_a_failure_so_quick_that_nobody_saw_the_retry_is_told(watch: Watch, store: JobStore, job: Job) -> None:
    [one] = add_images(store, job, "a.jpg")
    put_results(store, job, failed(one))
    _, cursor = news(watch, None)
    request_again(store, [one], NOW + timedelta(seconds=1))
    store.put_failed(failed(one, "worse", attempt=1))
    told, cursor = news(watch, cursor)
    assert rows_in(told) == [(one.ref.image_id, False, "worse")]
    assert news(watch, cursor)[0] == []


def test_an_image_that_gets_its_label_when_it_is_tried_again_is_told_and_ends_the_job(
    watch: Watch, store: JobStore, job: Job
) -> None:
    [one] = add_images(store, job, "a.jpg")
    put_results(store, job, failed(one))
    request_again(store, [one], NOW + timedelta(seconds=1))
    _, cursor = news(watch, None)
    put_results(store, job, done(one))
    told, _ = news(watch, cursor)
    assert "done" in [row["status"] for kind, body in told if kind == "results" for row in body["rows"]]
    assert told[-1][0] == "end"


def test_an_image_that_the_system_requests_again_is_told_each_time(
    watch: Watch, counting: CountingStore, job: Job
) -> None:
    one, two = add_images(counting, job, "a.jpg", "b.jpg")
    told, cursor = news(watch, None)
    for times in (1, 2):
        resend = Resend(0, NOW, NOW, waited_seconds=60, times=times)
        counting.put_resends(job.job_id, {one.ref.image_id: resend})
        counting.store_counts(job.job_id, Counts(images=2, system_retried=1, resends=times))
        told, cursor = news(watch, cursor)
        assert told == [("results", {"rows": [{"id": one.ref.image_id, "status": "waiting", "again": times}]})]
    put_results(counting, job, done(two).model_copy(update={"attempts": 3}))
    told, cursor = news(watch, cursor)
    [row] = [row for kind, body in told if kind == "results" for row in body["rows"]]
    assert (row["id"], row["tries"]) == (two.ref.image_id, 3)


def test_many_retries_are_looked_at_some_at_a_time(
    watch: Watch, store: JobStore, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "RETRIES_A_LOOK", 2)
    images = add_images(store, job, *[f"{n}.jpg" for n in range(5)])
    put_results(store, job, *[failed(image) for image in images])
    _, cursor = news(watch, None)
    request_again(store, images, NOW + timedelta(seconds=1))
    found: list[tuple[str, bool, str | None]] = []
    for _ in range(3):
        told, cursor = news(watch, cursor)
        found += rows_in(told)
    assert [row[0] for row in found] == [image.ref.image_id for image in images]
    store.put_failed(failed(images[4], "worse", attempt=1))
    ended: list[tuple[str, bool, str | None]] = []
    for _ in range(3):
        told, cursor = news(watch, cursor)
        ended += rows_in(told)
    assert ended == [(images[4].ref.image_id, False, "worse")]


def test_a_viewer_that_comes_back_goes_on_where_it_was(watch: Watch, store: JobStore, job: Job) -> None:
    one, two = add_images(store, job, "a.jpg", "b.jpg")
    _, cursor = news(watch, None)
    put_results(store, job, done(one))
    watch.look()
    put_results(store, job, done(one), done(two))
    watch.look()
    told = [(event.kind, json.loads(event.data)) for _, event in watch.wait(cursor, 0)]
    assert set(results_in(told)) == {one.ref.image_id, two.ref.image_id}
    assert told[-1] == ("end", {"done": 2})


@pytest.mark.parametrize("cursor", ["", "x", "01ARZ3NDEKTSV4RRFFQ69G5FAV-1", "-", "1" * 50])
def test_a_cursor_of_another_run_or_of_none_gets_a_resync(
    watch: Watch, store: JobStore, job: Job, cursor: str
) -> None:
    add_images(store, job, "a.jpg")
    assert news(watch, cursor)[0][0][0] == "resync"


def test_a_viewer_that_missed_more_than_is_kept_gets_a_resync(store: JobStore, job: Job, clock: Clock) -> None:
    watch = Watch(store, job.job_id, tell, clock=clock, max_history=200)
    images = add_images(store, job, *[f"{n}.jpg" for n in range(4)])
    _, cursor = news(watch, None)
    for count in range(1, 5):
        put_results(store, job, *[done(image) for image in images[:count]])
        watch.look()
    assert watch.wait(cursor, 0)[0][1].kind == "resync"


def test_results_that_were_taken_back_begin_a_new_run(watch: Watch, store: JobStore, job: Job) -> None:
    one, _ = add_images(store, job, "a.jpg", "b.jpg")
    put_results(store, job, done(one))
    _, cursor = news(watch, None)
    store.store_counts(job.job_id, Counts(images=2))
    assert news(watch, cursor)[0][0][0] == "resync"


def test_many_viewers_share_one_look(counting: CountingStore, job: Job) -> None:
    watch = Watch(counting, job.job_id, tell)
    add_images(counting, job, "a.jpg")
    found: list[list[tuple[str, Event]]] = []
    viewers = [threading.Thread(target=lambda: found.append(watch.wait(None, 5))) for _ in range(8)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join(DEADLINE_SECONDS)
    assert [[event.kind for _, event in told] for told in found] == [["resync", "progress"]] * 8
    assert len(counting.looks) == 1


def test_a_job_that_is_gone_is_said_to_be(watch: Watch, store: JobStore, job: Job) -> None:
    add_images(store, job, "a.jpg")
    watch.look()
    store.delete(job)
    with pytest.raises(NotFoundError):
        watch.look()
