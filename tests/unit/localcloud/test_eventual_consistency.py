"""What something was a while ago."""

from localcloud.eventual_consistency import ValueHistory
from localcloud.options import MAX_LAG_SECONDS
from tests.support.clock import ManualClock


def test_past_value_is_returned() -> None:
    clock = ManualClock()
    history: ValueHistory[str] = ValueHistory(clock=clock)
    history.record("pending")
    clock.now += 10
    history.record("running")
    clock.now += 5
    assert [history.value_ago(seconds) for seconds in (0, 5, 5.1, 15, 15.1)] == [
        "running",
        "running",
        "pending",
        "pending",
        None,
    ]


def test_changes_closer_than_the_resolution_count_as_one_with_the_later_value() -> None:
    clock = ManualClock()
    history: ValueHistory[int] = ValueHistory(resolution_seconds=0.1, clock=clock)
    for value in range(5):
        history.record(value)
        clock.now += 0.03
    assert history.value_ago(0) == 4
    assert len(history) == 2


def test_unchanged_value_is_stored_once() -> None:
    clock = ManualClock()
    history: ValueHistory[str] = ValueHistory(clock=clock)
    for _ in range(100):
        history.record("running")
        clock.now += 1
    assert len(history) == 1
    assert history.value_ago(100) == "running"


def test_history_is_bounded_and_covers_the_largest_lag() -> None:
    clock = ManualClock()
    history: ValueHistory[float] = ValueHistory(clock=clock)
    for _ in range(10 * int(MAX_LAG_SECONDS)):
        history.record(clock.now)
        clock.now += 1
    assert len(history) <= 2 * MAX_LAG_SECONDS + 2
    assert history.value_ago(MAX_LAG_SECONDS) == clock.now - MAX_LAG_SECONDS
