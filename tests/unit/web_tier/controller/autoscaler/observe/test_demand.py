"""What waits and for how long, and how much comes, told from counts and answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sqs import QueueCounts
from tests.support.controller import Clock
from web_tier.controller.autoscaler.observe.demand import MAX_BINS, SETTLE_SECONDS, ArrivalRateEstimator, Demand


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
        return self.arrivals.look(QueueCounts(self.waiting, self.in_flight, 0), self.answers)


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
