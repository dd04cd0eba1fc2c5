"""The job store: jobs, owners, images, results and counts, and what a process leaves that dies between two writes."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, cast

import pytest

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import (
    DeletedJob,
    ImageRecord,
    Job,
    MinScores,
    OpenJob,
    TrueLabel,
)
from core.jobs.store import MAX_CHANGES, MAX_RECORDED, JobStore
from core.messages import ClassificationResult, Failure, failed
from services.errors import NotFoundError
from services.table import TableBusyError
from tests.support.jobs import count_images, put_results
from tests.support.memory_aws.dynamodb import MemoryTable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(job_id: str, filename: str = "cat.jpg") -> ImageRecord:
    ref = ImageRef(job_id, new_id())
    return ImageRecord(ref, filename, "jpg", (10,), NOW)


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


def test_images_are_recorded_and_counted_once_by_any_number_of_processes(store: JobStore, job: Job) -> None:
    images = [record(job.job_id) for _ in range(MAX_RECORDED + 40)]

    def record_some(first: int) -> int:
        return len(store.record_images(images[first:], NOW))

    with ThreadPoolExecutor(8) as processes:
        recorded = list(processes.map(record_some, [0, 90, 30, 0, 120, 60, 30, 0]))
    assert sum(recorded) == store.status(job.job_id).accepted == count_images(store, job.job_id) == len(images)


def test_the_counts_say_how_many_transactions_accepted_images_and_which_packs_came_by_forms(
    store: JobStore, job: Job
) -> None:
    store.record_images([record(job.job_id) for _ in range(MAX_RECORDED + 1)], NOW)
    by_form = [record(job.job_id)]
    for _ in range(2):
        store.record_images(by_form, NOW, presigned=True)
    counts = store.status(job.job_id).counts
    assert (counts.packs, counts.acceptances, counts.presigned) == (MAX_RECORDED + 2, 3, 1)


def test_images_of_a_job_that_is_being_deleted_are_neither_recorded_nor_counted(store: JobStore, job: Job) -> None:
    DeletedJobs(store.table).delete(job)
    with pytest.raises(NotFoundError, match="there is no job"):
        store.record_images([record(job.job_id)], NOW)
    assert count_images(store, job.job_id) == JobFigures(store.table).counts(job.job_id).images == 0
    assert OpenJobs(store.table).find_all() == []


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
    jobs = [a_job("") for _ in range(130)]
    store.create(*jobs)
    images = [record(job.job_id) for job in jobs]
    put_results(store, *[done(image.ref, f"label {number}") for number, image in enumerate(images[:120])])
    put_results(store, not_done(images[120].ref))
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


def test_a_job_closed_during_a_slow_change_of_its_min_scores_is_open_afterwards(store: JobStore, job: Job) -> None:
    table = cast(MemoryTable, store.table)

    def close_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem":
            assert OpenJobs(table).close(OpenJobs(table).find_all()[0])
        return effect()

    table.call = close_first
    store.change_min_scores(job, lambda _: MinScores(0.7), NOW)
    assert OpenJobs(table).is_open(job.job_id)


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
