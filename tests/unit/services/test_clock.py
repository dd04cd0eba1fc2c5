"""The time of day: what two of three clocks agree on."""

from hypothesis import given
from hypothesis import strategies as st

from services.clock import CONFIRM_SECONDS, MAX_ERROR_SECONDS
from tests.support.clocks import YEAR, World

_jumps = st.sampled_from((0.0, 0.0, 5.0, 3_600.0, -3_600.0, YEAR, -YEAR, 20 * YEAR, -20 * YEAR))
_steps = st.lists(st.tuples(_jumps, st.floats(0, 86_400), st.booleans(), st.booleans()), min_size=1, max_size=20)


@given(_steps)
def test_no_jump_of_the_machine_changes_the_time_once_a_reply_has_confirmed_it(
    steps: list[tuple[float, float, bool, bool]],
) -> None:
    """Any jumps, waits and restarts: a process may be wrong only before its first reply."""
    world = World()
    world.reply()
    for jump, seconds, replies, restarts in steps:
        world.wrong_by = jump
        world.wait(seconds)
        if restarts:
            world.start()
            world.reply()
        if replies:
            world.reply(-0.9)
        assert world.error <= MAX_ERROR_SECONDS + 2


@given(st.lists(st.tuples(_jumps, st.floats(0, 86_400)), min_size=1, max_size=20))
def test_no_jump_after_the_start_is_believed_without_a_reply(steps: list[tuple[float, float]]) -> None:
    world = World()
    for jump, seconds in steps:
        world.wrong_by = jump
        world.wait(seconds)
        assert world.error <= MAX_ERROR_SECONDS


def test_a_pause_that_the_boot_clock_does_not_count_ends_with_the_next_reply() -> None:
    world = World()
    world.reply()
    world.wait(10)
    world.true += 7 * 86_400  # the virtual machine was paused, and its clock was set when it went on
    world.reply()
    assert world.error <= MAX_ERROR_SECONDS


def test_a_date_that_agrees_with_no_other_clock_is_believed_once_it_has_lasted() -> None:
    world = World()
    world.reply()
    world.wait(10)
    world.reply(YEAR)
    assert world.error == 0, "the date of a single server may be wrong"
    world.wait(10)
    world.true += 7 * 86_400
    world.wrong_by = -YEAR
    world.reply()
    assert world.error > 86_400
    world.wait(CONFIRM_SECONDS)
    world.reply()
    assert world.error <= MAX_ERROR_SECONDS


def test_a_reply_without_a_readable_date_changes_nothing() -> None:
    world = World()
    for date in (None, "", "yesterday"):
        world.clock.confirm(date)
        world.wait(10)
    assert world.error == 0
