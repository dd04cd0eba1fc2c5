"""The job store: jobs, images, results and counts, and the counted images of presigned uploads."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from threading import Barrier

import pytest

from core.fleet.store import FleetStore
from core.idempotency import UploadCounts
from core.ids import ImageRef, input_key, new_id
from core.jobs.models import AcceptedCount, Counts, DeletedJob, ImageRecord, Job, OpenJob, Resend, with_result
from core.jobs.store import JobStore
from core.messages import Failure, Response, failed
from services.errors import NotFoundError
from services.table import Table
from tests.support.fleet import fleet_snapshot
from tests.support.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.processes

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(job_id: str, filename: str = "cat.jpg") -> ImageRecord:
    ref = ImageRef(job_id, new_id())
    return ImageRecord(ref, filename, input_key(ref, "jpg"), 10, NOW)


def done(ref: ImageRef, label: str = "cat") -> Response:
    return Response(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label=label, score=0.5, worker="i-1", attempts=1
    )


def not_done(ref: ImageRef) -> Response:
    return failed(ref, Failure(code="bad", message="no"), worker="i-1", attempts=1).response()


@pytest.fixture
def job(store: JobStore) -> Job:
    made = Job(new_id(), "summer", NOW)
    store.create(made)
    return made


def test_a_job_is_found_by_its_id_and_others_are_not(store: JobStore, job: Job) -> None:
    assert store.job(job.job_id) == job
    with pytest.raises(NotFoundError, match="there is no job"):
        store.job(new_id())
    with pytest.raises(NotFoundError):
        store.status(new_id())


def test_jobs_are_listed_newest_first_page_by_page(store: JobStore) -> None:
    jobs = [Job(f"01KDX5ZQ8R3M7Y2WVN6T4C9B{number:02}", f"job {number}", NOW) for number in range(5)]
    for each in jobs:
        store.create(each)
    assert store.jobs(2) == [jobs[4], jobs[3]]
    assert store.jobs(2, before=jobs[3].job_id) == [jobs[2], jobs[1]]
    assert store.jobs(9, before=jobs[0].job_id) == []


def test_a_job_goes_from_empty_over_running_to_finished(store: JobStore, job: Job) -> None:
    assert store.status(job.job_id).state == "empty"
    store.record_images([record(job.job_id), record(job.job_id)], NOW)
    store.put_accepted_count(job.job_id, "web-1", AcceptedCount(2))
    assert (store.status(job.job_id).state, store.status(job.job_id).waiting) == ("running", 2)
    counts = Counts(1, 1, 2, NOW, NOW + timedelta(seconds=1), system_retried=2, resends=3)
    store.store_counts(job.job_id, counts)
    assert store.counts(job.job_id) == counts
    status = store.status(job.job_id)
    assert (status.state, status.waiting, status.counts.last_result_at) == (
        "finished",
        0,
        NOW + timedelta(seconds=1),
    )


def test_what_several_web_processes_accepted_adds_up_and_never_goes_down(store: JobStore, job: Job) -> None:
    for writer, accepted in (("a", 2), ("b", 3), ("a", 5), ("a", 4)):
        store.put_accepted_count(job.job_id, writer, AcceptedCount(accepted))
    assert store.status(job.job_id).accepted == 8


def test_images_are_listed_in_order_from_any_of_them(store: JobStore, job: Job) -> None:
    images = sorted((record(job.job_id, f"{number}.jpg") for number in range(60)), key=lambda each: each.ref.image_id)
    store.record_images(images, NOW)
    assert list(store.images(job.job_id)) == images
    assert list(store.images(job.job_id, after=images[57].ref.image_id)) == images[58:]
    assert list(store.images(job.job_id, limit=2)) == images[:2]
    assert store.count_images(job.job_id) == 60
    assert store.image(images[7].ref) == images[7]
    store.delete_images([images[7].ref])
    with pytest.raises(NotFoundError, match="there is no image"):
        store.image(images[7].ref)


def test_the_same_filename_twice_is_two_images(store: JobStore, job: Job) -> None:
    store.record_images([record(job.job_id, "../../x"), record(job.job_id, "../../x")], NOW)
    assert [image.filename for image in store.images(job.job_id)] == ["../../x"] * 2


def test_done_beats_failed_and_a_later_failure_takes_the_place_of_an_earlier_one(store: JobStore, job: Job) -> None:
    first, second = ImageRef(job.job_id, new_id()), ImageRef(job.job_id, new_id())
    assert store.result(first) is None
    assert store.put_failed(not_done(first))
    later = not_done(first).model_copy(update={"attempts": 7})
    assert store.put_failed(later)
    assert store.result(first) == later
    store.put_done([done(first), done(second, "dog")])
    assert not any(store.put_failed(not_done(ref)) for ref in (first, second))
    assert store.statuses(job.job_id) == {first.image_id: "done", second.image_id: "done"}
    assert store.result(second) == done(second, "dog")
    assert store.results(job.job_id) == {first.image_id: done(first), second.image_id: done(second, "dog")}
    both = sorted([first.image_id, second.image_id])
    assert list(store.results(job.job_id, both[1], both[1])) == both[1:]


def test_resends_are_read_as_they_were_written_and_go_with_their_job(store: JobStore, job: Job) -> None:
    first, second = sorted(new_id() for _ in range(2))
    resends = {
        first: Resend(0, NOW, NOW, waited_seconds=60),
        second: Resend(1, NOW, NOW + timedelta(seconds=240), waited_seconds=120, times=2),
    }
    store.put_resends(job.job_id, resends)
    assert store.resends(job.job_id) == resends
    assert list(store.resends(job.job_id, second, second)) == [second]
    assert (store.statuses(job.job_id), store.count_images(job.job_id)) == ({}, 0)
    store.delete(job)
    assert store.remove_items(DeletedJob(job.job_id), 100) == 2
    assert store.resends(job.job_id) == {}


def test_results_of_images_of_any_jobs_are_found_together(store: JobStore) -> None:
    images = [record(new_id()) for _ in range(130)]
    store.put_done([done(image.ref, f"label {number}") for number, image in enumerate(images[:120])])
    store.put_failed(not_done(images[120].ref))
    found = store.results_of([image.ref for image in images])
    assert found.keys() == {image.ref for image in images[:121]}
    assert found[images[7].ref].label == "label 7"
    assert found[images[120].ref].status == "failed"


def test_a_job_is_closed_unless_images_were_added_since(store: JobStore, job: Job) -> None:
    store.record_images([record(job.job_id)], NOW)
    (seen,) = store.open_jobs()
    assert seen == OpenJob(job.job_id, NOW.isoformat())
    store.record_images([record(job.job_id)], NOW + timedelta(seconds=1))
    assert not store.close(seen)
    assert store.close(store.open_jobs()[0])
    assert store.open_jobs() == []
    store.record_images([], NOW)
    assert store.open_jobs() == []


def test_the_fleets_snapshot_is_the_last_one(store: JobStore) -> None:
    assert FleetStore(store.table).snapshot() is None
    snapshots = [fleet_snapshot(NOW, running=running) for running in (1, 2)]
    for snapshot in snapshots:
        FleetStore(store.table).put_snapshot(snapshot)
    assert FleetStore(store.table).snapshot() == snapshots[1]


@pytest.mark.parametrize(
    ("before", "now", "done_count", "failed_count"),
    [(None, "done", 1, 1), (None, "failed", 0, 2), ("failed", "done", 1, 0), ("failed", "failed", 0, 1)],
)
def test_counts_follow_what_an_image_was_and_is(before: str, now: str, done_count: int, failed_count: int) -> None:
    counts = with_result(Counts(0, 1, 5), before, now, NOW)  # type: ignore[arg-type]
    assert (counts.done, counts.failed, counts.images) == (done_count, failed_count, 5)


def test_a_result_that_is_done_is_not_counted_again() -> None:
    assert with_result(Counts(1, 0, 5), "done", "failed", NOW) == Counts(1, 0, 5)
    assert with_result(Counts(1, 0, 5), "done", "done", NOW) == Counts(1, 0, 5)


def test_what_is_said_and_what_is_counted_of_repeated_images_are_lower_bounds(store: JobStore, job: Job) -> None:
    later = NOW + timedelta(seconds=5)
    store.put_accepted_count(job.job_id, "web-1", AcceptedCount(4, 3, NOW, NOW))
    store.put_accepted_count(job.job_id, "web-2", AcceptedCount(2, 1, later, later))
    status = store.status(job.job_id)
    assert (status.accepted, status.waiting, status.counts.done, status.counts.cached) == (6, 2, 4, 4)
    assert (status.counts.first_at, status.counts.last_at) == (NOW, later)
    assert status.counts.first_result_at is None, "a time of a web process is none of the controller"
    # The controller has counted one of them so far, besides one that a worker answered.
    store.store_counts(job.job_id, Counts(2, 0, 3, NOW, NOW, cached=1))
    status = store.status(job.job_id)
    assert (status.accepted, status.waiting, status.counts.done, status.counts.cached) == (6, 1, 5, 4)
    # A web process has died before it said of one; the controller has seen all.
    store.store_counts(job.job_id, Counts(6, 1, 7, NOW, NOW, cached=5))
    status = store.status(job.job_id)
    assert (status.accepted, status.state, status.counts.done, status.counts.cached) == (7, "finished", 6, 5)


def test_what_a_job_and_its_images_are_is_read_as_it_was_written(store: JobStore) -> None:
    kept = Job(new_id(), "summer", NOW, keep=True)
    store.create(kept)
    assert store.job(kept.job_id) == kept
    cached = replace(record(kept.job_id), cached=True)
    failed_one = record(kept.job_id)
    store.record_images([cached, failed_one], NOW)
    retried = replace(failed_one, attempt=1, retried_at=NOW)
    assert store.replace_image(failed_one, retried)
    assert not store.replace_image(failed_one, retried), "of two retries that read the same, one wins"
    assert list(store.images(kept.job_id)) == [cached, retried]
    assert store.replace_image(retried, failed_one)
    assert list(store.images(kept.job_id)) == [cached, failed_one], "as it was"
    unknown = record(kept.job_id)
    assert not store.replace_image(unknown, replace(unknown, attempt=1)), "no record is made"


pytestmark = pytest.mark.processes


@pytest.fixture
def counts(table: Table) -> UploadCounts:
    return UploadCounts(table)


def test_an_image_is_marked_once_and_those_that_came_later_are_told_apart(counts: UploadCounts) -> None:
    job_id, upload_id = new_id(), new_id()
    assert counts.mark(job_id, upload_id, {"a", "b"}) == {"a", "b"}
    assert counts.mark(job_id, upload_id, {"a", "b"}) == set()
    assert counts.mark(job_id, upload_id, {"b", "c"}) == {"c"}
    assert counts.mark(job_id, new_id(), {"a"}) == {"a"}


def test_commits_at_the_same_time_never_mark_an_image_twice(counts: UploadCounts) -> None:
    job_id, upload_id, together = new_id(), new_id(), Barrier(8)

    def commit(number: int) -> list[str]:
        together.wait(DEADLINE_SECONDS)
        return list(counts.mark(job_id, upload_id, {str(each) for each in range(number, number + 10)}))

    with ThreadPoolExecutor(8) as commits:
        marked = list(chain.from_iterable(commits.map(commit, range(8))))
    assert len(marked) == len(set(marked)) > 0
