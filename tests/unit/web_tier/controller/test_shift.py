"""Loops that survive, stop when told, and never act without the lease."""

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from web_tier.controller.backoff import Backoff
from web_tier.controller.shift import LoopGroup, Tick, keep_ticking

PATIENCE = 10.0


def test_each_failure_doubles_the_wait_up_to_a_bound_and_success_begins_anew() -> None:
    backoff = Backoff(1.0, 30.0, uniform=lambda _low, high: high)
    assert [backoff.after_failure() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.after_failure() == 1


def test_half_of_a_wait_is_jitter() -> None:
    assert Backoff(8.0, uniform=lambda low, _high: low).after_failure() == 4


def test_a_loop_survives_what_its_rounds_raise_and_waits_longer_each_time(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: Iterator[float | Exception] = iter(
        [1.0, ValueError("first"), OSError("second"), 2.0, KeyError("third"), 3.0]
    )
    waits: list[float] = []

    def tick() -> float:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    backoff = Backoff(10.0, uniform=lambda _low, high: high)
    keep_ticking("loop", tick, lambda: len(waits) < 6, waits.append, backoff)
    assert waits == [1, 10, 20, 2, 10, 3]
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3


def one_loop(tick: Tick) -> Callable[[Callable[[], bool]], Mapping[str, Tick]]:
    return lambda _active: {"loop": tick}


def test_a_shift_ends_its_loops_at_once_however_long_they_would_wait() -> None:
    ticked = threading.Event()

    def tick() -> float:
        ticked.set()
        return 3600.0

    shift = LoopGroup(one_loop(tick), lambda: True)
    shift.start()
    assert ticked.wait(PATIENCE)
    assert shift.dead() == []
    assert shift.stop(PATIENCE)
    assert shift.over


def test_a_shift_whose_lease_was_not_held_for_a_moment_stays_over() -> None:
    held = [True]
    shift = LoopGroup(one_loop(lambda: 0.001), lambda: held[0])
    shift.start()
    held[0] = False
    assert not shift.active()
    held[0] = True
    assert not shift.active()
    assert shift.stop(PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_dies_is_named() -> None:
    died = threading.Event()

    def tick() -> float:
        died.set()
        raise SystemExit  # ends a thread silently, as a bug outside the guarded part would

    shift = LoopGroup(one_loop(tick), lambda: True)
    shift.start()
    assert died.wait(PATIENCE)
    shift._threads[0].join(PATIENCE)
    assert shift.dead() == ["loop"]


def test_a_loop_that_hangs_is_told_of() -> None:
    go_on = threading.Event()

    def tick() -> float:
        go_on.wait(PATIENCE)
        return 0.0

    shift = LoopGroup(one_loop(tick), lambda: True)
    shift.start()
    assert not shift.stop(0.0)
    go_on.set()
    assert shift.stop(PATIENCE)
