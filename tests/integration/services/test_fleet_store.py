"""The fleet's items in a real table."""

from datetime import UTC, datetime, timedelta

import pytest

from services.fleet import Decision, Decisions, FleetInstance, FleetInstances, HistoryBlock
from services.fleet_store import FleetStore
from services.jobs import JobStore
from services.messages import FleetPause, FleetSnapshot
from services.table import Table

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INSTANCES = FleetInstances(
    total=1,
    instances=(
        FleetInstance(
            instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=NOW
        ),
    ),
)
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


def test_everything_but_the_history_comes_in_one_read(fleet: FleetStore, store: JobStore) -> None:
    empty = fleet.state()
    assert (empty.snapshot, empty.instances, empty.decisions, empty.pause) == (
        None, FleetInstances(), Decisions(), None,
    )  # fmt: skip
    snapshot = FleetSnapshot(
        at=NOW, running=1, pending=0, visible=0, in_flight=0, min_workers=0, max_workers=5, peak_workers=1,
        billed_seconds=60, reason="because", paused=FleetPause(since=NOW),
    )  # fmt: skip
    store.put_fleet(snapshot)
    fleet.put_instances(INSTANCES)
    fleet.put_decisions(DECISIONS)
    pause = fleet.pause(NOW, "")
    full = fleet.state()
    assert (full.snapshot, full.instances, full.decisions, full.pause) == (snapshot, INSTANCES, DECISIONS, pause)
    assert (fleet.instances(), fleet.decisions()) == (INSTANCES, DECISIONS)


def test_a_stretch_of_history_takes_the_place_of_an_older_one_in_its_item(fleet: FleetStore) -> None:
    fleet.put_block("hour", 0, HistoryBlock(number=7, points=((4200, 1, 2),)))
    fleet.put_block("hour", 1, HistoryBlock(number=8))
    fleet.put_block("day", 0, HistoryBlock(number=0))
    fleet.put_block("hour", 0, HistoryBlock(number=14))
    assert sorted(block.number for block in fleet.blocks("hour")) == [8, 14]
    assert len(fleet.blocks()) == 3
