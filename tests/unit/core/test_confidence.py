"""Intervals of a share that was counted."""

import pytest

from core.confidence import wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_confidence_interval_is_that_of_newcombes_table(right: int, count: int, low: float, high: float) -> None:
    """Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3."""
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=6e-5)
