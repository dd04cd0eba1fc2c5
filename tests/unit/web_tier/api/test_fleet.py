"""The fleet by the API."""

from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient

from services.fleet import Decision, Decisions, FleetInstance, FleetInstances, HistoryBlock
from services.fleet_store import FleetStore
from services.table import Table
from tests.unit.web_tier.conftest import NOW


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items."""
    return FleetStore(table)


def test_instances_and_decisions_are_answered_as_they_are_stored(client: FlaskClient, fleet: FleetStore) -> None:
    assert client.get("/api/v1/fleet/instances").get_json() == {"version": 1, "total": 0, "instances": []}
    assert client.get("/api/v1/fleet/decisions").get_json() == {"version": 1, "decisions": []}
    instance = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=NOW, images=5
    )
    instances = FleetInstances(total=1, instances=(instance,))
    decisions = Decisions(decisions=(Decision(at=NOW, words="starting 5"),))
    fleet.put_instances(instances)
    fleet.put_decisions(decisions)
    assert FleetInstances.from_json(client.get("/api/v1/fleet/instances").data) == instances
    assert Decisions.from_json(client.get("/api/v1/fleet/decisions").data) == decisions


def test_the_history_is_answered_for_an_hour_or_a_day(client: FlaskClient, fleet: FleetStore) -> None:
    now = int(datetime.now(UTC).timestamp())
    fleet.put_block("hour", 0, HistoryBlock(number=1, points=((now - 7_200, 1, 2), (now - 60, 3, 4))))
    fleet.put_block("day", 0, HistoryBlock(number=1, points=((now - 7_200, 5, 6),)))
    hour = client.get("/api/v1/fleet/history").get_json()
    assert [(point["workers"], point["queue"]) for point in hour["points"]] == [(1, 2), (3, 4)]
    assert (hour["span"], datetime.fromisoformat(hour["points"][1]["at"]).timestamp()) == ("hour", now - 60)
    day = client.get("/api/v1/fleet/history?span=day").get_json()
    assert [(point["workers"], point["queue"]) for point in day["points"]] == [(5, 6)]
    assert client.get("/api/v1/fleet/history?span=year").status_code == 400


def test_the_fleet_is_paused_and_resumed(client: FlaskClient, fleet: FleetStore) -> None:
    first = client.post("/api/v1/fleet/pause", json={"reason": "new model"}).get_json()
    assert (first["paused"], first["reason"]) == (True, "new model")
    assert client.post("/api/v1/fleet/pause").get_json() == first
    assert fleet.paused() is not None
    resumed = {"paused": False, "since": None, "reason": ""}
    assert client.post("/api/v1/fleet/resume").get_json() == resumed
    assert client.post("/api/v1/fleet/resume").get_json() == resumed
    assert fleet.paused() is None


@pytest.mark.parametrize("body", [{"reason": "x" * 201}, {"reason": 5}, {"because": "new model"}])
def test_a_pause_that_is_not_understood_is_refused(
    client: FlaskClient, fleet: FleetStore, body: dict[str, object]
) -> None:
    assert client.post("/api/v1/fleet/pause", json=body).status_code == 422
    assert fleet.paused() is None
