"""What something was a while ago."""

from localcloud.options import MAX_LAG_SECONDS
from localcloud.timeline import Timeline


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_value_of_so_long_ago_is_told() -> None:
    clock = Clock()
    timeline: Timeline[str] = Timeline(clock=clock)
    timeline.note("pending")
    clock.now += 10
    timeline.note("running")
    clock.now += 5
    assert [timeline.ago(seconds) for seconds in (0, 5, 5.1, 15, 15.1)] == [
        "running",
        "running",
        "pending",
        "pending",
        None,
    ]


def test_changes_closer_than_the_resolution_count_as_one_with_the_later_value() -> None:
    clock = Clock()
    timeline: Timeline[int] = Timeline(resolution_seconds=0.1, clock=clock)
    for value in range(5):
        timeline.note(value)
        clock.now += 0.03
    assert timeline.ago(0) == 4
    assert len(timeline) == 2


def test_a_value_that_stays_is_kept_once() -> None:
    clock = Clock()
    timeline: Timeline[str] = Timeline(clock=clock)
    for _ in range(100):
        timeline.note("running")
        clock.now += 1
    assert len(timeline) == 1
    assert timeline.ago(100) == "running"


def test_what_is_remembered_is_bounded_and_reaches_as_far_back_as_an_answer_may_lag() -> None:
    clock = Clock()
    timeline: Timeline[float] = Timeline(clock=clock)
    for _ in range(10 * int(MAX_LAG_SECONDS)):
        timeline.note(clock.now)
        clock.now += 1
    assert len(timeline) <= 2 * MAX_LAG_SECONDS + 2
    assert timeline.ago(MAX_LAG_SECONDS) == clock.now - MAX_LAG_SECONDS
