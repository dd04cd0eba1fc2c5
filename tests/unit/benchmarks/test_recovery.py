"""When throughput is back after a kill."""

import pytest

from benchmarks.recovery import seconds_down

LEVEL = 20.0
STEADY = [(moment / 10, 2 * moment) for moment in range(1, 200)]
"""Two results every tenth of a second; the kill is at 5 s, with 100 results."""


def kept(until: float, since: float, late: float = 0.0) -> list[tuple[float, int]]:
    """Steady results without those between two moments; what is missing comes `late` seconds after the second."""
    missing = sum(2 for moment, _ in STEADY if until < moment <= since)
    return [
        (moment, results if moment <= until or moment >= since + late else results - missing)
        for moment, results in STEADY
        if not until < moment <= since
    ]


def test_results_that_come_as_before_were_never_down() -> None:
    assert seconds_down(STEADY, 5.0, 100, LEVEL) == 0.0
    assert seconds_down(kept(5.0, 5.4), 5.0, 100, LEVEL) == 0.0


@pytest.mark.parametrize("late", [0.0, 3.0, 60.0])
def test_throughput_is_back_when_results_come_again_whenever_the_missing_ones_follow(late: float) -> None:
    assert seconds_down(kept(5.0, 8.0, late), 5.0, 100, LEVEL) == pytest.approx(3.1)


def test_results_at_half_the_level_are_down() -> None:
    half = [(moment, results if moment <= 5.0 else 100 + (results - 100) // 2) for moment, results in STEADY]
    assert seconds_down(half, 5.0, 100, LEVEL) > 10
