"""What the autoscaler knows when it decides: described and launched instances, counts, and estimates."""

from collections.abc import Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, counted_queue, instance
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH, MemoryEC2
from tests.support.memory_aws.sqs import MemorySQS
from web_tier.autoscaler.estimators import (
    MAX_BINS,
    MAX_STEP_SECONDS,
    MIN_IMAGES,
    RATE_SECONDS,
    SETTLE_SECONDS,
    AnswerRateMeter,
    ArrivalRateEstimator,
    BootTimeEstimator,
    ThroughputEstimator,
)
from web_tier.autoscaler.liveness import WorkerStatus
from web_tier.autoscaler.observe import (
    DESCRIPTION_SECONDS,
    LAUNCH_VISIBLE_SECONDS,
    Demand,
    Observer,
    RecentLaunches,
)
from web_tier.autoscaler.outstanding import OutstandingPacks


def observer(ec2: MemoryEC2, sqs: MemorySQS, clock: Clock, dead: MemorySQS | None = None) -> Observer:
    queues = sqs.queue(), (dead or counted_queue()).queue()
    packs = OutstandingPacks(MemoryTable(), PlayedClock(clock))
    return Observer(*queues, ec2.fleet(), RecentLaunches(clock), packs, PlayedClock(clock))


def test_a_launched_instance_counts_until_it_is_described() -> None:
    clock = Clock()
    launches = RecentLaunches(clock)
    launches.add(["i-1", "i-2", "i-3"])
    assert launches.launching([]) == {"i-1", "i-2", "i-3"}
    assert launches.launching([instance("i-1", "pending")]) == {"i-2", "i-3"}
    assert launches.launching([instance("i-2", "running")]) == {"i-1", "i-3"}, "another replica answered"
    assert launches.launching([instance("i-2", "shutting-down"), instance("i-3", "stopped")]) == {"i-1"}
    clock.now += LAUNCH_VISIBLE_SECONDS
    assert launches.launching([]) == frozenset()
    assert not launches


@pytest.mark.parametrize("state", ["running", "stopping", "stopped"])
def test_a_description_from_before_a_restart_does_not_count(state: str) -> None:
    launches = RecentLaunches(Clock())
    launches.add(["i-1", "i-2"], {"i-1": EPOCH, "i-2": EPOCH})
    started = EPOCH + timedelta(seconds=50)
    assert launches.launching([instance("i-1", state), instance("i-2", "terminated")]) == {"i-1"}
    assert launches.launching([instance("i-1", "running", started)]) == frozenset()
    assert launches.launching([instance("i-1", state)]) == {"i-1"}, "another replica, which lags, answered"
    assert launches.launching([instance("i-1", "stopped", started)]) == frozenset()
    assert not launches


def test_an_instance_that_ended_before_it_was_described_as_alive_is_no_capacity() -> None:
    clock, ec2 = Clock(), MemoryEC2(states={"i-1": "terminated"})
    seen = observer(ec2, counted_queue(), clock)
    seen.launches.add(["i-1"])
    assert seen.describe().capacity == 0


def test_the_fleet_is_described_again_when_demand_grows_or_a_second_has_passed() -> None:
    clock, ec2, sqs = Clock(), MemoryEC2(), counted_queue(5)
    seen = observer(ec2, sqs, clock)
    assert seen.describe().capacity == 0
    ec2.states["i-1"] = "running"
    sqs.others_visible = 4
    assert seen.describe().capacity == 0, "the old description was good enough"
    sqs.others_visible = 6
    assert seen.describe().capacity == 1
    del ec2.states["i-1"]
    clock.now += DESCRIPTION_SECONDS
    assert seen.describe().capacity == 0


class Line:
    """A queue of images, observed once a second."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.arrivals = ArrivalRateEstimator()
        self.waiting = self.in_flight = self.answers = 0

    def second(self, come: int = 0, received: int = 0, answered: int = 0) -> Demand:
        self.clock.now += 1
        self.waiting += come - received
        self.in_flight += received - answered
        self.answers += answered
        return self.arrivals.update(QueueCounts(self.waiting, self.in_flight, 0), self.answers, self.clock.now)

    def stream(self, *arrivals: int) -> float:
        """Let so many images come and be answered in each second; return the rate at the end."""
        return [self.second(each, each, each) for each in arrivals][-1].rate


def test_the_images_that_arrived_last_are_those_that_wait() -> None:
    line = Line()
    line.second(come=5)
    line.second(come=3)
    assert line.second().waiting == ((2.0, 5), (1.0, 3))
    assert line.second(received=6).waiting == ((2.0, 2),)
    assert line.second(answered=6, come=1).waiting == ((3.0, 2), (0.0, 1))
    found = Line()
    found.waiting = 100  # before the first observation
    found.second()
    assert found.second().waiting == ((1.0, 100),)


@pytest.mark.parametrize(
    ("arrivals", "rate", "tolerance"),
    [
        pytest.param([*[8] * 400], 8, 0, id="a steady stream is its own rate"),
        pytest.param([*[4] * 100, 1_000, *[4] * 3], 4, 0.2, id="a batch within a stream hardly raises its rate"),
        pytest.param([12 if second % 40 > 35 else 4 for second in range(400)], 4.8, 0.3, id="a ripple is no change"),
        # A mean over a minute would contain ten seconds of the former rate.
        pytest.param([*[10] * 400, *[1] * 50], 1, 0, id="nothing from before a change counts"),
        pytest.param([*[1] * 400, *[10] * 13], 10, 0.5, id="a rise is known by its last seconds"),
        pytest.param([*[10] * 400, *[1] * 13], 1, 0.5, id="a fall is known by its last seconds"),
        pytest.param([*[10] * 400, *[0] * 13], 0, 0.5, id="an end is known by its last seconds"),
    ],
)
def test_the_rate_is_the_mean_since_it_last_changed(arrivals: list[int], rate: float, tolerance: float) -> None:
    assert Line().stream(*arrivals) == pytest.approx(rate, abs=tolerance)


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
        line.second(come=1, received=1)
    line.waiting, line.in_flight = line.in_flight, 0  # all were given back
    waiting = line.second().waiting
    assert len(waiting) <= MAX_BINS
    assert sum(images for _, images in waiting) == line.waiting


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=120))
def test_every_image_that_waits_has_an_age_and_no_other_has(seconds: list[tuple[int, int]]) -> None:
    line = Line()
    for come, wanted in seconds:
        received = min(wanted, line.waiting + come)
        demand = line.second(come, received, received)
        assert sum(images for _, images in demand.waiting) == line.waiting
        ages = [age for age, _ in demand.waiting]
        assert ages == sorted(ages, reverse=True)
        assert demand.rate >= 0


def boots(*rounds: tuple[float, str, Mapping[str, float | None]], before: float | None = None) -> list[float | None]:
    """Return the boot time after each round, given its time, its instances, and the first heartbeats so far."""
    estimator, found = BootTimeEstimator(before), list[float | None]()
    for now, instances, first in rounds:
        statuses = {key: WorkerStatus(0, "ready", 0, EPOCH, at, at or 0) for key, at in first.items()}
        estimator.update(frozenset(instances.split()), statuses, now)
        found.append(estimator.seconds)
    return found


def test_a_boot_lasts_from_the_launch_to_the_first_heartbeat() -> None:
    assert boots((0, "", {}), (0, "a", {}), (30, "a", {}), (50, "a", {"a": 42})) == [None, None, None, 42]


def test_the_boot_time_is_the_median_and_before_that_the_previous_controllers() -> None:
    rounds = boots((0, "", {}), (0, "a b c", {}), (0, "", {"a": 40, "b": 300, "c": 44}), before=99)
    assert rounds == [99, 99, 44]


def test_workers_of_the_first_round_and_those_without_a_heartbeat_are_not_measured() -> None:
    assert boots((0, "a", {}), (0, "a b", {"a": 5}), (0, "a", {}), (0, "a", {"b": 7}))[-1] is None


class Throughput:
    """An estimator and its clock, first updated with two idle workers."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.estimator = ThroughputEstimator()
        self._answers = 0
        self.run(1, 0, 2)

    def run(self, updates: int, images: int, workers: int) -> None:
        """Update it so often, half a second apart, each time with `images` more answers of `workers` workers."""
        for _ in range(updates):
            self._answers += images
            self.clock.now += 0.5
            self.estimator.update(self._answers, workers, self.clock.now)


@pytest.fixture
def bench() -> Throughput:
    return Throughput()


def test_the_time_of_an_image_is_known_from_answers_or_the_previous_controller(bench: Throughput) -> None:
    assert ThroughputEstimator(before=0.5).seconds == 0.5
    bench.run(1, MIN_IMAGES - 1, 2)
    assert bench.estimator.seconds is None
    bench.run(1, 1, 2)
    assert bench.estimator.seconds == 2 / MIN_IMAGES


def test_time_without_work_does_not_count(bench: Throughput) -> None:
    bench.run(10, 20, 2)
    bench.run(1, 0, 0)
    measured = bench.estimator.seconds
    bench.run(500, 0, 0)
    assert bench.estimator.seconds == measured


def test_a_pause_of_the_loop_does_not_count_as_work(bench: Throughput) -> None:
    bench.clock.now += 1000
    bench.run(1, 20, 1)
    assert bench.estimator.seconds == 2 * MAX_STEP_SECONDS / 20


def test_the_displayed_rate_is_that_of_the_last_seconds_and_falls_to_zero() -> None:
    meter = AnswerRateMeter()
    assert meter.update(1_000, 0.0) == 0, "answers of the time before"
    for second in range(1, 11):
        rate = meter.update(1_000 + 20 * second, second)
    assert rate == pytest.approx(20)
    assert meter.update(1_200, 10 + RATE_SECONDS) == 0
