"""Jobs are read once, forgotten within bounds, and delay no other job while they are read."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.models import Counts, Job
from core.jobs.store import JobStore
from tests.support.autoscaler import Clock
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.result_path import (
    IMAGES,
    JOBS,
    REFS,
    InlineExecutor,
    ResultPath,
    done,
    figures,
    figures_of_items,
    stored_jobs,
)
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until
from web_tier.controller import job_cache
from web_tier.controller.job_cache import LARGE_JOB, PROBLEM_SECONDS, READERS, JobLoadingError


@pytest.mark.parametrize("reads_aside", [False, True])
def test_what_is_remembered_is_bounded_and_what_was_forgotten_is_read_again(reads_aside: bool) -> None:
    store, clock = stored_jobs(), Clock()
    with ThreadPoolExecutor(2) as readers:
        path = ResultPath(store, max_images=50, clock=clock, readers=readers if reads_aside else InlineExecutor())
        assert path.jobs.problem() is None
        for ref in REFS[::3] + REFS[::3][::-1]:
            path.results.record([done(ref)])
    assert len(path.jobs._jobs) == 1
    assert "more than 50 images" in (path.jobs.problem() or "")
    clock.now += PROBLEM_SECONDS
    assert path.jobs.problem() is not None
    clock.now += 1
    assert path.jobs.problem() is None
    for job_id in JOBS:
        assert figures(store, job_id) == figures_of_items(store, job_id)


def test_a_job_that_is_being_read_delays_no_other() -> None:
    """A controller that takes over reads a job of a million images for a minute."""
    may_read, ref = threading.Event(), IMAGES[JOBS[1]][0]
    store, images = stored_jobs(), JobStore.images

    def slow(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        if job_id == JOBS[0]:
            may_read.wait(DEADLINE_SECONDS)
        return images(each, job_id, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as readers:
        patch.setattr(JobStore, "images", slow)
        patch.setattr(job_cache, "LOAD_SECONDS", 0.05)
        path = ResultPath(store, readers=readers)
        path.results.record([done(ref)])
        errors = path.results.record_each([done(REFS[0]), done(IMAGES[JOBS[1]][1])])
        assert {ref: type(error) for ref, error in errors.items()} == {REFS[0]: JobLoadingError}
        path.counts.write(at_once=True)
        assert figures(store, JOBS[1]) == (2, 0, 40)
        may_read.set()
        wait_until(lambda: path.results.record_each([done(REFS[0])]) == {}, "the job is read")
    assert figures(store, JOBS[0]) == (1, 0, 40)


def test_large_jobs_that_are_being_read_delay_no_small_one() -> None:
    may_read, images = threading.Event(), JobStore.images
    store = stored_jobs()
    large = [new_id() for _ in range(READERS)]
    for job_id in large:
        store.create(Job(job_id, "job", EPOCH))
        JobFigures(store.table).store_counts(job_id, Counts(images=LARGE_JOB + 1))
    assert ResultPath(store).jobs.is_read(large[0])

    def slow(each: JobStore, job_id: str, *arguments: Any, **named: Any) -> Any:
        if job_id in large:
            may_read.wait(NEVER_SECONDS)
        return images(each, job_id, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(READERS) as readers:
        patch.setattr(JobStore, "images", slow)
        patch.setattr(job_cache, "LOAD_SECONDS", 0.05)
        path = ResultPath(store, readers=readers)
        try:
            errors = path.results.record_each([done(ImageRef(job_id, new_id())) for job_id in large])
            assert {ref.job_id: type(errors[ref]) for ref in errors} == dict.fromkeys(large, JobLoadingError)
            wait_until(lambda: path.results.record_each([done(REFS[0])]) == {}, "the small job is read")
        finally:
            may_read.set()
    assert figures(store, JOBS[0]) == (1, 0, 40)


def test_a_job_that_the_table_keeps_waiting_delays_no_other_job() -> None:
    is_waiting, may_end = threading.Event(), threading.Event()

    def stall(_when: str) -> None:
        if threading.current_thread() is slow:
            is_waiting.set()
            may_end.wait(DEADLINE_SECONDS)

    store = stored_jobs(stall)
    path = ResultPath(store)
    slow = threading.Thread(target=path.results.record, args=([done(IMAGES[JOBS[0]][0])],))
    slow.start()
    assert is_waiting.wait(DEADLINE_SECONDS)
    path.results.record([done(IMAGES[JOBS[1]][0])])
    assert slow.is_alive()
    may_end.set()
    slow.join()
    assert [figures(store, job_id) for job_id in JOBS] == [(1, 0, 40), (1, 0, 40)]


def test_threads_that_hold_several_jobs_never_wait_for_each_other() -> None:
    store = stored_jobs()
    path = ResultPath(store)

    def record(number: int) -> None:
        both = [done(IMAGES[job_id][number]) for job_id in JOBS]
        path.results.record_each(both if number % 2 else both[::-1])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(record, range(40), timeout=DEADLINE_SECONDS))
    path.counts.write(at_once=True)
    assert [figures(store, job_id) for job_id in JOBS] == [(40, 0, 40)] * 2
    assert not path.jobs.locks.in_use()
