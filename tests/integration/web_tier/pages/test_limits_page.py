"""The pages on which ops set the fleet's limits and drain an instance, as a browser without JavaScript gets them."""

import re
from datetime import UTC, datetime, timedelta
from html import unescape

import pytest
from flask.testing import FlaskClient

from core.fleet.models import FleetInstance, FleetInstances, FleetSnapshot, LimitsOverride, WorkerLimits
from core.fleet.store import FleetStore
from core.jobs.store import JobStore
from services.table import Table
from tests.support.jobs import NOW

SNAPSHOT = FleetSnapshot(
    at=NOW, running=2, pending=1, visible=112, in_flight=23, min_workers=0, max_workers=19, peak_workers=6,
    billed_seconds=325, reason="three workers, enough", configured=WorkerLimits(min_workers=0, max_workers=19),
)  # fmt: skip
ORDER = LimitsOverride(min_workers=1, max_workers=5, since=NOW, reason="<b>budget</b>")
WORDS = "1..5, set by ops on 1 March, 12:00 UTC (<b>budget</b>); config.yaml says 0..19"
SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items."""
    return FleetStore(table)


def told(instance_id: str, state: str = "running", **said: object) -> FleetInstance:
    now = datetime.now(UTC)
    return FleetInstance.model_validate(
        {
            "instance_id": instance_id,
            "state": state,
            "instance_type": "c7a.large",
            "zone": "us-east-1a",
            "launched_at": now - timedelta(minutes=5),
            "heard_at": now,
            **said,
        }
    )


def test_limits_are_set_by_a_form_that_shows_those_in_force(client: FlaskClient, fleet: FleetStore) -> None:
    page = client.get("/fleet/limits").text
    assert re.search(r'name="min_workers" value="0"', page)
    assert re.search(r'name="max_workers" value="19"', page)
    assert "Take them back" not in page
    fields = {"min_workers": " 1", "max_workers": "5", "reason": "<b>budget</b>\r\n"}
    answer = client.post("/fleet/limits", data=fields, headers=SAME_SITE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet")
    order = fleet.commands().limits
    assert order is not None
    assert (order.min_workers, order.max_workers, order.reason) == (1, 5, "<b>budget</b>")
    page = client.get("/fleet/limits").text
    assert re.search(r'name="max_workers" value="5"', page)
    assert "Take them back" in page


@pytest.mark.parametrize(
    ("least", "most", "words"),
    [
        ("6", "5", "The minimum (6) must be at most the maximum (5)."),
        ("0", "1001", "The maximum must be a whole number from 0 to 1,000."),
        ("-1", "5", "The minimum must be a whole number"),
        ("٣", "5", "The minimum must be a whole number"),
        ("0", "9" * 5_000, "The maximum must be a whole number"),
        ("0", '"><script>', "The maximum must be a whole number"),
        ("", "", "The minimum must be a whole number"),
    ],
)
def test_limits_that_cannot_be_leave_the_form_as_it_was_filled_in_and_say_why(
    client: FlaskClient, fleet: FleetStore, least: str, most: str, words: str
) -> None:
    fields = {"min_workers": least, "max_workers": most, "reason": "budget"}
    answer = client.post("/fleet/limits", data=fields, headers=SAME_SITE)
    assert answer.status_code == 422
    assert words in answer.text
    assert 'name="reason" value="budget"' in answer.text
    assert "<script>" not in answer.text
    assert fleet.commands().limits is None


def test_every_place_that_shows_limits_says_who_set_them(
    client: FlaskClient, fleet: FleetStore, store: JobStore
) -> None:
    FleetStore(store.table).put_snapshot(SNAPSHOT)
    assert 'id="limits-set" hidden' in client.get("/fleet").text
    fleet.set_limits(ORDER)
    page = client.get("/fleet").text
    assert f"Limits {WORDS}." in unescape(page)
    assert "<b>budget" not in page
    assert 'id="limits-set" hidden' not in page
    body = client.get("/fleet/now").get_json()
    assert (body["min_workers"], body["max_workers"], body["limits_set"]) == (1, 5, f"Limits {WORDS}.")
    assert f"Now {WORDS}." in unescape(client.get("/fleet/limits").text)


def test_limits_that_were_taken_back_are_gone_at_once_though_the_controller_has_not_looked_since(
    client: FlaskClient, fleet: FleetStore, store: JobStore
) -> None:
    fleet.set_limits(ORDER)
    FleetStore(store.table).put_snapshot(
        SNAPSHOT.model_copy(update={"min_workers": 1, "max_workers": 5, "limits_order": ORDER})
    )
    assert client.post("/fleet/limits/reset", headers=SAME_SITE).status_code == 303
    assert fleet.commands().limits is None
    body = client.get("/fleet/now").get_json()
    assert (body["min_workers"], body["max_workers"], body["limits_set"]) == (0, 19, None)


def test_an_instance_is_drained_after_a_question_that_says_what_that_means(
    client: FlaskClient, fleet: FleetStore
) -> None:
    fleet.put_instances(FleetInstances(total=1, instances=(told("i-1", in_hand=3),)))
    assert 'href="/fleet/instances/i-1/drain"' in client.get("/fleet").text
    question = client.get("/fleet/instances/i-1/drain").text
    assert "finishes what it has (3 images)" in question
    assert "another is launched in its place" in question
    assert fleet.commands().drain == ()
    answer = client.post("/fleet/instances/i-1/drain", headers=SAME_SITE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet")
    assert fleet.commands().drain == ("i-1",)


def test_only_what_can_be_drained_has_a_link_for_it(client: FlaskClient, fleet: FleetStore) -> None:
    instances = (
        told("i-pending", "pending"), told("i-running"), told("i-asked", draining=True),
        told("i-draining", worker="draining"), told("i-stopped", "stopped"),
    )  # fmt: skip
    fleet.put_instances(FleetInstances(total=5, instances=instances))
    rows = client.get("/fleet/now").get_json()["instances"]
    assert [row["instance_id"] for row in rows if row["can_drain"]] == ["i-pending", "i-running"]
    assert [row["state"] for row in rows] == ["starts", "busy", "draining", "draining", "stopped"]
    assert client.get("/fleet/instances/i-stopped/drain").status_code == 404
    answer = client.post("/fleet/instances/i-none/drain", headers=SAME_SITE)
    assert (answer.status_code, "no instance" in answer.text) == (404, True)


@pytest.mark.parametrize("path", ["/fleet/limits", "/fleet/limits/reset", "/fleet/instances/i-1/drain"])
def test_a_form_on_another_site_can_do_none_of_it(client: FlaskClient, fleet: FleetStore, path: str) -> None:
    fleet.set_limits(ORDER)
    fleet.put_instances(FleetInstances(total=1, instances=(told("i-1"),)))
    fields = {"min_workers": "0", "max_workers": "0"}
    assert client.post(path, data=fields, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert (fleet.commands().limits, fleet.commands().drain) == (ORDER, ())
