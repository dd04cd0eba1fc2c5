"""Estimators: arrivals, boot time, and time for an image."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sqs import QueueCounts
from tests.support.autoscaler import EPOCH, Clock
from web_tier.autoscaler.estimators import (
    MAX_BINS,
    MAX_STEP_SECONDS,
    MIN_IMAGES,
    SETTLE_SECONDS,
    ArrivalRateEstimator,
    BootTimeEstimator,
    ThroughputEstimator,
)
from web_tier.autoscaler.liveness import WorkerStatus
from web_tier.autoscaler.observe import Demand


class Line:
    """A queue that images join and leave; looked at once a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.arrivals = ArrivalRateEstimator(self.clock)
        self.waiting = self.in_flight = self.answers = 0

    def second(self, come: int = 0, taken: int = 0, answered: int = 0) -> Demand:
        self.clock.now += 1
        self.waiting += come - taken
        self.in_flight += taken - answered
        self.answers += answered
        return self.arrivals.update(QueueCounts(self.waiting, self.in_flight, 0), self.answers)


def test_the_last_that_came_are_those_that_wait() -> None:
    line = Line()
    line.second(come=5)
    line.second(come=3)
    assert line.second().waiting == ((2.0, 5), (1.0, 3))
    assert line.second(taken=6).waiting == ((2.0, 2),)
    assert line.second(answered=6, come=1).waiting == ((3.0, 2), (0.0, 1))


def test_what_was_there_before_the_first_look_is_as_old_as_that() -> None:
    line = Line()
    line.waiting = 100
    line.second()
    assert line.second().waiting == ((1.0, 100),)


def test_a_batch_is_no_rate() -> None:
    line = Line()
    assert line.second(come=1_000).rate == 0
    assert all(line.second().rate == 0 for _ in range(100))


def test_a_batch_within_a_stream_hardly_raises_its_rate() -> None:
    line = Line()
    for come in (*[4] * 100, 1_000, *[4] * 3):
        demand = line.second(come, come, come)
    assert demand.rate == pytest.approx(4, abs=0.2)


def test_a_steady_stream_is_its_own_rate() -> None:
    line = Line()
    for _ in range(400):
        demand = line.second(come=8, taken=8, answered=8)
    assert demand.rate == 8


def test_a_ripple_is_no_change_of_the_rate() -> None:
    line = Line()
    for second in range(400):
        come = 12 if second % 40 > 35 else 4
        demand = line.second(come, come, come)
    assert demand.rate == pytest.approx(4.8, abs=0.3)


def test_after_a_change_nothing_from_before_it_counts() -> None:
    line = Line()
    for come in (*[10] * 400, *[1] * 50):
        demand = line.second(come, come, come)
    assert demand.rate == 1  # a mean over a minute would hold ten seconds of the crowd


@pytest.mark.parametrize(("before", "after"), [(1, 10), (10, 1), (10, 0)])
def test_a_stream_that_changes_is_known_by_its_last_seconds(before: int, after: int) -> None:
    line = Line()
    for _ in range(400):
        line.second(come=before, taken=before, answered=before)
    for _ in range(13):
        demand = line.second(come=after, taken=after, answered=after)
    assert demand.rate == pytest.approx(after, abs=0.5)


def test_images_that_leave_without_an_answer_are_forgotten_after_a_while() -> None:
    line = Line()
    line.second(come=50)
    line.waiting = 0  # dead letters, or a purge
    for _ in range(int(SETTLE_SECONDS) + 3):
        line.second()
    assert sum(images for _, images in line.second(come=7).waiting) == 7


def test_a_count_that_dips_and_comes_back_is_no_arrival() -> None:
    line = Line()
    line.second(come=50)
    line.waiting = 30
    line.second()
    assert line.second(come=20).waiting == ((2.0, 50),)


def test_what_is_remembered_is_bounded() -> None:
    line = Line()
    for _ in range(MAX_BINS + 500):
        line.second(come=1, taken=1)
    line.waiting, line.in_flight = line.in_flight, 0  # all were given back
    waiting = line.second().waiting
    assert len(waiting) <= MAX_BINS
    assert sum(images for _, images in waiting) == line.waiting


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=120))
def test_every_image_that_waits_has_an_age_and_no_other_has(seconds: list[tuple[int, int]]) -> None:
    line = Line()
    for come, wanted in seconds:
        taken = min(wanted, line.waiting + come)
        demand = line.second(come, taken, taken)
        assert sum(images for _, images in demand.waiting) == line.waiting
        ages = [age for age, _ in demand.waiting]
        assert ages == sorted(ages, reverse=True)
        assert demand.rate >= 0


def capacity(*instance_ids: str) -> frozenset[str]:
    return frozenset(instance_ids)


def first_heard(at: float | None) -> WorkerStatus:
    return WorkerStatus(0, "ready", 0, EPOCH, at, at or 0)


def test_a_boot_lasts_from_the_launch_to_the_first_word() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(clock=clock)
    boots.update(capacity(), {})
    boots.update(capacity("i-1"), {})
    clock.now = 30
    boots.update(capacity("i-1"), {})
    assert boots.seconds is None
    clock.now = 50
    boots.update(capacity("i-1"), {"i-1": first_heard(42)})
    assert boots.seconds == 42


def test_the_median_of_several_boots_is_told() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(before=99, clock=clock)
    boots.update(capacity(), {})
    assert boots.seconds == 99
    boots.update(capacity("i-1", "i-2", "i-3"), {})
    boots.update(capacity(), {"i-1": first_heard(40), "i-2": first_heard(300), "i-3": first_heard(44)})
    assert boots.seconds == 44


def test_workers_that_were_there_at_the_first_look_and_those_that_never_spoke_are_not_measured() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(clock=clock)
    boots.update(capacity("i-1"), {})
    boots.update(capacity("i-1", "i-2"), {"i-1": first_heard(5)})
    boots.update(capacity("i-1"), {})
    boots.update(capacity("i-1"), {"i-2": first_heard(7)})
    assert boots.seconds is None


def test_a_word_from_before_the_launch_is_not_the_first_one_after_it() -> None:
    clock = Clock(0)
    boots = BootTimeEstimator(clock=clock)
    boots.update(capacity(), {})
    clock.now = 100
    boots.update(capacity("i-1"), {"i-1": first_heard(20)})
    assert boots.seconds is None
    boots.update(capacity("i-1"), {"i-1": first_heard(None)})
    assert boots.seconds is None


class Bench:
    """A pace and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.throughput = ThroughputEstimator(clock=self.clock)
        self._answers = 0

    def run(self, looks: int, images: int, workers: int) -> None:
        """Look so often, half a second apart, each time with `images` more answers from `workers` workers."""
        for _ in range(looks):
            self._answers += images
            self.clock.now += 0.5
            self.throughput.update(self._answers, workers)


@pytest.fixture
def bench() -> Bench:
    """One that has looked once, at two idle workers."""
    bench = Bench()
    bench.run(1, 0, 2)
    return bench


def test_nothing_is_known_before_some_images_are_answered(bench: Bench) -> None:
    bench.run(1, MIN_IMAGES - 1, 2)
    assert bench.throughput.seconds is None
    bench.run(1, 1, 2)
    assert bench.throughput.seconds == 2 / MIN_IMAGES


def test_what_the_last_controller_measured_is_told_until_there_is_something_new() -> None:
    assert ThroughputEstimator(before=0.5).seconds == 0.5


def test_the_time_of_all_workers_is_shared_by_their_images(bench: Bench) -> None:
    bench.run(10, 20, 2)
    assert bench.throughput.seconds == pytest.approx(10 * 0.5 * 2 / 200)


def test_time_without_work_does_not_count(bench: Bench) -> None:
    bench.run(10, 20, 2)
    bench.run(1, 0, 0)
    measured = bench.throughput.seconds
    bench.run(500, 0, 0)
    assert bench.throughput.seconds == measured


def test_a_loop_that_stood_still_does_not_count_as_work(bench: Bench) -> None:
    bench.clock.now += 1000
    bench.run(1, 20, 1)
    assert bench.throughput.seconds == 2 * MAX_STEP_SECONDS / 20


def test_old_measurements_fade(bench: Bench) -> None:
    bench.run(200, 1, 1)
    bench.run(2000, 10, 1)
    assert bench.throughput.seconds == pytest.approx(0.05, rel=0.05)
