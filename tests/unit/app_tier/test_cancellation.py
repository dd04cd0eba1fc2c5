"""How a worker finds out that a job is cancelled: by its tombstone, with few reads of the bucket."""

import pytest

from app_tier.storage import RECHECK_SECONDS, CancelledJobs
from core.ids import new_id
from core.jobs.buckets import InputBucket
from core.jobs.keys import cancelled_key
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.memory_aws.calls import refusal
from tests.support.worker import FakeBucket


class CountingBucket(FakeBucket):
    """A bucket that records the keys that are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def exists(self, key: str) -> bool:
        self.asked.append(key)
        return super().exists(key)


@pytest.fixture
def bucket() -> CountingBucket:
    return CountingBucket()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def jobs(bucket: CountingBucket, clock: ManualClock) -> CancelledJobs:
    return CancelledJobs(InputBucket(bucket), clock)


def test_a_running_job_costs_one_read_in_each_period(
    jobs: CancelledJobs, bucket: CountingBucket, clock: ManualClock
) -> None:
    job_id = new_id()
    for _ in range(100):
        assert not jobs.has(job_id)
        clock.advance(RECHECK_SECONDS / 50)
    assert bucket.asked == [cancelled_key(job_id)] * 2


def test_a_job_is_cancelled_for_the_worker_after_one_period_at_most(
    jobs: CancelledJobs, bucket: CountingBucket, clock: ManualClock
) -> None:
    job_id, other_id = new_id(), new_id()
    assert not jobs.has(job_id)
    bucket.objects[cancelled_key(job_id)] = b""
    clock.advance(RECHECK_SECONDS)
    assert jobs.has(job_id)
    assert not jobs.has(other_id)


def test_a_resumed_job_is_never_taken_for_cancelled(jobs: CancelledJobs, bucket: CountingBucket) -> None:
    job_id = new_id()
    bucket.objects[cancelled_key(job_id)] = b""
    assert jobs.has(job_id)
    del bucket.objects[cancelled_key(job_id)]
    assert not jobs.has(job_id)


def test_the_period_begins_before_the_read(bucket: CountingBucket) -> None:
    """A read that takes long must not make its answer look newer than it is."""
    times = iter([0.0, 3 * RECHECK_SECONDS])
    jobs, job_id = CancelledJobs(InputBucket(bucket), PlayedClock(lambda: next(times))), new_id()
    assert not jobs.has(job_id)
    assert not jobs.has(job_id)
    assert len(bucket.asked) == 2


def test_an_unknown_answer_is_an_error_and_is_not_remembered(jobs: CancelledJobs, bucket: CountingBucket) -> None:
    job_id, error = new_id(), refusal("SlowDown")
    bucket.errors["head"].append(error)
    with pytest.raises(type(error), match="SlowDown"):
        jobs.has(job_id)
    bucket.objects[cancelled_key(job_id)] = b""
    assert jobs.has(job_id)
