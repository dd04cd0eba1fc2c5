"""Seconds per image and worker, from throughput."""

import pytest

from tests.support.controller import Clock
from web_tier.controller.autoscaler.observe.pace import MAX_SECONDS, MIN_IMAGES, ThroughputEstimator


class Bench:
    """A pace and its clock."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pace = ThroughputEstimator(clock=self.clock)
        self._answers = 0

    def run(self, looks: int, images: int, workers: int) -> None:
        """Look so often, half a second apart, each time with `images` more answers from `workers` workers."""
        for _ in range(looks):
            self._answers += images
            self.clock.now += 0.5
            self.pace.look(self._answers, workers)


@pytest.fixture
def bench() -> Bench:
    """One that has looked once, at two idle workers."""
    bench = Bench()
    bench.run(1, 0, 2)
    return bench


def test_nothing_is_known_before_some_images_are_answered(bench: Bench) -> None:
    bench.run(1, MIN_IMAGES - 1, 2)
    assert bench.pace.seconds is None
    bench.run(1, 1, 2)
    assert bench.pace.seconds == 2 / MIN_IMAGES


def test_what_the_last_controller_measured_is_told_until_there_is_something_new() -> None:
    assert ThroughputEstimator(before=0.5).seconds == 0.5


def test_the_time_of_all_workers_is_shared_by_their_images(bench: Bench) -> None:
    bench.run(10, 20, 2)
    assert bench.pace.seconds == pytest.approx(10 * 0.5 * 2 / 200)


def test_time_without_work_does_not_count(bench: Bench) -> None:
    bench.run(10, 20, 2)
    bench.run(1, 0, 0)
    measured = bench.pace.seconds
    bench.run(500, 0, 0)
    assert bench.pace.seconds == measured


def test_a_loop_that_stood_still_does_not_count_as_work(bench: Bench) -> None:
    bench.clock.now += 1000
    bench.run(1, 20, 1)
    assert bench.pace.seconds == 2 * MAX_SECONDS / 20


def test_old_measurements_fade(bench: Bench) -> None:
    bench.run(200, 1, 1)
    bench.run(2000, 10, 1)
    assert bench.pace.seconds == pytest.approx(0.05, rel=0.05)
