"""The fleet by the API."""

from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient

from core.fleet.models import Decision, Decisions, FleetInstance, FleetInstances, HistoryBlock
from core.fleet.store import FleetStore
from services.table import Table
from tests.support.jobs import NOW


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


def told(instance_id: str, state: str = "running") -> FleetInstance:
    return FleetInstance(
        instance_id=instance_id, state=state, instance_type="c7a.large", zone="us-east-1a", launched_at=NOW
    )


def test_limits_are_set_and_taken_back(client: FlaskClient, fleet: FleetStore) -> None:
    answer = client.put("/api/v1/fleet/limits", json={"min_workers": 1, "max_workers": 5, "reason": "budget"})
    body = answer.get_json()
    assert (answer.status_code, body["min_workers"], body["max_workers"], body["reason"]) == (200, 1, 5, "budget")
    order = fleet.commands().limits
    assert order is not None
    assert (order.min_workers, order.max_workers, order.reason) == (1, 5, "budget")
    assert order.since == datetime.fromisoformat(body["since"])
    for _ in range(2):
        assert client.delete("/api/v1/fleet/limits").status_code == 204
        assert fleet.commands().limits is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"min_workers": 6, "max_workers": 5}, "min_workers (6) must be at most max_workers (5)"),
        ({"min_workers": 0, "max_workers": 1001}, "less than or equal to 1000"),
        ({"min_workers": -1, "max_workers": 5}, "min_workers"),
        ({"min_workers": 0, "max_workers": "5"}, "valid integer"),
        ({"min_workers": 0, "max_workers": 2.5}, "valid integer"),
        ({"min_workers": 0}, "max_workers: Field required"),
        ({"min_workers": 0, "max_workers": 5, "most": 7}, "most"),
        ({}, 'send {"min_workers": 0, "max_workers": 5}'),
    ],
)
def test_limits_that_cannot_be_are_refused_with_what_is_wrong(
    client: FlaskClient, fleet: FleetStore, body: dict[str, object], words: str
) -> None:
    answer = client.put("/api/v1/fleet/limits", json=body)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert words in answer.get_json()["detail"]
    assert fleet.commands().limits is None


def test_a_running_instance_is_ordered_to_drain(client: FlaskClient, fleet: FleetStore) -> None:
    fleet.put_instances(FleetInstances(total=2, instances=(told("i-1"), told("i-2", "pending"))))
    for instance_id in ("i-1", "i-2", "i-1"):
        answer = client.post(f"/api/v1/fleet/instances/{instance_id}/drain")
        assert (answer.status_code, answer.get_json()["instance_id"]) == (202, instance_id)
    assert fleet.commands().drain == ("i-1", "i-2")


@pytest.mark.parametrize(
    ("instance_id", "words"),
    [
        ("i-3", "the fleet has no instance 'i-3', or no longer"),
        ("i-stopped", "i-stopped is stopped: there is no worker on it to drain"),
        ("%3Cb%3E", "the fleet has no instance '<b>'"),
    ],
)
def test_an_instance_without_a_worker_is_answered_at_once_with_the_reason(
    client: FlaskClient, fleet: FleetStore, instance_id: str, words: str
) -> None:
    fleet.put_instances(FleetInstances(total=2, instances=(told("i-1"), told("i-stopped", "stopped"))))
    answer = client.post(f"/api/v1/fleet/instances/{instance_id}/drain")
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert words in answer.get_json()["detail"]
    assert fleet.commands().drain == ()


def test_of_more_instances_than_are_listed_one_that_is_not_is_for_the_controller_to_find(
    client: FlaskClient, fleet: FleetStore
) -> None:
    fleet.put_instances(FleetInstances(total=150, instances=(told("i-1"),)))
    assert client.post("/api/v1/fleet/instances/i-0123456789abcdef0/drain").status_code == 202
    assert client.post("/api/v1/fleet/instances/i-none/drain").status_code == 404
    assert fleet.commands().drain == ("i-0123456789abcdef0",)
