"""Leader election: which controller acts, and how its loops run."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from prometheus_client import Counter

from services.backoff import Backoff
from services.lease import Lease, Tenure
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.controller.leader import MAX_HANG_SECONDS, Loop, LoopGroup, run_elected, run_loop


def failures() -> Counter:
    """A counter of failed rounds by loop."""
    return Counter("failures", "", ["loop"], registry=None)


class FakeLease(Lease):
    """A lease with renewals that succeed (True), fail (False), or get no answer in time (None)."""

    def __init__(self, answers: Iterator[bool | None]) -> None:
        super().__init__(MemoryTable(), "controller", length_seconds=6.0)
        self.answers, self.is_held, self.released = answers, False, False
        self.is_last = False

    @property
    def held(self) -> bool:
        return self.is_held

    @property
    def is_last_holder(self) -> bool:
        return self.is_last

    def take_or_renew(self) -> bool:
        answer = next(self.answers)
        self.is_held = bool(answer)
        if answer is None:
            raise EndpointConnectionError(endpoint_url="table")
        self.is_last = answer
        return answer

    def release(self) -> None:
        self.released = True


class FakeLoops(LoopGroup):
    """Loops that only record what is done with them."""

    def __init__(self, events: list[str], *, dies: bool, ends: bool) -> None:
        super().__init__(FakeLease(iter([])), lambda _tenure: (), failures())
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
    """One run of `run_elected` over a list of renewals; it stops after the last."""

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
        if not seconds:
            return False  # the lease was lost, and loops still end
        self.waits.append(seconds)
        if len(self.waits) == self.over_after:
            self.groups[-1].over = True
        return len(self.waits) == len(self.answers)


@pytest.mark.parametrize(
    ("answers", "options", "events", "status", "is_released"),
    [
        ([False, False, False], {}, [], 0, False),
        ([True, True, True], {}, ["start", "stop"], 0, True),
        ([False, True], {}, ["start", "stop"], 0, True),
        ([True, False, True], {}, ["start", "stop", "start", "stop"], 0, True),
        ([True, None, None, True], {}, ["start", "stop"], 0, True),
        ([True, True, True], {"over_after": 1}, ["start", "stop", "start", "stop"], 0, True),
        ([True, True], {"dies": True}, ["start"], 1, False),
        ([True], {"ends": False}, ["start", "stop"], 1, False),
        ([True, False, True], {"ends": False}, ["start", *["stop"] * MAX_HANG_SECONDS], 1, False),
    ],
    ids=[
        "a standby does nothing",
        "the holder works and releases the lease at the end",
        "a standby that acquires the lease works",
        "a lost lease ends the work, and a regained one begins new work",
        "a renewal that gets no answer in time ends nothing",
        "loops that have stopped are started again",
        "a dead loop ends the process",
        "the lease is not released while a loop may act",
        "loops that do not end after the lease was lost end the process",
    ],
)
def test_the_holder_of_the_lease_runs_the_loops(
    answers: list[bool | None], options: dict[str, Any], events: list[str], status: int, is_released: bool
) -> None:
    run = Run(answers, **options)
    assert (run.events, run.status, run.lease.released) == (events, status, is_released)
    assert len(run.groups) == events.count("start")
    assert set(run.waits) <= {2.0}, "renewed every third of its length"


PATIENCE = 10.0


def test_a_loop_survives_errors_and_waits_longer_after_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
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
    counter = failures()
    run_loop(one_loop(tick)[0], Tenure(active=lambda: len(waits) < 6), waits.append, counter, backoff)
    assert counter.labels("loop")._value.get() == 3
    assert waits == [1, 10, 20, 2, 10, 3]
    assert [record.exc_info is not None for record in caplog.records] == [True] * 3


@dataclass
class Work:
    """What a loop does, as a function."""

    tick: Callable[[], float]


def one_loop(tick: Callable[[], float]) -> tuple[Loop]:
    return (Loop("loop", Work(tick), every="", reads="", writes="", on_failure=""),)


def group(tick: Callable[[], float]) -> LoopGroup:
    """A group of one loop, with the lease."""
    lease = FakeLease(iter([]))
    lease.is_held = lease.is_last = True
    return LoopGroup(lease, lambda _tenure: one_loop(tick), failures())


def test_a_group_stops_its_loops_at_once_however_long_they_would_wait() -> None:
    ticked = threading.Event()

    def tick() -> float:
        ticked.set()
        return 3600.0

    loops = group(tick)
    loops.start()
    assert ticked.wait(PATIENCE)
    assert loops.dead() == []
    assert loops.stop(PATIENCE)
    assert loops.is_stopped


def test_loops_never_act_again_once_another_has_the_lease() -> None:
    loops = group(lambda: 0.001)
    lease = cast(FakeLease, loops._lease)
    loops.start()
    lease.is_held = lease.is_last = False
    assert not loops.active()
    lease.is_held = lease.is_last = True
    assert not loops.active()
    assert loops.stop(PATIENCE)


@pytest.mark.parametrize("is_renewed", [True, False])
def test_loops_wait_for_a_late_renewal_and_go_on_if_nobody_else_has_the_lease(is_renewed: bool) -> None:
    loops = group(lambda: 0.001)
    lease = cast(FakeLease, loops._lease)
    lease.is_held = False
    answers = list[bool]()
    waiting = threading.Thread(target=lambda: answers.append(loops.active()))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    assert (loops.dead(), loops.is_stopped) == (["loop"], False), "which was not started"
    lease.is_held = lease.is_last = is_renewed
    waiting.join(PATIENCE)
    assert answers == [is_renewed]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_loop_that_dies_is_named() -> None:
    died = threading.Event()

    def tick() -> float:
        died.set()
        raise SystemExit  # ends a thread silently, as a bug outside the guarded part would

    loops = group(tick)
    loops.start()
    assert died.wait(PATIENCE)
    loops._threads[0].join(PATIENCE)
    assert loops.dead() == ["loop"]


def test_a_loop_that_does_not_end_is_reported() -> None:
    go_on = threading.Event()

    def tick() -> float:
        go_on.wait(PATIENCE)
        return 0.0

    loops = group(tick)
    loops.start()
    assert not loops.stop(0.0)
    go_on.set()
    assert loops.stop(PATIENCE)
