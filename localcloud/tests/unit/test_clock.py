"""The local cloud's time of day: a jump of the machine's clock is followed only if it lasts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcloud.clock import MAX_DRIFT_SECONDS, STEP_SECONDS, SteadyClock

YEAR = 365 * 86_400.0
START = 1_790_000_000.0


class Machine:
    """A machine whose clock is `wrong_by` seconds off."""

    def __init__(self) -> None:
        self.passed, self.wrong_by = 0.0, 0.0
        self.clock = SteadyClock(lambda: START + self.passed + self.wrong_by, lambda: self.passed)

    def error_after(self, seconds: float) -> float:
        self.passed += seconds
        return abs(self.clock() - START - self.passed)


_jumps = st.sampled_from((5.0, 3_600.0, -3_600.0, YEAR, -YEAR, 20 * YEAR))


@given(st.lists(st.tuples(_jumps, st.floats(0, STEP_SECONDS - 1), st.floats(0, STEP_SECONDS)), max_size=20))
def test_no_jump_that_ends_in_time_is_seen(jumps: list[tuple[float, float, float]]) -> None:
    machine = Machine()
    for jump, wrong_seconds, right_seconds in jumps:
        machine.wrong_by = jump
        assert machine.error_after(0) <= MAX_DRIFT_SECONDS
        assert machine.error_after(wrong_seconds) <= MAX_DRIFT_SECONDS
        machine.wrong_by = 0.0
        assert machine.error_after(0) <= MAX_DRIFT_SECONDS
        assert machine.error_after(right_seconds) <= MAX_DRIFT_SECONDS


@pytest.mark.parametrize("jump", [-YEAR, 3_600.0])
def test_a_jump_that_lasts_is_followed_and_so_is_its_end(jump: float) -> None:
    machine = Machine()
    machine.wrong_by = jump
    assert machine.error_after(0) == 0
    assert machine.error_after(STEP_SECONDS) == pytest.approx(abs(jump))
    machine.wrong_by = 0.0
    assert machine.error_after(1) == pytest.approx(abs(jump))
    assert machine.error_after(STEP_SECONDS) == 0
