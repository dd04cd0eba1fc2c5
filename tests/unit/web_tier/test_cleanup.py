"""Expiry and cleanup: which jobs expire, also against races and wrong clocks, and nothing is left of deleted jobs."""

import itertools
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import TypeVar, cast

import pytest
from botocore.exceptions import ClientError

from core.ids import ImageRef, first_id_of, new_id
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.keys import cancelled_key, merged_key, output_key
from core.jobs.lifecycle import DeletedJobs, OpenJobs
from core.jobs.models import Counts, DeletedJob, ImageRecord, Job
from core.jobs.store import JobStore
from services.errors import NotFoundError
from services.lease import Tenure
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.jobs import add_images, client_error, put_counts
from tests.support.memory_aws.calls import WRITES, run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.results_site import ResultsSite, done
from web_tier.controller import cleanup
from web_tier.controller.cleanup import LINGER_SECONDS, MAX_OVERDUE, JobCleanup, JobExpiry

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
LIFETIME = timedelta(days=7)
OLD = LIFETIME + timedelta(minutes=1)

T = TypeVar("T")


def is_open_after_the_last_result(opened: OpenJobs, job_id: str) -> bool:
    """Return whether a job is open; the last result of each open job comes right before."""
    for job in opened.find_all():
        put_counts(JobStore(opened.table), job_id, Counts(0, 1, 1, NOW, NOW))
        opened.close(job)
    return opened.table.get("OPEN", job_id) is not None


def add_image(store: JobStore, job_id: str) -> None:
    ref = ImageRef(job_id, new_id())
    store.record_images([ImageRecord(ref, "a.jpg", "jpg", (1,), NOW)], NOW)


def make_job(store: JobStore, age: timedelta, *, keep: bool = False) -> Job:
    """Create a job with an id as old as the job."""
    job = Job(first_id_of(NOW - age)[:10] + new_id()[10:], "job", NOW - age, keep)
    store.create(job)
    return job


def exists(store: JobStore, job: Job) -> bool:
    return job.job_id in store.existing([job.job_id])


def expire(store: JobStore, now: datetime = NOW) -> None:
    JobExpiry(store, LIFETIME, Tenure(), PlayedClock(utc_now=lambda: now)).tick()


@pytest.mark.parametrize("has_successor", [False, True])
def test_images_that_are_added_while_a_job_expires_are_refused_or_the_job_stays(has_successor: bool) -> None:
    """Row 52: before and after each call, also while the controller is frozen and a successor cancels its expiry."""
    place = 1
    while _add_image_while_a_job_expires(place, has_successor=has_successor):
        place += 1
    assert place > 10


def _add_image_while_a_job_expires(place: int, *, has_successor: bool) -> bool:
    """Return whether the expiry has reached the place; all calls before their effect and after it are counted."""
    places, refusals = itertools.count(1), list[bool]()

    def reach_place() -> None:
        if next(places) == place:
            table.call = run_effect
            if has_successor:
                DeletedJobs(store.table).cancel_expiries()
            try:
                add_image(store, job.job_id)
            except NotFoundError:
                refusals.append(True)
            else:
                refusals.append(False)

    def call(_operation: str, effect: Callable[[], T]) -> T:
        reach_place()
        result = effect()
        reach_place()
        return result

    table = MemoryTable()
    store = JobStore(table)
    job = make_job(store, OLD)
    table.call = call
    is_expired = DeletedJobs(store.table).expire(job, lambda: not (has_successor and refusals))
    assert exists(store, job) is not is_expired
    assert not is_expired or all(refusals), f"an acknowledged image is gone: place {place}"
    assert is_expired or refusals, "nothing was added, and the job is old enough"
    return bool(refusals)


def test_a_job_whose_last_result_comes_while_its_expiry_is_decided_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    add_image(store, job.job_id)
    with monkeypatch.context() as patched:
        patched.setattr(OpenJobs, "is_open", is_open_after_the_last_result)
        expire(store)
    assert exists(store, job)
    assert DeletedJobs(store.table).find_all() == []
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
        OpenJobs(store.table).reopen(job.job_id, NOW)


def test_an_expiry_that_died_before_its_end_refuses_uploads_only_until_the_next_one() -> None:
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    store.table.put_all([{"pk": "DELETED", "sk": job.job_id, "expiring": 1}])
    assert DeletedJobs(store.table).find_all() == [], "nothing of it is removed yet"
    put_counts(store, job.job_id, Counts(1, 0, 1, NOW, NOW))
    expire(store)
    add_image(store, job.job_id)
    assert exists(store, job)


@pytest.mark.parametrize("fails", [False, True])
def test_an_expiry_with_a_lost_reply_refuses_no_upload_afterwards(fails: bool) -> None:
    """The call is repeated, and the repeat finds the mark; or it fails in the end."""
    marked = list[bool]()

    def call(operation: str, effect: Callable[[], T]) -> T:
        result = effect()
        if operation not in WRITES or marked:
            return result
        marked.append(True)
        if fails:
            raise client_error(500)
        return effect()

    table = MemoryTable()
    store = JobStore(table)
    job = make_job(store, OLD)
    table.call = call
    with pytest.raises(ClientError) if fails else nullcontext():
        assert not DeletedJobs(store.table).expire(job, lambda: True)
    add_image(store, job.job_id)


def test_a_controller_frozen_before_it_marked_a_job_as_expiring_deletes_nothing() -> None:
    store = JobStore(MemoryTable())
    job = make_job(store, OLD)
    assert not DeletedJobs(store.table).expire(job, lambda: False)
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
    DeletedJobs(store.table).cancel_expiries()
    assert [each.job_id for each in DeletedJobs(store.table).find_all()] == [job.job_id]


def test_a_clock_that_is_a_year_ahead_deletes_nothing() -> None:
    store = JobStore(MemoryTable())
    jobs = [make_job(store, timedelta(days=days)) for days in (0, 1, 6)]
    expire(store, NOW + timedelta(days=365))
    assert all(exists(store, job) for job in jobs)
    expire(store, NOW + timedelta(days=1, minutes=1))
    assert [exists(store, job) for job in jobs] == [True, True, False]


def test_a_job_used_in_the_future_by_a_wrong_clock_expires_after_a_lifetime() -> None:
    store, now = JobStore(MemoryTable()), [NOW]
    job = make_job(store, OLD)
    put_counts(store, job.job_id, Counts(1, 0, 1, NOW, NOW + timedelta(days=365)))
    expiry = JobExpiry(store, LIFETIME, Tenure(), PlayedClock(utc_now=lambda: now[0]))
    expiry.tick()
    now[0] += LIFETIME - timedelta(minutes=1)
    expiry.tick()
    assert exists(store, job)
    now[0] += timedelta(minutes=2)
    expiry.tick()
    assert not exists(store, job)


def test_what_was_left_while_no_controller_ran_expires_once_there_is_a_newer_job() -> None:
    store = JobStore(MemoryTable())
    left = make_job(store, LIFETIME + 2 * MAX_OVERDUE)
    expire(store)
    assert exists(store, left)
    make_job(store, timedelta(0))
    expire(store)
    assert not exists(store, left)


def test_a_job_expires_if_it_is_old_enough_and_not_open() -> None:
    store = JobStore(MemoryTable())
    old, young = make_job(store, LIFETIME + timedelta(minutes=1)), make_job(store, LIFETIME - timedelta(minutes=1))
    opened = make_job(store, 3 * LIFETIME)
    add_image(store, opened.job_id)
    expire(store)
    assert [exists(store, job) for job in (old, young, opened)] == [False, True, True]
    assert DeletedJobs(store.table).find_all() == [DeletedJob(old.job_id)], "it is cleaned up as any deleted job"


def test_without_a_lifetime_and_without_the_lease_nothing_expires() -> None:
    store = JobStore(MemoryTable())
    old = make_job(store, 3 * LIFETIME)
    JobExpiry(store, timedelta(0), Tenure(), ManualClock(0.0, NOW)).tick()
    JobExpiry(store, LIFETIME, Tenure(active=lambda: False), ManualClock(0.0, NOW)).tick()
    turns = iter([True, False])
    JobExpiry(store, LIFETIME, Tenure(active=lambda: next(turns)), ManualClock(0.0, NOW)).tick()
    assert exists(store, old)


def test_s9_a_kept_job_expires_only_if_it_is_empty() -> None:
    store = JobStore(MemoryTable())
    kept, empty, young = (make_job(store, age, keep=True) for age in (3 * LIFETIME, 3 * LIFETIME, LIFETIME / 2))
    add_images(store, kept, "a.jpg")
    for opened in OpenJobs(store.table).find_all():
        OpenJobs(store.table).close(opened)
    expiry = JobExpiry(store, LIFETIME, Tenure(), ManualClock(0.0, NOW))
    for _ in range(2):
        expiry.tick()
        assert [exists(store, job) for job in (kept, empty, young)] == [True, False, True]


class Site(ResultsSite):
    """A site with the cleanup of deleted jobs."""

    def start(self, active: Callable[[], bool] = lambda: True) -> None:
        """Start a controller that remembers nothing."""
        super().start()
        tenure = Tenure(active=active)
        buckets = InputBucket(self.inputs), OutputBucket(self.outputs)
        self.cleanup = JobCleanup(self.store, *buckets, 10.0, tenure, self.clock)

    def store_results(self, refs: list[ImageRef]) -> None:
        """Put the images' predictions and record their results, as worker and collector do."""
        for ref in refs:
            self.outputs.put(output_key(ref), b"{}", "application/json")
        self.results.record([done(ref) for ref in refs])
        for job_id in {ref.job_id for ref in refs}:
            self.outputs.put(merged_key(job_id), b"{}", "application/x-ndjson")

    def delete(self, job_id: str) -> None:
        """Delete a job, as its owner does."""
        DeletedJobs(self.store.table).delete(self.store.job(job_id))

    def left(self, job_id: str) -> list[str]:
        """Return the objects and items of a job."""
        keys = [key for bucket in (self.inputs, self.outputs) for key in bucket.objects]
        return sorted(key for key in keys if job_id in key) + sorted(
            f"{pk} {sk}" for pk, sk in cast(MemoryTable, self.store.table).items if job_id in f"{pk} {sk}"
        )


def test_nothing_is_left_of_a_deleted_job_and_all_of_the_others() -> None:
    site = Site()
    deleted, kept = site.add_job(4), site.add_job(2)
    site.store_results(deleted + kept)
    site.inputs.put(cancelled_key(deleted[0].job_id), b"", "text/plain")
    before = site.left(kept[0].job_id)
    site.delete(deleted[0].job_id)
    with pytest.raises(NotFoundError):
        site.store.status(deleted[0].job_id)  # before anything of it is removed
    assert {job.job_id for job in site.store.jobs(100)} == {kept[0].job_id}
    assert {job.job_id for job in OpenJobs(site.store.table).find_all()} == {kept[0].job_id}
    site.cleanup.tick()
    assert site.left(deleted[0].job_id) == [f"DELETED {deleted[0].job_id}"]
    site.clock.now += LINGER_SECONDS
    site.cleanup.tick()
    assert site.left(deleted[0].job_id) == []
    assert site.left(kept[0].job_id) == before


def test_objects_and_items_written_after_the_first_removal_are_removed_by_the_last() -> None:
    site = Site()
    [image] = site.add_job(1)
    site.delete(image.job_id)
    site.cleanup.tick()
    site.outputs.put(output_key(image), b"{}", "application/json")  # by a worker
    site.outputs.put(merged_key(image.job_id), b"{}", "application/x-ndjson")  # by an earlier controller
    put_counts(site.store, image.job_id, Counts(images=1))  # by an earlier controller, too
    site.clock.now += LINGER_SECONDS
    site.cleanup.tick()
    assert site.left(image.job_id) == []


def test_a_removal_that_is_cut_short_is_finished_by_a_successor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "PORTION", 2)
    site = Site()
    job_id = site.add_job(7)[0].job_id
    site.delete(job_id)
    turns = iter([True, False])
    site.start(lambda: next(turns))
    site.cleanup.tick()
    assert len(site.inputs.objects) == 5
    site.start()
    site.cleanup.tick()
    assert site.left(job_id) == [f"DELETED {job_id}"]


def test_a_large_job_delays_the_removal_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "PORTION", 2)
    site = Site()
    large, small = site.add_job(9)[0].job_id, site.add_job(1)[0].job_id
    turns = iter([True, True, False, False])
    site.start(lambda: next(turns))
    for job_id in (large, small):
        site.delete(job_id)
    site.cleanup.tick()
    assert site.left(small) == [f"DELETED {small}"]
    assert len(site.left(large)) > 1


def test_a_job_that_cannot_be_removed_is_reported_and_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    stuck, other = site.add_job(1)[0].job_id, site.add_job(1)[0].job_id
    for job_id in (stuck, other):
        site.delete(job_id)
    list_keys = MemoryBucket.list_keys

    def refused(bucket: MemoryBucket, folder: str, limit: int) -> list[str]:
        if folder == stuck:
            raise client_error(500)
        return list_keys(bucket, folder, limit)

    monkeypatch.setattr(MemoryBucket, "list_keys", refused)
    with pytest.raises(ClientError):
        site.cleanup.tick()
    assert site.left(other) == [f"DELETED {other}"]
    monkeypatch.undo()
    site.cleanup.tick()
    assert site.left(stuck) == [f"DELETED {stuck}"]
