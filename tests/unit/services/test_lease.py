"""The lease: one holder, independent of every wall clock."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from services.lease import Lease, boot_seconds
from services.table import Table
from tests.support.memory_aws.calls import meeting
from tests.support.memory_aws.dynamodb import MemoryTable

LENGTH = 10.0


@dataclass
class Clock:
    """A machine's monotonic clock; two machines' have nothing in common."""

    now: float

    def __call__(self) -> float:
        """Return the seconds."""
        return self.now


@dataclass
class Contender:
    """A lease with a clock of its own."""

    lease: Lease
    clock: Clock

    @classmethod
    def of(cls, table: Table, now: float = 0.0, time_of_day: float = 1.8e9) -> "Contender":
        clock = Clock(now)
        return cls(Lease(table, "controller", LENGTH, clock=clock, now=lambda: time_of_day), clock)

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


def test_the_former_holder_stops_before_anybody_else_may_begin(table: Table) -> None:
    first, second = Contender.of(table), Contender.of(table)
    first.after(0)
    second.after(0)
    first.clock.now += LENGTH
    assert not first.lease.held, "by its own clock, without a call"
    assert second.after(LENGTH)
    assert not first.after(0)
    assert not first.after(1)


def test_a_released_lease_is_taken_at_once(table: Table) -> None:
    first, second = Contender.of(table), Contender.of(table)
    first.after(0)
    second.after(0)
    first.lease.release()
    assert not first.lease.held
    assert second.after(0)


def test_who_does_not_hold_it_releases_nothing(table: Table) -> None:
    first, second = Contender.of(table), Contender.of(table)
    first.after(0)
    second.after(0)
    second.lease.release()
    assert first.after(1)


def test_a_holder_whose_renewal_comes_late_takes_it_again_if_no_other_has(table: Table) -> None:
    first = Contender.of(table)
    first.after(0)
    first.clock.now += 2 * LENGTH
    assert not first.lease.held
    assert first.after(0)


def test_each_tenure_has_a_greater_token_than_all_before(table: Table) -> None:
    """Row 54: also after a release, a late renewal, and renewals that failed."""
    first, second = Contender.of(table), Contender.of(table)
    tokens = list[int]()

    def note(contender: Contender) -> None:
        assert contender.lease.held
        tokens.append(contender.lease.token)

    assert first.after(0)
    note(first)
    for _ in range(5):
        assert first.after(1)
    assert first.lease.token == tokens[0], "one token for the whole tenure"
    first.lease.release()
    assert second.after(0)
    note(second)
    second.clock.now += 2 * LENGTH
    assert second.after(0)
    note(second)
    assert not first.after(0)
    assert first.after(LENGTH)
    note(first)
    assert not second.after(1)
    assert second.lease.token < first.lease.token, "a renewal that failed changes no token"
    table.delete_all([("LEASE", "controller")])
    third = Contender.of(table, time_of_day=1.8e9 + 1)
    assert third.after(0)
    note(third)
    assert tokens == sorted(set(tokens))


def test_time_in_which_the_machine_is_suspended_counts(table: Table) -> None:
    assert Lease(table, "controller", LENGTH).clock is boot_seconds
    before, now, after = (time.clock_gettime(time.CLOCK_BOOTTIME), boot_seconds(), boot_seconds())
    assert before <= now <= after


def test_of_many_that_contend_at_once_one_gets_it() -> None:
    table = MemoryTable(meeting("GetItem", 8))
    contenders = [Contender.of(table) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(lambda contender: contender.after(0), contenders)) == [False] * 7 + [True]
    assert sum(contender.lease.held for contender in contenders) == 1
