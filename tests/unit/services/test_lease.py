"""The lease: one holder, independent of every wall clock."""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from botocore.exceptions import HTTPClientError
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from services.clock import CLOCK
from services.lease import Lease
from services.table import Table
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.memory_aws.calls import meeting
from tests.support.memory_aws.dynamodb import MemoryTable

T = TypeVar("T")

LENGTH = 10.0

BEFORE_READ, BEFORE_WRITE, AFTER_WRITE = 0, 2, 3
"""Places at which a contender may be frozen: before and after the effect of each of its two calls."""


@dataclass
class Contender:
    """A lease with a clock of its own."""

    lease: Lease
    clock: ManualClock

    @classmethod
    def of(cls, table: Table, now: float = 0.0, time_of_day: float = 1.8e9, **options: Any) -> "Contender":
        clock = ManualClock(now)
        played = PlayedClock(clock, lambda: datetime.fromtimestamp(time_of_day, UTC))
        return cls(Lease(table, "controller", LENGTH, clock=played, **options), clock)

    @classmethod
    def started_by(cls, supervisor: str, table: Table, now: float = 0.0) -> "Contender":
        """Return what a supervisor starts: each time with a name that begins with the supervisor's."""
        return cls.of(table, now, holder=f"{supervisor}/{uuid4().hex}", supervisor=supervisor)

    def after(self, seconds: float) -> bool:
        """Advance this machine's clock, then contend."""
        self.clock.now += seconds
        return self.lease.take_or_renew()


def test_the_first_takes_it_and_the_second_stands_by(table: Table) -> None:
    first, second = Contender.of(table), Contender.of(table)
    assert first.after(0)
    assert not second.after(0)
    for _ in range(10):
        assert first.after(LENGTH / 2)
        assert not second.after(LENGTH / 2)
    assert first.lease.held
    assert not second.lease.held


@pytest.mark.parametrize("skew", [-600.0, 0.0, 600.0, 1e9])
def test_a_silent_holder_is_replaced_after_the_leases_length_for_any_clocks(table: Table, skew: float) -> None:
    first, second = Contender.of(table), Contender.of(table, skew)
    assert first.after(0)
    assert not second.after(0)
    assert not second.after(LENGTH - 1)
    assert second.after(1.1)


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_late_renewal_continues_the_tenure_unless_another_has_taken_the_lease(table: Table, is_taken: bool) -> None:
    first, second = Contender.of(table), Contender.of(table)
    first.after(0)
    token = first.lease.token
    second.after(0)
    first.clock.now += 2 * LENGTH
    assert not first.lease.held
    assert first.lease.is_last_holder, "as far as it knows"
    if is_taken:
        assert second.after(LENGTH)
    assert first.after(0) is not is_taken
    assert first.lease.is_last_holder is not is_taken
    assert first.lease.token == token


def test_a_released_lease_is_taken_at_once(table: Table) -> None:
    first, second = Contender.of(table), Contender.of(table)
    first.after(0)
    second.after(0)
    first.lease.release()
    assert not first.lease.held
    assert second.after(0)


def test_tokens_are_greater_after_the_lease_was_deleted(table: Table) -> None:
    """Row 54."""
    first, second = Contender.of(table), Contender.of(table, time_of_day=1.8e9 + 1)
    assert first.after(0)
    table.delete_all([("LEASE", "controller")])
    assert second.after(0)
    assert second.lease.token > first.lease.token


def test_time_in_which_the_machine_is_suspended_counts(table: Table) -> None:
    assert Lease(table, "controller", LENGTH).clock is CLOCK
    before, now, after = (time.clock_gettime(time.CLOCK_BOOTTIME), CLOCK.boot_seconds(), CLOCK.boot_seconds())
    assert before <= now <= after


def test_of_many_that_contend_at_once_one_gets_it() -> None:
    table = MemoryTable(meeting("GetItem", 8))
    contenders = [Contender.of(table) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(lambda contender: contender.after(0), contenders)) == [False] * 7 + [True]
    assert sum(contender.lease.held for contender in contenders) == 1


SECONDS = st.sampled_from([0.0, LENGTH - 1, LENGTH])
NUMBERS = st.integers(0, 1)
EVENTS = st.tuples(SECONDS, NUMBERS, st.sampled_from(["contend", "contend", "release", "lose the call"]))
"""Time passes; then another contender contends or releases, or the call is lost."""


class Contention(RuleBasedStateMachine):
    """Two contenders and their restarts.

    One may be frozen before or after the effect of any of its calls while another goes on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = MemoryTable(self._call)
        self.contenders = [Contender.started_by("a", self.table), Contender.started_by("b", self.table, 1e6)]
        self.events = dict[int, Callable[[], None]]()
        self.places, self.tokens = itertools.count(), [0]

    @initialize()
    def begin(self) -> None:
        """The first holds the lease, and the second has seen that."""
        for number in (0, 1):
            self._act(number, "contend")

    def _call(self, _operation: str, effect: Callable[[], T]) -> T:
        self._reach_place()
        result = effect()
        self._reach_place()
        return result

    def _reach_place(self) -> None:
        self.events.pop(next(self.places), lambda: None)()

    def _act(self, number: int, action: str) -> None:
        lease = self.contenders[number].lease
        before = lease.token
        with suppress(HTTPClientError):
            lease.take_or_renew() if action == "contend" else lease.release()
        if lease.held and lease.token != before:
            assert lease.token > max(self.tokens), "each tenure has a greater token than all before"
            self.tokens.append(lease.token)
        self._check_one_holds()

    def _check_one_holds(self) -> None:
        assert sum(contender.lease.held for contender in self.contenders) <= 1

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        for contender in self.contenders:
            contender.clock.now += seconds
        self._check_one_holds()

    @rule(
        number=NUMBERS,
        action=st.sampled_from(["contend", "contend", "contend", "release"]),
        place=st.integers(BEFORE_READ, AFTER_WRITE),
        events=st.lists(EVENTS, max_size=2),
    )
    def act(self, number: int, action: str, place: int, events: list[tuple[float, int, str]]) -> None:
        def meanwhile() -> None:
            for seconds, other, event in events:
                self.wait(seconds)
                if event == "lose the call":
                    raise HTTPClientError(error="lost")
                if other != number:  # that one is frozen
                    self._act(other, event)

        self.events, self.places = {place: meanwhile}, itertools.count()
        self._act(number, action)
        self.events = {}

    @rule(number=NUMBERS)
    def restart(self, number: int) -> None:
        """Kill a contender; its supervisor starts another, which takes a lease that it held at once."""
        killed = self.contenders[number]
        self.contenders[number] = Contender.started_by(killed.lease.supervisor, self.table, killed.clock.now)
        self._act(number, "contend")
        assert self.contenders[number].lease.held or not killed.lease.held

    @rule()
    def rest(self) -> None:
        """Contend undisturbed: after the lease's length one of them holds it."""
        for _ in range(3):
            self.wait(LENGTH)
            for number in range(2):
                self._act(number, "contend")
        assert any(contender.lease.held for contender in self.contenders)


TestContention = Contention.TestCase
TestContention.settings = settings(
    stateful_step_count=6,
    phases=[Phase.reuse, Phase.generate],  # to shorten a history that fails takes minutes
)


def test_a_standby_that_was_frozen_before_its_read_waits_from_the_read_on() -> None:
    contention = Contention()
    contention.begin()
    contention.act(1, "contend", BEFORE_READ, [(LENGTH - 1, 0, "contend")])
    contention.wait(1.0)
    contention.act(1, "contend", BEFORE_READ, [])


def test_a_slow_renewal_holds_the_lease_from_before_its_write() -> None:
    contention = Contention()
    contention.begin()
    contention.act(0, "contend", BEFORE_WRITE - 1, [(0.0, 1, "contend"), (LENGTH - 1, 1, "contend")])
    contention.wait(1.0)
    contention.act(1, "contend", AFTER_WRITE, [])
    assert contention.contenders[1].lease.held


def test_a_standby_that_was_frozen_before_its_write_leaves_a_renewal() -> None:
    contention = Contention()
    contention.begin()
    contention.wait(LENGTH)
    contention.act(1, "contend", BEFORE_WRITE, [(0.0, 0, "contend")])
    assert contention.contenders[0].lease.held
