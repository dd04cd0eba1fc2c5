"""The rule for waits between tries."""

from hypothesis import given
from hypothesis import strategies as st

from services.backoff import Backoff, pause_seconds

FAILURES = st.integers(1, 10_000)
SECONDS = st.floats(0.001, 1_000)


def test_without_a_failure_nothing_is_waited_for() -> None:
    assert pause_seconds(0, first=1, maximum=10) == 0


def test_waits_double_up_to_the_most() -> None:
    longest = [pause_seconds(failures, 1, 10, lambda _least, most: most) for failures in range(1, 7)]
    assert longest == [1, 2, 4, 8, 10, 10]


def test_a_success_begins_again_with_the_shortest_wait() -> None:
    backoff = Backoff(1.0, 30.0, uniform=lambda _low, high: high)
    assert [backoff.after_failure() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.after_failure() == 1


@given(failures=FAILURES, first=SECONDS, most=SECONDS)
def test_a_wait_is_never_longer_than_the_most_nor_shorter_than_half_of_it_in_the_end(
    failures: int, first: float, most: float
) -> None:
    wait = pause_seconds(failures, first, most)
    assert 0 < wait <= most
    if failures > 60:
        assert wait >= most / 2


def test_those_who_wait_spread() -> None:
    assert len({pause_seconds(3, 1, 60) for _ in range(20)}) > 15
