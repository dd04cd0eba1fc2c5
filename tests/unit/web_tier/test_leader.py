"""Leader election: which controller acts, and how its loops run."""

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import EndpointConnectionError

from services.backoff import Backoff
from services.lease import Lease
from tests.support.memory_table import MemoryTable
from web_tier.controller.leader import LoopGroup, Tick, run_elected, run_loop


class FakeLease(Lease):
    """A lease with renewals that succeed (True), fail (False), or get no answer (None)."""

    def __init__(self, answers: Iterator[bool | None]) -> None:
        super().__init__(MemoryTable(), "controller", length_seconds=6.0)
        self.answers, self.is_held, self.released = answers, False, False

    @property
    def held(self) -> bool:
        return self.is_held

    def take_or_renew(self) -> bool:
        answer = next(self.answers)
        if answer is None:
            raise EndpointConnectionError(endpoint_url="table")
        self.is_held = answer
        return answer

    def release(self) -> None:
        self.released = True


class FakeLoops(LoopGroup):
    """Loops that only record what is done with them."""

    def __init__(self, events: list[str], *, dies: bool, ends: bool) -> None:
        super().__init__(lambda _active: {}, lambda: True)
        self.events, self.dies, self.ends, self.over = events, dies, ends, False

    @property
    def is_stopped(self) -> bool:
        return self.over

    def start(self) -> None:
        self.events.append("start")

    def dead(self) -> list[str]:
        return ["collector"] if self.dies else []

    def stop(self, within_seconds: float = 0.0) -> bool:
        self.events.append("stop")
        return self.ends


@dataclass
class Run:
    """One run of `run_elected` over a list of renewals, told to stop after the last."""

    answers: list[bool | None]
    dies: bool = False
    ends: bool = True
    over_after: int | None = None
    events: list[str] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    groups: list[FakeLoops] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Run it."""
        self.lease = FakeLease(iter(self.answers))
        self.status = run_elected(self.lease, self.new_loops, self.wait)

    def new_loops(self) -> FakeLoops:
        self.groups.append(FakeLoops(self.events, dies=self.dies, ends=self.ends))
        return self.groups[-1]

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if len(self.waits) == self.over_after:
            self.groups[-1].over = True
        return len(self.waits) == len(self.answers)


def test_a_standby_does_nothing_and_releases_nothing() -> None:
    run = Run([False, False, False])
    assert (run.status, run.events, run.lease.released) == (0, [], False)


def test_the_holder_works_until_told_to_stop_then_releases() -> None:
    run = Run([True, True, True])
    assert (run.status, run.events, run.lease.released) == (0, ["start", "stop"], True)
    assert run.waits == [2.0] * 3, "renewed every third of its length"


def test_a_standby_that_gets_the_lease_begins_to_work() -> None:
    run = Run([False, True])
    assert run.events == ["start", "stop"]


def test_a_lost_lease_ends_the_work_and_a_regained_one_begins_new_work() -> None:
    run = Run([True, False, True])
    assert run.events == ["start", "stop", "start", "stop"]
    assert len(run.groups) == 2


def test_a_renewal_without_an_answer_changes_nothing_as_long_as_the_lease_is_held() -> None:
    run = Run([True, None, None, True])
    assert run.events == ["start", "stop"]


def test_work_that_is_over_because_a_renewal_came_late_is_begun_anew() -> None:
    run = Run([True, True, True], over_after=1)
    assert run.events == ["start", "stop", "start", "stop"]
    assert run.status == 0


def test_a_loop_that_died_ends_the_process_so_that_it_is_started_again() -> None:
    run = Run([True, True], dies=True)
    assert run.status == 1


def test_a_lease_is_not_released_while_a_loop_may_still_act() -> None:
    run = Run([True], ends=False)
    assert (run.status, run.lease.released) == (1, False)


def test_loops_that_do_not_end_after_the_lease_was_lost_end_the_process() -> None:
    assert Run([True, False, True], ends=False).status == 1


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
    run_loop("loop", tick, lambda: len(waits) < 6, waits.append, backoff)
    assert waits == [1, 10, 20, 2, 10, 3]
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3


def one_loop(tick: Tick) -> Callable[[Callable[[], bool]], Mapping[str, Tick]]:
    return lambda _active: {"loop": tick}


def test_a_loops_ends_its_loops_at_once_however_long_they_would_wait() -> None:
    ticked = threading.Event()

    def tick() -> float:
        ticked.set()
        return 3600.0

    loops = LoopGroup(one_loop(tick), lambda: True)
    loops.start()
    assert ticked.wait(PATIENCE)
    assert loops.dead() == []
    assert loops.stop(PATIENCE)
    assert loops.is_stopped


def test_a_loops_whose_lease_was_not_held_for_a_moment_stays_over() -> None:
    held = [True]
    loops = LoopGroup(one_loop(lambda: 0.001), lambda: held[0])
    loops.start()
    held[0] = False
    assert not loops.active()
    held[0] = True
    assert not loops.active()
    assert loops.stop(PATIENCE)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_dies_is_named() -> None:
    died = threading.Event()

    def tick() -> float:
        died.set()
        raise SystemExit  # ends a thread silently, as a bug outside the guarded part would

    loops = LoopGroup(one_loop(tick), lambda: True)
    loops.start()
    assert died.wait(PATIENCE)
    loops._threads[0].join(PATIENCE)
    assert loops.dead() == ["loop"]


def test_a_loop_that_hangs_is_told_of() -> None:
    go_on = threading.Event()

    def tick() -> float:
        go_on.wait(PATIENCE)
        return 0.0

    loops = LoopGroup(one_loop(tick), lambda: True)
    loops.start()
    assert not loops.stop(0.0)
    go_on.set()
    assert loops.stop(PATIENCE)
