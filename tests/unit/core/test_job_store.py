"""The job store: jobs, owners, images, results and counts, and what a process leaves that dies between two writes."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain, count
from typing import Any, cast

import pytest

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.keys import input_key
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import (
    Counts,
    DeletedJob,
    ImageRecord,
    Job,
    MinScores,
    OpenJob,
    TrueLabel,
)
from core.jobs.store import MAX_CHANGES, SLOW_RECORD_SECONDS, JobStore
from core.jobs.uploads import UploadCounts
from core.messages import ClassificationResult, Failure, failed
from services.errors import NotFoundError
from services.table import TableBusyError
from tests.support.clocks import ManualClock
from tests.support.memory_aws.calls import meeting
from tests.support.memory_aws.dynamodb import MemoryTable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(job_id: str, filename: str = "cat.jpg") -> ImageRecord:
    ref = ImageRef(job_id, new_id())
    return ImageRecord(ref, filename, input_key(ref, "jpg"), 10, NOW)


def done(ref: ImageRef, label: str = "cat") -> ClassificationResult:
    return ClassificationResult(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label=label, score=0.5, worker="i-1", attempts=1
    )


def not_done(ref: ImageRef) -> ClassificationResult:
    return failed(ref, Failure(code="bad", message="no"), worker="i-1", attempts=1).response()


@pytest.fixture
def job(store: JobStore) -> Job:
    made = Job(new_id(), "summer", NOW)
    store.create(made)
    return made


@pytest.mark.parametrize("before", [MinScores(), MinScores(0.6, {"elk": 0.1})])
@pytest.mark.parametrize("is_written", [False, True], ids=["", "as by a user who returned to the usual scores"])
def test_concurrent_changes_of_parts_of_the_min_scores_all_hold(before: MinScores, is_written: bool) -> None:
    table = MemoryTable()
    store, job = JobStore(table), Job(new_id(), "summer", NOW, owner="anna", min_scores=before)
    store.create(job)
    if is_written:
        store.change_min_scores(job, lambda scores: scores, NOW)
    calls = count()

    def other_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem" and next(calls) == 0:
            store.change_min_scores(job, lambda scores: replace(scores, every=0.9), NOW)
        return effect()

    table.call = other_first
    changed = store.change_min_scores(job, lambda scores: replace(scores, labels={"fox": 0.2}), NOW)
    assert changed.min_scores == MinScores(0.9, {"fox": 0.2})
    assert store.jobs(9, owner="anna") == [changed] == [store.job(job.job_id)]


def test_a_change_that_others_always_undo_ends_with_an_error_that_says_so() -> None:
    table = MemoryTable()
    store, job = JobStore(table), Job(new_id(), "summer", NOW, owner="anna")
    store.create(job)
    calls = count()

    def other_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem":
            scores = json.dumps({"every": 0.5, "labels": {f"{next(calls)}": 0.5}})
            table.items["JOBS", job.job_id] = {**table.items["JOBS", job.job_id], "min_scores": scores}
        return effect()

    table.call = other_first
    with pytest.raises(TableBusyError, match=f"changed {MAX_CHANGES} times while it was changed here: try again"):
        store.change_min_scores(job, lambda _: MinScores(0.7), NOW)
    assert next(calls) == MAX_CHANGES


@pytest.mark.parametrize("is_owned", [True, False])
def test_a_deleted_job_is_not_made_again_by_a_change(is_owned: bool) -> None:
    table = MemoryTable()
    store, job = JobStore(table), Job(new_id(), "summer", NOW, owner="anna" if is_owned else "")
    store.create(job)
    DeletedJobs(store.table).delete(job)
    with pytest.raises(NotFoundError):
        store.change_min_scores(job, lambda _: MinScores(0.7), NOW)
    assert store.existing([job.job_id]) == store.existing([job.job_id], "anna") == set()


def test_what_several_web_processes_accepted_adds_up_and_never_goes_down(store: JobStore, job: Job) -> None:
    for writer, accepted in (("a", 2), ("b", 3), ("a", 5), ("a", 4)):
        JobFigures(store.table).put_accepted_count(job.job_id, writer, accepted)
    assert store.status(job.job_id).accepted == 8
    JobFigures(store.table).store_counts(job.job_id, Counts(images=9))
    assert store.status(job.job_id).accepted == 9, "a process has ended before it said so"


def test_true_labels_that_are_set_while_their_job_is_removed_are_removed_too(store: JobStore, job: Job) -> None:
    DeletedJobs(store.table).delete(job)
    DeletedJobs(store.table).unmark(DeletedJob(job.job_id))
    with pytest.raises(NotFoundError, match="no job"):
        store.set_truths(job, {new_id(): TrueLabel("cat", NOW)})
    assert (store.existing([job.job_id]), DeletedJobs(store.table).find_all()) == (set(), [])
    # The job was reviewed before, and is deleted between the check of its owner and the write.
    with pytest.raises(NotFoundError, match="no job"):
        store.set_truths(replace(job, is_reviewed=True), {new_id(): TrueLabel("cat", NOW)})
    [marked] = DeletedJobs(store.table).find_all()
    assert marked.job_id == job.job_id


def test_results_of_images_of_any_jobs_are_found_together(store: JobStore) -> None:
    images = [record(new_id()) for _ in range(130)]
    store.put_each_done([done(image.ref, f"label {number}") for number, image in enumerate(images[:120])])
    store.put_failed(not_done(images[120].ref))
    found = store.results_of([image.ref for image in images])
    assert found.keys() == {image.ref for image in images[:121]}
    assert found[images[7].ref].label == "label 7"
    assert found[images[120].ref].status == "failed"


def test_a_job_is_closed_unless_images_were_added_since(store: JobStore, job: Job) -> None:
    store.record_images([record(job.job_id)], NOW)
    (seen,) = OpenJobs(store.table).find_all()
    assert seen == OpenJob(job.job_id, NOW.isoformat())
    store.record_images([record(job.job_id)], NOW + timedelta(seconds=1))
    assert not OpenJobs(store.table).close(seen)
    assert OpenJobs(store.table).close(OpenJobs(store.table).find_all()[0])
    assert OpenJobs(store.table).find_all() == []
    store.record_images([], NOW)
    assert OpenJobs(store.table).find_all() == []


@pytest.mark.parametrize("seconds", [SLOW_RECORD_SECONDS, SLOW_RECORD_SECONDS + 1])
def test_a_job_closed_during_a_slow_record_of_its_images_is_open_afterwards(seconds: float) -> None:
    clock, closed = ManualClock(), list[bool]()

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "BatchWriteItem" and table.items and not closed:  # the second batch: images
            clock.now += seconds
            closed.append(OpenJobs(store.table).close(OpenJobs(store.table).find_all()[0]))
        return effect()

    table = MemoryTable(call)
    store, job_id = JobStore(table, clock=clock), new_id()
    store.record_images([record(job_id) for _ in range(30)], NOW)
    assert closed == [True]
    assert [job.touched_at for job in OpenJobs(store.table).find_all()] == (
        [(NOW + timedelta(seconds=seconds)).isoformat()] if seconds > SLOW_RECORD_SECONDS else []
    )


def test_a_job_closed_during_a_slow_change_of_its_min_scores_is_open_afterwards(store: JobStore, job: Job) -> None:
    table = cast(MemoryTable, store.table)

    def close_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem":
            assert OpenJobs(table).close(OpenJobs(table).find_all()[0])
        return effect()

    table.call = close_first
    store.change_min_scores(job, lambda _: MinScores(0.7), NOW)
    assert OpenJobs(table).is_open(job.job_id)


def test_commits_at_the_same_time_never_mark_an_image_twice() -> None:
    counts, job_id, upload_id = UploadCounts(MemoryTable(meeting("GetItem", 8))), new_id(), new_id()

    def commit(number: int) -> list[str]:
        return list(counts.mark(job_id, upload_id, {str(each) for each in range(number, number + 10)}))

    with ThreadPoolExecutor(8) as commits:
        marked = list(chain.from_iterable(commits.map(commit, range(8))))
    assert len(marked) == len(set(marked)) > 0


def a_job(owner: str, *, keep: bool = False) -> Job:
    return Job(new_id(), "summer", NOW, keep, owner)


def test_a_list_of_nobodys_jobs_goes_on_beyond_those_of_users(store: JobStore) -> None:
    ours = [a_job(owner) for owner in ("", "anna", "bert", "anna", "", "anna", "bert", "")]
    store.create(*ours)
    nobodys = [job for job in reversed(ours) if not job.owner]
    assert store.jobs(2) == nobodys[:2]
    assert store.jobs(2, before=nobodys[1].job_id) == nobodys[2:]
    assert store.jobs(9) == nobodys


def test_a_creation_that_ends_after_the_deletion_is_taken_away_by_the_last_look(store: JobStore) -> None:
    job = a_job("anna")
    store.create(job)
    DeletedJobs(store.table).delete(job)
    store.create(job)  # a repeat of the first request, which was under way
    DeletedJobs(store.table).remove_items(DeletedJobs(store.table).find_all()[0], 100)
    assert (store.jobs(9, owner="anna"), store.existing([job.job_id])) == ([], set())
