"""The fleet's page, as a browser without JavaScript gets it."""

import re
from datetime import UTC, datetime, timedelta
from html import escape, unescape

import pytest
from flask.testing import FlaskClient

from core.fleet.models import Decision, Decisions, FleetInstance, FleetInstances, FleetSnapshot, HistoryBlock
from core.fleet.store import FleetStore
from core.format import fleet_sentence
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.table import Table
from tests.support.jobs import NOW, add_images
from web_tier.controller_reports import ControllerReports

SNAPSHOT = FleetSnapshot(
    at=NOW, running=2, pending=1, visible=112, in_flight=23, min_workers=0, max_workers=19, peak_workers=6,
    billed_seconds=325, reason="three workers, enough",
)  # fmt: skip
SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items."""
    return FleetStore(table)


def paused_sentence(client: FlaskClient) -> str:
    return str(client.get("/fleet/now").get_json()["paused"])


def test_before_the_controller_has_looked_there_is_a_page_that_says_so(client: FlaskClient) -> None:
    page = client.get("/fleet").text
    assert fleet_sentence(None) in page
    assert "There are none: the first image starts some." in page


def test_the_fleet_shows_what_it_has_cost_and_what_1000_images_did(client: FlaskClient, store: JobStore) -> None:
    FleetStore(store.table).put_snapshot(
        SNAPSHOT.model_copy(update={"billed_seconds": 3_456.7, "cost": 0.0986, "images": 5_000})
    )
    page = re.sub(r"<[^>]+>", " ", client.get("/fleet").text)
    assert re.search(r"\$0\.099 +for 3,457 s billed", page)
    assert re.search(r"\$0\.033 +for 1,000 images: instances \$0\.020, requests \$0\.013", page)
    body = client.get("/fleet/now").get_json()
    assert (body["billed"], body["cost"], body["per_thousand"]) == ("3,457 s", "$0.099", "$0.033")
    FleetStore(store.table).put_snapshot(SNAPSHOT)
    assert client.get("/fleet/now").get_json()["per_thousand"] is None


def test_instances_are_shown_newest_first_and_the_unlisted_counted(client: FlaskClient, fleet: FleetStore) -> None:
    now = datetime.now(UTC)
    told = [
        FleetInstance(
            instance_id=f"i-{number}", state="running", instance_type="c7a.large", zone="us-east-1a",
            launched_at=now - timedelta(minutes=5), images=68, worker="busy",
            heard_at=now - timedelta(seconds=600 * number),
        )
        for number in range(2)
    ]  # fmt: skip
    fleet.put_instances(FleetInstances(total=5, instances=tuple(told)))
    page = client.get("/fleet").text
    rows = re.findall(
        r"<tr( class=\"marked\")?>\s*<th scope=\"row\"><code[^>]*>([^<]+)<", page.partition("<template")[0]
    )
    assert rows == [("", "i-0"), (' class="marked"', "i-1")]
    assert "none for 10 min" in page
    assert "and 3 older" in page
    body = client.get("/fleet/now").get_json()
    assert [row["state"] for row in body["instances"]] == ["busy", "silent"]


@pytest.mark.parametrize("ahead", [-600, 600])
def test_row_53_a_controller_whose_clock_is_ten_minutes_off_is_not_silent_and_nor_are_its_workers(
    client: FlaskClient, store: JobStore, fleet: FleetStore, ahead: int
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=ahead)
    FleetStore(store.table).put_snapshot(SNAPSHOT.model_copy(update={"at": at - timedelta(seconds=1)}))
    assert client.get("/fleet/now").get_json()["clocks"] is None
    FleetStore(store.table).put_snapshot(SNAPSHOT.model_copy(update={"at": at}))
    worker = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", worker="busy",
        launched_at=at - timedelta(minutes=5), heard_at=at - timedelta(seconds=2),
    )  # fmt: skip
    fleet.put_instances(FleetInstances(total=1, instances=(worker,)))
    body = client.get("/fleet/now").get_json()
    assert body["sentence"] == "Three workers, enough."
    [row] = body["instances"]
    assert (row["state"], row["age"], row["heard"]) == ("busy", "5 min", "2 s ago")
    words = f"The controller&#39;s clock is 10 min {'ahead of' if ahead > 0 else 'behind'} the web tier&#39;s"
    assert words in client.get("/fleet").text


def test_a_controller_that_reports_no_more_is_named_wherever_the_fleet_is(
    client: FlaskClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(client.application.extensions["fleetsight"], "reports", ControllerReports(lambda: now))
    job = Job(new_id(), "", NOW)
    store.create(job)
    FleetStore(store.table).put_snapshot(SNAPSHOT)

    def places() -> list[str]:
        bodies = [client.get(path).get_json()["sentence"] for path in ("/fleet/now", f"/jobs/{job.job_id}/progress")]
        return [*bodies, client.get("/fleet").text, client.get("/").text]

    assert all("Three workers, enough." in place for place in places())
    now = 60.0
    assert all("The controller has not reported for 60 s." in place for place in places())
    assert client.get("/api/v1/fleet").get_json()["silent_seconds"] == 60
    FleetStore(store.table).put_snapshot(SNAPSHOT.model_copy(update={"at": NOW - timedelta(hours=1)}))
    assert all("Three workers, enough." in place for place in places()), "whatever its clock says"


def test_decisions_are_listed_with_their_times_and_never_as_markup(client: FlaskClient, fleet: FleetStore) -> None:
    words = "paused by ops since 12:03 UTC (<b>new</b> model): no images waiting"
    fleet.put_decisions(Decisions(decisions=(Decision(at=NOW, words=words),)))
    page = client.get("/fleet").text
    assert escape("P" + words[1:]) in page
    assert f"{NOW:%H:%M:%S}</time>" in page


def test_the_chart_is_drawn_from_the_history_without_a_script(
    client: FlaskClient, fleet: FleetStore, store: JobStore
) -> None:
    now = int(datetime.now(UTC).timestamp())
    fleet.put_block("hour", 0, HistoryBlock(number=1, points=((now - 1_800, 5, 112), (now - 300, 2, 30))))
    FleetStore(store.table).put_snapshot(SNAPSHOT)
    ten_minutes = unescape(client.get("/fleet").text)
    assert (
        "Last 10 minutes: at most 5 workers and 135 images in the queue; now 3 workers and 135 images." in ten_minutes
    )
    assert re.search(r'class="workers-line" d="M36\.0 12\.0H\d+\.\d+V', ten_minutes)
    assert "Last hour: at most 5 workers" in client.get("/fleet?span=hour").text
    assert "Last day: at most 3 workers" in client.get("/fleet?span=day").text
    answer = client.get("/fleet?span=<b>")
    assert (answer.status_code, "minutes, hour, day" in answer.text) == (400, True)


def test_nothing_on_the_page_is_styled_or_scripted_in_place(
    client: FlaskClient, fleet: FleetStore, store: JobStore
) -> None:
    FleetStore(store.table).put_snapshot(SNAPSHOT)
    page = client.get("/fleet").text
    assert " style=" not in page
    assert "<style" not in page
    assert re.search(r"<script(?![^>]* src=)", page) is None


def test_ops_pause_and_resume_from_the_page(client: FlaskClient, fleet: FleetStore) -> None:
    page = client.get("/fleet").text
    assert re.search(r'<form id="pause"[^>]*method="post" action="/fleet/pause">', page)
    answer = client.post("/fleet/pause", data={"reason": "new\r\n model\u202e"}, headers=SAME_SITE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/fleet")
    pause = fleet.paused()
    assert pause is not None
    assert pause.reason == "new model"
    page = client.get("/fleet").text
    assert re.search(r'<form id="resume"[^>]*action="/fleet/resume">', page)
    assert "Nothing is launched until the fleet is resumed" in page
    assert re.fullmatch(
        r"Paused by ops since \d+ \w+, \d\d:\d\d UTC: new model\. Nothing .*", paused_sentence(client)
    )
    client.post("/fleet/resume", headers=SAME_SITE)
    assert fleet.paused() is None


def test_a_reason_that_is_too_long_is_cut(client: FlaskClient, fleet: FleetStore) -> None:
    client.post("/fleet/pause", data={"reason": "x" * 5_000}, headers=SAME_SITE)
    assert len(getattr(fleet.paused(), "reason", "")) == 200


@pytest.mark.parametrize("path", ["/fleet/pause", "/fleet/resume"])
def test_a_form_on_another_site_can_do_neither(client: FlaskClient, fleet: FleetStore, path: str) -> None:
    before = fleet.pause(NOW, "ours")
    assert client.post(path, data={"reason": "theirs"}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert fleet.paused() == before


def test_while_the_fleet_is_paused_every_page_says_so_and_a_job_why_it_waits(
    client: FlaskClient, fleet: FleetStore, store: JobStore, job: Job
) -> None:
    pause = fleet.pause(NOW, "new model")
    FleetStore(store.table).put_snapshot(SNAPSHOT.model_copy(update={"paused": pause, "problem": "no capacity"}))
    add_images(store, job, "a.jpg")
    page = client.get(f"/jobs/{job.job_id}").text
    assert "3 workers · paused" in page
    assert "Nothing is launched until the fleet is resumed; images are taken and wait." in page
    assert "no capacity" not in page
