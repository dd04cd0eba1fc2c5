import pytest

from simulator.theory import checks, md1_wait_seconds
from simulator.theory import waiting_share as erlang_c


def test_erlang_c_is_the_load_for_one_server_and_one_at_full_load() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)  # by hand: a²/2 / (1 - u) over the sum
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    assert erlang_c(10, 9.999_999) == pytest.approx(1.0, rel=1e-5)


def test_half_as_long_as_with_exponential_times_is_waited_in_md1() -> None:
    assert md1_wait_seconds(0.5, 2.0) == pytest.approx(0.5 * 2.0 * 0.5 / (1 - 0.5))


def test_the_simulator_does_what_queueing_theory_says_within_two_percent() -> None:
    assert {check.what: check.deviation for check in checks(100_000) if check.deviation > 0.02} == {}
