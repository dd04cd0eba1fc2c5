"""Counts are stored a few times a second, never by an older controller, and agree with the items in the end."""

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import pytest

from core.jobs.figures import JobFigures
from core.jobs.models import Counts
from services.lease import Tenure
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.jobs import client_error, statuses_of
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.result_path import (
    IMAGES,
    JOBS,
    REFS,
    ResultPath,
    done,
    figures,
    figures_of_items,
    not_done,
    stored_jobs,
)
from web_tier.controller.counts_store import (
    COUNTS_SECONDS,
    COUNTS_TICK_SECONDS,
    CountsNotStoredError,
    StaleTokenError,
)


def test_counts_of_a_controller_that_was_replaced_are_refused() -> None:
    """Row 54."""
    store = stored_jobs()
    frozen = ResultPath(store, Tenure(token=7))
    frozen.results.record([done(REFS[0])])
    ResultPath(store, Tenure(token=9)).results.record([done(ref) for ref in IMAGES[JOBS[0]]])
    with pytest.raises(StaleTokenError):
        frozen.results.record([done(REFS[1])])
    assert figures(store, JOBS[0]) == (40, 0, 40)


def test_a_controller_that_follows_stores_the_counts_that_the_last_one_did_not() -> None:
    store, now = stored_jobs(), EPOCH + timedelta(seconds=5)
    ResultPath(store, clock=Clock(0.0)).results.record([done(REFS[0])])
    store.put_each_done([done(REFS[1]), done(IMAGES[JOBS[1]][0])])
    store.put_failed(not_done(REFS[2]))
    successor = ResultPath(store, clock=PlayedClock(utc_now=lambda: now))
    assert all(successor.images.is_accepted(IMAGES[job_id][0]) for job_id in JOBS)
    successor.counts.tick()
    assert JobFigures(store.table).counts(JOBS[0]) == Counts(2, 1, 40, EPOCH, now)
    assert JobFigures(store.table).counts(JOBS[1]) == Counts(1, 0, 40, now, now)


def test_a_job_that_is_deleted_before_its_counts_are_stored_delays_no_other() -> None:
    store = stored_jobs()
    path = ResultPath(store)
    path.counts.set_open_jobs(JOBS)
    path.results.record([done(IMAGES[job_id][0]) for job_id in JOBS])
    path.jobs.evict(JOBS[0])
    path.counts.write(at_once=True)
    assert [figures(store, job_id)[0] for job_id in JOBS] == [0, 1]


def test_counts_of_a_job_are_stored_a_few_times_a_second_and_in_the_end() -> None:
    store, clock, stored = stored_jobs(), Clock(), list[tuple[int, int, int]]()
    store_counts = JobFigures.store_counts

    def watched(each: JobFigures, job_id: str, counts: Counts, token: int = 0) -> bool:
        stored.append((counts.done, counts.failed, counts.images))
        return store_counts(each, job_id, counts, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JobFigures, "store_counts", watched)
        path = ResultPath(store, clock=clock)
        path.counts.set_open_jobs(JOBS)
        for ref in IMAGES[JOBS[0]]:
            assert path.results.record_each([done(ref)]) == {}
            pause = path.counts.tick()
        assert (stored, pause) == ([(1, 0, 40)], COUNTS_TICK_SECONDS), "the first ones at once"
        clock.now += COUNTS_SECONDS
        path.counts.tick()
        assert stored == [(1, 0, 40), (40, 0, 40)]
        clock.now += COUNTS_SECONDS
        assert (path.counts.tick(), len(stored)) == (COUNTS_SECONDS, 2), "nothing has changed"


def test_a_result_recorded_while_counts_are_written_is_in_the_next_write() -> None:
    store, clock, late = stored_jobs(), Clock(), [done(REFS[1])]
    path = ResultPath(store, clock=clock)
    path.counts.set_open_jobs(JOBS)
    path.results.record([done(REFS[0])])

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem" and late:
            path.results.record([late.pop()])
        return effect()

    cast(MemoryTable, store.table).call = call
    for expected in (1, 2):
        path.counts.tick()
        assert figures(store, JOBS[0]) == (expected, 0, 40)
        clock.now += COUNTS_SECONDS


def test_counts_that_cannot_be_stored_are_retried_with_backoff_while_results_go_on() -> None:
    store, clock, tried, refuse = stored_jobs(), Clock(), list[float](), [True]

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem":
            tried.append(clock.now)
            if refuse[0]:
                raise client_error(503)
        return effect()

    cast(MemoryTable, store.table).call = call
    path = ResultPath(store, clock=clock)
    path.counts.set_open_jobs(JOBS)
    assert path.results.record_each([done(REFS[0])]) == {}
    for _ in range(600):
        path.counts.tick()
        clock.now += COUNTS_SECONDS
    assert (statuses_of(store, JOBS[0]), figures(store, JOBS[0])) == ({REFS[0].image_id: "done"}, (0, 0, 0))
    gaps = [later - earlier for earlier, later in pairwise(tried)]
    assert gaps == [0.5, 1, 2, 4, 8, 16, 32, 32, 32]
    refuse[0] = False
    clock.now = tried[-1] + 32
    path.counts.tick()
    assert figures(store, JOBS[0]) == (1, 0, 40)
    path.results.record_each([done(REFS[1])])
    clock.now += COUNTS_SECONDS
    path.counts.tick()
    assert figures(store, JOBS[0]) == (2, 0, 40), "after a success without a pause"


def test_a_late_result_of_a_closed_job_is_recorded_again_until_it_is_counted() -> None:
    """No reconciler would find that it is not: it reads open jobs only."""
    store, refuse = stored_jobs(), [False]

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem" and refuse[0]:
            raise client_error(503)
        return effect()

    cast(MemoryTable, store.table).call = call
    path = ResultPath(store)
    path.results.record([*[done(ref) for ref in IMAGES[JOBS[0]][1:]], not_done(REFS[0])])
    refuse[0] = True
    for _ in range(2):
        errors = path.results.record_each([done(REFS[0])])
        assert {ref: type(error) for ref, error in errors.items()} == {REFS[0]: CountsNotStoredError}
    assert figures(store, JOBS[0]) == (39, 1, 40)
    refuse[0] = False
    assert path.results.record_each([done(REFS[0])]) == {}
    assert figures(store, JOBS[0]) == figures_of_items(store, JOBS[0]) == (40, 0, 40)
