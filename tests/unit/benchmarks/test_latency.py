import pytest

from benchmarks.latency import latencies, percentile, result_moments


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
