"""What is used at the moment of its expiry stays, and a wrong clock deletes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from core.ids import ImageRef, first_id_of, input_key, new_id
from core.jobs.models import Counts, ImageRecord, Job
from core.jobs.store import JobStore
from services.errors import NotFoundError
from tests.support.memory_table import WRITES, MemoryTable
from web_tier.controller.cleanup import MAX_OVERDUE, JobExpiry

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
LIFETIME = timedelta(days=7)
OLD = LIFETIME + timedelta(minutes=1)

T = TypeVar("T")


@dataclass(frozen=True)
class RacingStore(JobStore):
    """A store to which an image is added right after the look number `adds_after` whether its job is open."""

    adds_after: int
    looks: list[bool] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def is_open(self, job_id: str) -> bool:
        self.looks.append(super().is_open(job_id))
        if len(self.looks) == self.adds_after:
            try:
                add_image(self, job_id)
            except NotFoundError:
                self.refused.append(job_id)
        return self.looks[-1]


@dataclass(frozen=True)
class AnsweringStore(JobStore):
    """A store in which the last result of a job comes right before the first look whether it is open."""

    def is_open(self, job_id: str) -> bool:
        for job in self.open_jobs():
            self.store_counts(job_id, Counts(0, 1, 1, NOW, NOW))
            self.close(job)
        return super().is_open(job_id)


def add_image(store: JobStore, job_id: str) -> None:
    ref = ImageRef(job_id, new_id())
    store.record_images([ImageRecord(ref, "a.jpg", input_key(ref, "jpg"), 1, NOW)], NOW)


def make_job(store: JobStore, age: timedelta) -> Job:
    job = Job(first_id_of(NOW - age)[:20] + new_id()[-6:], "job", NOW - age)
    store.create(job)
    return job


def exists(store: JobStore, job: Job) -> bool:
    return job.job_id in store.existing([job.job_id])


def expire(store: JobStore, now: datetime = NOW) -> None:
    JobExpiry(store, LIFETIME, lambda: True, lambda: now).tick()


@pytest.mark.parametrize("adds_after", [1, 2])
def test_images_that_are_added_while_a_job_expires_are_refused_or_the_job_stays(adds_after: int) -> None:
    """Row 52."""
    store = RacingStore(MemoryTable(), adds_after)
    job = make_job(store, OLD)
    expire(store)
    assert len(store.looks) == 2
    assert exists(store, job) is (adds_after == 1)
    assert bool(store.refused) is not exists(store, job)
    assert bool(store.deleted_jobs()) is not exists(store, job)


def test_a_job_whose_last_result_comes_while_its_expiry_is_decided_stays() -> None:
    store = AnsweringStore(MemoryTable())
    job = make_job(store, OLD)
    add_image(store, job.job_id)
    expire(store)
    assert exists(store, job)
    assert store.deleted_jobs() == []
    expire(store, NOW + OLD)
    assert not exists(store, job)


def test_an_upload_that_began_before_the_expiry_and_is_recorded_after_it_is_refused() -> None:
    """Row 52."""
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    expire(store)
    assert not exists(store, job)
    with pytest.raises(NotFoundError):
        add_image(store, job.job_id)
    with pytest.raises(NotFoundError):
        store.reopen(job.job_id, NOW)


def test_an_expiry_that_died_before_its_end_refuses_uploads_only_until_the_next_one() -> None:
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    store.table.put_all([{"pk": "DELETED", "sk": job.job_id, "expiring": 1}])
    assert store.deleted_jobs() == [], "nothing of it is removed yet"
    store.store_counts(job.job_id, Counts(1, 0, 1, NOW, NOW))
    expire(store)
    add_image(store, job.job_id)
    assert exists(store, job)


def test_a_controller_that_was_frozen_before_it_marked_a_job_as_expiring_deletes_nothing() -> None:
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    assert not store.expire(job, lambda: False)
    add_image(store, job.job_id)
    assert exists(store, job)


def test_a_controller_that_was_frozen_after_it_read_a_mark_takes_no_later_mark_back() -> None:
    later_marks = list[dict[str, str | int]]()

    def call(operation: str, effect: Callable[[], T]) -> T:
        if operation in WRITES:
            while later_marks:
                mark = later_marks.pop()
                table.items[str(mark["pk"]), str(mark["sk"])] = mark
        return effect()

    table = MemoryTable(call)
    store = JobStore(table)
    job = make_job(store, OLD)
    store.table.put_all([{"pk": "DELETED", "sk": job.job_id, "expiring": 1}])
    later_marks.append({"pk": "DELETED", "sk": job.job_id})
    store.cancel_expiries()
    assert [each.job_id for each in store.deleted_jobs()] == [job.job_id]


def test_the_age_of_a_job_begins_with_its_last_result_or_retry() -> None:
    store = JobStore(MemoryTable())
    idle, answered, retried = (make_job(store, 3 * LIFETIME) for _ in range(3))
    recently = NOW - LIFETIME + timedelta(minutes=30)
    store.store_counts(answered.job_id, Counts(1, 0, 1, NOW - 3 * LIFETIME, recently))
    store.table.put_all([{"pk": f"COUNTS#{retried.job_id}", "sk": "RETRIED", "at": recently.isoformat()}])
    now = [NOW]
    expiry = JobExpiry(store, LIFETIME, lambda: True, lambda: now[0])
    expiry.tick()
    assert [exists(store, job) for job in (idle, answered, retried)] == [False, True, True]
    now[0] += timedelta(hours=1)
    expiry.tick()
    assert [exists(store, job) for job in (answered, retried)] == [False, False]


def test_a_clock_that_is_a_year_ahead_deletes_nothing() -> None:
    store = JobStore(MemoryTable())
    jobs = [make_job(store, timedelta(days=days)) for days in (0, 1, 6)]
    expire(store, NOW + timedelta(days=365))
    assert all(exists(store, job) for job in jobs)
    expire(store, NOW + timedelta(days=1, minutes=1))
    assert [exists(store, job) for job in jobs] == [True, True, False]


def test_what_was_left_over_while_no_controller_ran_expires_once_there_is_a_newer_job() -> None:
    store = JobStore(MemoryTable())
    left = make_job(store, LIFETIME + 2 * MAX_OVERDUE)
    expire(store)
    assert exists(store, left)
    make_job(store, timedelta(0))
    expire(store)
    assert not exists(store, left)


def test_a_deletion_by_its_owner_while_a_job_expires_is_carried_out() -> None:
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    store.table.put_all([{"pk": "DELETED", "sk": job.job_id}])  # the owner's deletion has begun
    assert not store.expire(job, lambda: True)
    assert [each.job_id for each in store.deleted_jobs()] == [job.job_id]
    store.delete(job)
    assert not exists(store, job)
