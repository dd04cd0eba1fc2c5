"""Jobs that nobody asked to keep expire, whole, and no other."""

from datetime import UTC, datetime, timedelta

import pytest

from core.ids import ImageRef, first_id_of, input_key, new_id
from core.jobs.models import AcceptedCount, DeletedJob, ImageRecord, Job
from core.jobs.store import JobStore
from services.errors import NotFoundError
from web_tier.controller.cleanup import JobExpiry

pytestmark = pytest.mark.processes
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
LIFETIME = timedelta(days=7)


def make_job(store: JobStore, age: timedelta, *, keep: bool = False) -> Job:
    """A job whose id is as old as the job is."""
    job = Job(first_id_of(NOW - age)[:20] + new_id()[-6:], "job", NOW - age, keep)
    store.create(job)
    return job


def there(store: JobStore, job: Job) -> bool:
    try:
        store.job(job.job_id)
    except NotFoundError:
        return False
    return True


def test_only_what_is_old_enough_and_not_kept_and_not_open_expires(store: JobStore) -> None:
    old, young = make_job(store, LIFETIME + timedelta(minutes=1)), make_job(store, LIFETIME - timedelta(minutes=1))
    opened = make_job(store, 3 * LIFETIME)
    ref = ImageRef(opened.job_id, new_id())
    store.record_images([ImageRecord(ref, "a.jpg", input_key(ref, "jpg"), 1, NOW)], NOW)
    JobExpiry(store, LIFETIME, lambda: True, lambda: NOW).tick()
    assert [there(store, job) for job in (old, young, opened)] == [False, True, True]
    assert store.deleted_jobs() == [DeletedJob(old.job_id)], "what is left of it is removed as of any deleted job"


def test_without_a_lifetime_and_without_the_lease_nothing_expires(store: JobStore) -> None:
    old = make_job(store, 3 * LIFETIME)
    JobExpiry(store, timedelta(0), lambda: True, lambda: NOW).tick()
    JobExpiry(store, LIFETIME, lambda: False, lambda: NOW).tick()
    assert there(store, old)


def test_s9_a_kept_job_expires_only_if_it_is_empty(store: JobStore) -> None:
    kept, empty, young = (make_job(store, age, keep=True) for age in (3 * LIFETIME, 3 * LIFETIME, LIFETIME / 2))
    store.put_accepted_count(kept.job_id, "writer", AcceptedCount(1))
    expiry = JobExpiry(store, LIFETIME, lambda: True, lambda: NOW)
    for _ in range(2):
        expiry.tick()
        assert [there(store, job) for job in (kept, empty, young)] == [True, False, True]
