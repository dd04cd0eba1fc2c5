"""The store of shares: changes at the same time all hold, and a deleted job leaves none."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from core.ids import new_id
from core.jobs.lifecycle import DeletedJobs
from core.jobs.models import Job, Share
from core.jobs.shares import ShareStore
from core.jobs.store import JobStore
from services.errors import NotFoundError
from tests.support.jobs import NOW
from tests.support.memory_aws.dynamodb import MemoryTable


def a_job() -> Job:
    return Job(new_id(), "summer", NOW, owner="anna")


def a_share(email: str = "") -> Share:
    return Share(new_id(), int(NOW.timestamp()) + 60, 1, "", "" if email else "digest", email)


def test_shares_that_are_changed_at_the_same_time_are_all_changed(table: MemoryTable, store: JobStore) -> None:
    shares, job, now = ShareStore(table), a_job(), NOW.timestamp()
    store.create(job)
    first, second, third = a_share(), a_share(), a_share("bert@example.org")
    shares.add(job.job_id, first, now)
    others: list[Callable[[], object]] = [
        lambda: shares.add(job.job_id, second, now),
        lambda: shares.end(job.job_id, first.share_id),
    ]

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "UpdateItem" and others:
            others.pop()()
        return effect()

    table.call = call
    shares.add(job.job_id, third, now)
    assert store.job(job.job_id).shares == (second, third)
    assert shares.shared_with(third.email, 9) == [job.job_id]


@pytest.mark.parametrize("when", ["later", "before", "after"])
def test_no_share_is_left_of_a_deleted_job(table: MemoryTable, store: JobStore, when: str) -> None:
    shares, job, share = ShareStore(table), a_job(), a_share("bert@example.org")
    store.create(job)

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        result = effect() if when == "after" else None
        if operation == "UpdateItem" and store.existing([job.job_id]):
            DeletedJobs(store.table).delete(job)  # by a process that has read it before it was shared
        return effect() if when == "before" else result

    if when == "later":
        shares.add(job.job_id, share, NOW.timestamp())
        DeletedJobs(store.table).delete(store.job(job.job_id))
    else:
        table.call = call
    with suppress(NotFoundError):
        shares.add(job.job_id, share, NOW.timestamp())
    assert (shares.shared_with(share.email, 9), store.existing([job.job_id])) == ([], set())
