"""What benchmarks measure with: latencies, other work on the machine, steady windows."""

import os
from pathlib import Path

import pytest

from benchmarks.measure import CpuSample, Window, latencies, percentile, result_moments, steady, used, watch_others


@pytest.mark.parametrize(("percent", "value"), [(50, 50), (95, 95), (99, 99), (100, 100), (0.5, 1)])
def test_a_percentile_is_a_value_that_was_measured(percent: float, value: float) -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == value


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert percentile([0.7], 50) == percentile([0.7], 99) == 0.7


def test_a_result_is_as_old_as_the_first_look_that_saw_it() -> None:
    assert result_moments([(1.0, 0), (2.0, 2), (3.0, 2), (4.0, 3)], 3) == [2.0, 2.0, 4.0]


def test_results_beyond_those_asked_for_do_not_count() -> None:
    assert result_moments([(1.0, 5)], 3) == [1.0, 1.0, 1.0]


def test_looks_that_miss_results_are_refused() -> None:
    with pytest.raises(ValueError, match="2 of 3 results"):
        result_moments([(1.0, 2)], 3)


def test_results_pair_with_images_in_order_of_acceptance() -> None:
    assert latencies([3.0, 1.0], [4.0, 6.0]) == [3.0, 3.0]


TICKS = os.sysconf("SC_CLK_TCK")


def stat(path: Path, user: float, idle: float) -> Path:
    """Write a ``/proc/stat`` of a machine that was busy and idle for so many seconds."""
    path.write_text(f"cpu  {int(user * TICKS)} 0 0 {int(idle * TICKS)} 0 0 0 0 0 0\ncpu0 1 2 3\n")
    return path


@pytest.mark.parametrize(("others", "trusted"), [(0.0, True), (1000.0, False)])
def test_a_machine_that_is_busy_with_something_else_is_not_trusted(
    others: float, trusted: bool, tmp_path: Path
) -> None:
    path = stat(tmp_path / "stat", 10, 10)
    with watch_others(path) as share:
        stat(path, 10 + others, 99)
    assert (share.ratio > 0) is not trusted
    assert share.trusted is trusted


LOOKS = [CpuSample(10.0, {"worker": 1.0}), CpuSample(12.0, {"worker": 2.0}), CpuSample(14.0, {"worker": 4.0})]


def sends(count: int, of: int = 10, every: float = 0.1) -> list[float]:
    """Return the moments of `count` sends of ten results, which are stamped within two milliseconds."""
    return [100 + every * send + 0.0002 * place for send in range(count) for place in range(of)]


def test_steady_results_give_their_true_speed() -> None:
    window = steady(sends(40))
    assert window.images / window.seconds == pytest.approx(100)


def test_a_slow_start_and_a_slow_end_do_not_count() -> None:
    moments = sends(40)
    late_end = [*moments[:-10], *(moment + 5 for moment in moments[-10:])]
    early_start = [*(moment - 5 for moment in late_end[:10]), *late_end[10:]]
    assert steady(early_start) == steady(moments)


def test_the_window_begins_and_ends_after_a_whole_send() -> None:
    window = steady(sends(11, of=8))
    assert window.images % 8 == 0


def test_the_order_in_which_results_are_read_changes_nothing() -> None:
    assert steady(sends(20)[::-1]) == steady(sends(20))


def test_too_few_results_have_no_steady_state() -> None:
    with pytest.raises(ValueError, match="take more images"):
        steady(sends(1))


def test_what_was_used_between_two_looks_counts_evenly() -> None:
    assert used(LOOKS, "worker", Window(11.0, 13.0, 1)) == pytest.approx(1.5)
    assert used(LOOKS, "worker", Window(10.0, 14.0, 1)) == pytest.approx(3.0)


def test_a_window_that_nobody_looked_at_is_refused() -> None:
    with pytest.raises(ValueError, match="there was no look"):
        used(LOOKS, "worker", Window(9.0, 13.0, 1))
