"""The fleet's items in the job table."""

from datetime import UTC, datetime, timedelta

import pytest

from core.fleet.models import (
    BillingPeriod,
    FleetPause,
)
from core.fleet.store import KEPT_RUNS, FleetStore
from services.table import Table
from tests.support.clocks import ManualClock

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


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
    assert fleet.resume("ada@example.org") == FleetPause(since=NOW, reason="new model")
    assert fleet.resume("bob@example.org") is None
    assert fleet.paused() is None
    resume = fleet.commands().resume
    assert resume is not None
    assert resume.by == "ada@example.org"
    fleet.delete_resume()
    assert fleet.commands().resume is None
    assert fleet.pause(later, "").since == later


def test_a_pause_of_operators_lasts_also_if_they_pause_a_fleet_whose_pause_would_end_by_itself(table: Table) -> None:
    until = NOW + timedelta(minutes=45)
    fleet, later = (FleetStore(table, ManualClock(0.0, at)) for at in (NOW, until))
    fleet.pause(NOW, "a new web instance", until)
    assert later.paused() is None
    fleet.pause(NOW, "")
    assert later.paused() == FleetPause(since=NOW)


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
