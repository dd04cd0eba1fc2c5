"""The fleet's items in the job table."""

from datetime import UTC, datetime, timedelta

import pytest

from core.fleet.models import (
    BillingPeriod,
    Decision,
    Decisions,
    FleetInstance,
    FleetInstances,
    FleetPause,
    FleetSnapshot,
    HistoryBlock,
    JournalEntry,
    LaunchJournal,
    LimitsOverride,
)
from core.fleet.store import KEPT_RUNS, Commands, FleetStore
from services.ec2 import LaunchSpec
from services.table import Table
from tests.support.clocks import ManualClock

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INSTANCES = FleetInstances(
    total=1,
    instances=(
        FleetInstance(
            instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=NOW
        ),
    ),
)
LIMITS = LimitsOverride(min_workers=1, max_workers=5, since=NOW, reason="budget")
DECISIONS = Decisions(decisions=(Decision(at=NOW, words="starting 5"),))


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items in this test's job table."""
    return FleetStore(table)


def test_a_pause_lasts_from_its_first_moment_until_the_fleet_is_resumed(fleet: FleetStore) -> None:
    assert fleet.paused() is None
    assert fleet.pause(NOW, "") == FleetPause(since=NOW)
    later = NOW + timedelta(minutes=5)
    assert fleet.pause(later, "new model") == fleet.paused() == FleetPause(since=NOW, reason="new model")
    assert fleet.pause(later, "") == FleetPause(since=NOW, reason="new model")
    fleet.resume()
    fleet.resume()
    assert fleet.paused() is None
    assert fleet.pause(later, "").since == later


def test_a_pause_of_operators_lasts_also_if_they_pause_a_fleet_whose_pause_would_end_by_itself(table: Table) -> None:
    until = NOW + timedelta(minutes=45)
    fleet, later = (FleetStore(table, ManualClock(0.0, at)) for at in (NOW, until))
    fleet.pause(NOW, "a new web instance", until)
    assert later.paused() is None
    fleet.pause(NOW, "")
    assert later.paused() == FleetPause(since=NOW)


def test_everything_but_the_history_comes_in_one_read(fleet: FleetStore) -> None:
    empty = fleet.state()
    assert (empty.snapshot, empty.instances, empty.decisions, empty.pause) == (
        None, FleetInstances(), Decisions(), None,
    )  # fmt: skip
    snapshot = FleetSnapshot(
        at=NOW, running=1, pending=0, visible=0, in_flight=0, min_workers=0, max_workers=5, peak_workers=1,
        billed_seconds=60, reason="because", paused=FleetPause(since=NOW),
    )  # fmt: skip
    for running in (2, 1):
        fleet.put_snapshot(snapshot.model_copy(update={"running": running}))
    assert fleet.snapshot() == snapshot
    fleet.put_instances(INSTANCES)
    fleet.put_decisions(DECISIONS)
    pause = fleet.pause(NOW, "")
    full = fleet.state()
    assert (full.snapshot, full.instances, full.decisions, full.pause) == (snapshot, INSTANCES, DECISIONS, pause)
    assert full.limits is None
    fleet.set_limits(LIMITS)
    assert fleet.state().limits == LIMITS
    assert (fleet.instances(), fleet.decisions()) == (INSTANCES, DECISIONS)


def test_a_run_is_known_until_its_place_is_used_again(fleet: FleetStore) -> None:
    runs = [
        BillingPeriod(number=number, images=number, billed_seconds=60, cost=0.5, is_open=False) for number in (1, 2)
    ]
    for run in runs:
        fleet.put_run(run)
    assert fleet.runs({1, 2, 3}) == {1: runs[0], 2: runs[1]}
    later = runs[0].model_copy(update={"number": 1 + KEPT_RUNS})
    fleet.put_run(later)
    assert fleet.runs({1, 1 + KEPT_RUNS}) == {1 + KEPT_RUNS: later}
    assert fleet.runs(set()) == {}


def test_all_orders_come_in_one_read_and_each_is_taken_back_alone(fleet: FleetStore) -> None:
    assert fleet.commands() == Commands()
    pause = fleet.pause(NOW, "new model")
    fleet.set_limits(LIMITS.model_copy(update={"max_workers": 9}))
    fleet.set_limits(LIMITS)
    for instance_id in ("i-2", "i-1", "i-2"):
        fleet.request_drain(instance_id, NOW)
    assert fleet.commands() == Commands(pause, LIMITS, ("i-1", "i-2"))
    fleet.delete_drains(["i-1", "i-gone"])
    fleet.resume()
    assert fleet.commands() == Commands(None, LIMITS, ("i-2",))
    for _ in range(2):
        fleet.reset_limits()
    fleet.delete_drains(["i-2"])
    assert fleet.commands() == Commands()
    assert fleet.instances() == FleetInstances()


def test_of_two_who_write_the_journal_after_the_same_one_only_one_succeeds(fleet: FleetStore) -> None:
    assert fleet.journal() == LaunchJournal()
    spec = LaunchSpec("c7a.large", "terminate", "ami-1", "#!/bin/sh", security_group_ids=("sg-1",))
    entry = JournalEntry(token="t", count=5, at=NOW, spec=spec)
    first = LaunchJournal(revision=1, writer="a", entries=(entry,))
    assert fleet.put_journal(first)
    assert not fleet.put_journal(first.model_copy(update={"writer": "b"}))
    assert fleet.journal() == first
    assert fleet.put_journal(first), "botocore repeats a write whose reply was lost"
    second = LaunchJournal(revision=2, writer="b", entries=(entry.model_copy(update={"instance_ids": ("i-1",)}),))
    assert fleet.put_journal(second)
    assert not fleet.put_journal(first.model_copy(update={"revision": 2}))
    assert fleet.journal() == second


def test_a_stretch_of_history_takes_the_place_of_an_older_one_in_its_item(fleet: FleetStore) -> None:
    fleet.put_block("hour", 0, HistoryBlock(number=7, points=((4200, 1, 2),)))
    fleet.put_block("hour", 1, HistoryBlock(number=8))
    fleet.put_block("day", 0, HistoryBlock(number=0))
    fleet.put_block("hour", 0, HistoryBlock(number=14))
    assert sorted(block.number for block in fleet.blocks("hour")) == [8, 14]
    assert len(fleet.blocks()) == 3
