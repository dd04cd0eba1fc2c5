import numpy as np
import pytest

from simulator.outcome import COLUMNS, Outcome, together


def outcome(*latencies: float, billed: float = 100.0, work: float = 50.0, peak: int = 1) -> Outcome:
    history = np.zeros((1, len(COLUMNS)))
    return Outcome(np.array(latencies), billed, work, 2.0, peak, 1, 1, history)


def test_cost_is_what_was_billed_by_the_work_itself() -> None:
    assert outcome(1.0, billed=120.0, work=50.0).cost == pytest.approx(2.4)


def test_at_least_so_many_percent_were_answered_within_a_percentile() -> None:
    twenty = outcome(*range(1, 21))
    assert twenty.p95 == 19.0  # 19 of 20
    assert twenty.percentile(50) == 10.0


def test_a_deadline_is_missed_by_who_is_later() -> None:
    assert outcome(1.0, 2.0, 3.0, 4.0).missed(3.0) == 0.25


def test_several_simulations_are_pooled_and_averaged() -> None:
    both = together([outcome(1.0, billed=100.0, work=50.0, peak=3), outcome(3.0, 5.0, billed=200.0, work=70.0)])
    assert sorted(both.latencies) == [1.0, 3.0, 5.0]
    assert (both.billed_seconds, both.work_seconds, both.launches, both.peak) == (150.0, 60.0, 2.0, 3)
    assert (both.beyond_maximum, both.simulations) == (2, 2)
