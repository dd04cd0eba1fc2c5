"""The fleet for operators, by the API and on its page: figures, history, chart, controls, limits, drain."""

import json
import re
from datetime import UTC, date, datetime, timedelta
from html import escape, unescape
from typing import Any
from urllib.parse import unquote

import pytest
from flask.testing import FlaskClient

from core.fleet.models import (
    ENDED_LISTED,
    CircuitState,
    Decision,
    Decisions,
    EndedInstance,
    EndedInstances,
    FleetCircuit,
    FleetDay,
    FleetInstance,
    FleetInstances,
    FleetSnapshot,
    FleetSpending,
    HistoryBlock,
    LimitsOverride,
    WorkerLimits,
)
from core.fleet.store import FleetStore
from core.format import BOOT_SECONDS, SILENT_SECONDS, InstanceRow, fleet_sentence
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.clients import Clients
from services.table import Table
from tests.support.api import fleet_shown
from tests.support.autoscaler import PRICES, fleet_snapshot
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW, add_images
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.ec2 import MemoryEC2
from web_tier.controller.previous_end import record_previous_end
from web_tier.features.fleet_control.pages import month_dollars
from web_tier.http.backend import ControllerReports


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items."""
    return FleetStore(table)


def instance(instance_id: str = "i-1", state: str = "running", **more: object) -> FleetInstance:
    fields = {"instance_type": "c7a.large", "zone": "us-east-1a", "launched_at": NOW}
    return FleetInstance.model_validate({"instance_id": instance_id, "state": state, **fields, **more})


def test_the_history_is_returned_for_an_hour_or_a_day(client: FlaskClient, fleet: FleetStore) -> None:
    now = int(datetime.now(UTC).timestamp())
    fleet.put_block("hour", 0, HistoryBlock(number=1, points=((now - 7_200, 1, 2), (now - 60, 3, 4))))
    fleet.put_block("day", 0, HistoryBlock(number=1, points=((now - 7_200, 5, 6),)))
    hour = client.get("/api/v1/fleet/history").get_json()
    assert [(point["workers"], point["queue"]) for point in hour["points"]] == [(1, 2), (3, 4)]
    assert (hour["span"], datetime.fromisoformat(hour["points"][1]["at"]).timestamp()) == ("hour", now - 60)
    day = client.get("/api/v1/fleet/history?span=day").get_json()
    assert [(point["workers"], point["queue"]) for point in day["points"]] == [(5, 6)]
    assert client.get("/api/v1/fleet/history?span=year").status_code == 400


@pytest.mark.parametrize("body", [{"reason": "x" * 201}, {"reason": 5}, {"because": "new model"}])
def test_an_invalid_pause_gets_422(client: FlaskClient, fleet: FleetStore, body: dict[str, object]) -> None:
    assert client.post("/api/v1/fleet/pause", json=body).status_code == 422
    assert fleet.paused() is None


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
def test_invalid_limits_get_422_with_the_reason(
    client: FlaskClient, fleet: FleetStore, body: dict[str, object], words: str
) -> None:
    answer = client.put("/api/v1/fleet/limits", json=body)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
    assert words in answer.get_json()["detail"]
    assert fleet.commands().limits is None


@pytest.mark.parametrize(
    ("instance_id", "words"),
    [
        ("i-3", "the fleet has no instance 'i-3', or no longer"),
        ("i-stopped", "i-stopped is stopped: there is no worker on it to drain"),
        ("%3Cb%3E", "the fleet has no instance '<b>'"),
    ],
)
def test_draining_an_instance_without_a_worker_gets_404_with_the_reason(
    client: FlaskClient, fleet: FleetStore, instance_id: str, words: str
) -> None:
    fleet.put_instances(FleetInstances(total=2, instances=(instance("i-1"), instance("i-stopped", "stopped"))))
    answer = client.post(f"/api/v1/fleet/instances/{instance_id}/drain")
    assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
    assert words in answer.get_json()["detail"]
    assert fleet.commands().drain == ()


def test_an_unlisted_instance_of_a_large_fleet_can_be_drained(client: FlaskClient, fleet: FleetStore) -> None:
    fleet.put_instances(FleetInstances(total=150, instances=(instance("i-1"),)))
    assert client.post("/api/v1/fleet/instances/i-0123456789abcdef0/drain").status_code == 202
    assert client.post("/api/v1/fleet/instances/i-none/drain").status_code == 404
    assert fleet.commands().drain == ("i-0123456789abcdef0",)


SNAPSHOT = FleetSnapshot(
    at=NOW, running=2, pending=1, visible=112, in_flight=23, min_workers=0, max_workers=19, peak_workers=6,
    billed_seconds=325, reason="three workers, enough",
)  # fmt: skip
SAME_SITE = {"Sec-Fetch-Site": "same-origin"}


def test_the_fleet_page_before_the_first_report_of_the_controller(client: FlaskClient) -> None:
    page = client.get("/fleet").text
    assert fleet_sentence(None) in page
    assert NO_WORKERS.format("The first upload starts one.") in page


NO_WORKERS = "No workers are running.</strong> {}</p>"


def test_a_fleet_without_workers_says_what_starts_one(client: FlaskClient, fleet: FleetStore) -> None:
    fleet.put_snapshot(SNAPSHOT)
    assert fleet_shown(client).next_worker == "The first upload starts one."
    fleet.set_limits(LimitsOverride(min_workers=0, max_workers=0, since=NOW))
    assert fleet_shown(client).next_worker == "The limits allow none."
    fleet.pause(NOW, "holiday")
    assert fleet_shown(client).next_worker == "Resume the fleet to start workers."
    assert NO_WORKERS.format("Resume the fleet to start workers.") in client.get("/fleet").text
    fleet.resume()
    fleet.put_snapshot(SNAPSHOT.model_copy(update={"launch_error": "EC2 has no room"}))
    fleet.reset_limits()
    assert fleet_shown(client).next_worker == "The controller tries again."


def test_the_fleet_page_shows_its_cost_and_that_of_1000_images(client: FlaskClient, store: JobStore) -> None:
    FleetStore(store.table).put_snapshot(
        SNAPSHOT.model_copy(
            update={"billed_seconds": 3_456.7, "cost": 0.0986, "images": 5_000, "requests_cost": 0.075}
        )
    )
    page = re.sub(r"<[^>]+>", " ", client.get("/fleet").text)
    page = " ".join(page.split())
    assert "Instances $0.099 since the first launch 3,457 s billed" in page
    assert "1,000 images $0.035" in page
    assert "for 1,000 images: instances $0.020, requests $0.015" in page
    FleetStore(store.table).put_snapshot(SNAPSHOT)
    assert "<dt>1,000 images</dt><dd>\u2013</dd>" in client.get("/fleet").text


def test_the_tiles_show_speed_and_the_cost_of_today_with_its_requests(client: FlaskClient, store: JobStore) -> None:
    fleet, today = (
        FleetStore(store.table),
        FleetDay(day=date(2026, 3, 2), images=212_000, billed_seconds=9, cost=0.25, requests_cost=3.2),
    )
    instances = (instance("i-1"), instance("i-2", draining=True), instance("i-3", "pending"))
    fleet.put_instances(FleetInstances(total=3, instances=instances))
    fleet.put_snapshot(SNAPSHOT.model_copy(update={"images_per_second": 46.2, "today": today}))
    for day in (date(2026, 3, 1), date(2026, 2, 28)):
        fleet.put_day(FleetDay(day=day, images=0, billed_seconds=10, cost=1.0))
    page = client.get("/fleet").text
    for figure, title in (
        ("3", "workers (1 pending, 1 draining); idle ones end after 2 s"),
        ("112", "images waiting"),
        ("23", "images in flight"),
        ("46", "images/s"),
        ("$3.45", "today, 212,000 images classified"),
    ):
        assert f'class="figure">{figure}</dd><dt class="quiet">{title}</dt>' in page
    assert "<dt>This month</dt><dd>$4.45</dd>" in page
    # A report of an older release has no day.
    fleet.put_snapshot(SNAPSHOT)
    assert "today, 0 images classified" in client.get("/fleet").text


def test_the_month_has_no_day_twice_and_none_of_another_month() -> None:
    day = FleetDay(day=date(2026, 3, 2), cost=1.0)
    before = [FleetDay(day=each, cost=10.0) for each in (date(2026, 3, 2), date(2026, 3, 1), date(2026, 2, 28))]
    assert month_dollars(day, before) == 11.0


def test_instances_are_shown_newest_first_and_the_unlisted_counted(client: FlaskClient, fleet: FleetStore) -> None:
    now = datetime.now(UTC)
    instances = [
        instance(
            f"i-{number}", launched_at=now - timedelta(minutes=5), images=68, worker="busy",
            heard_at=now - timedelta(seconds=600 * number),
        )
        for number in range(2)
    ]  # fmt: skip
    fleet.put_instances(FleetInstances(total=5, instances=tuple(instances)))
    page = client.get("/fleet").text
    rows = re.findall(r"<tr id=\"[^\"]+\"( class=\"marked\")?>\s*<th scope=\"row\"><a [^>]*><code>([^<]+)<", page)
    assert rows == [("", "i-0"), (' class="marked"', "i-1")]
    assert "none for 10 min" in page
    assert "and 3 older" in page
    body = fleet_shown(client)
    assert [row.state for row in body.instances] == ["busy", "silent"]


@pytest.mark.parametrize("ahead", [-600, 600])
def test_row_53_a_controller_with_a_wrong_clock_is_not_silent_nor_are_its_workers(
    client: FlaskClient, store: JobStore, fleet: FleetStore, ahead: int
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=ahead)
    FleetStore(store.table).put_snapshot(SNAPSHOT.model_copy(update={"at": at}))
    heard_at = at - timedelta(seconds=2)
    worker = instance(worker="busy", launched_at=at - timedelta(minutes=5), heard_at=heard_at)
    fleet.put_instances(FleetInstances(total=1, instances=(worker,)))
    body = fleet_shown(client)
    assert body.sentence == "Three workers, enough."
    [row] = body.instances
    assert (row.state, row.age, row.heard) == ("busy", "5 min", "2 s ago")


def test_a_silent_controller_is_shown_on_every_page_with_the_fleet(
    client: FlaskClient, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(
        client.application.extensions["fleetsight"], "reports", ControllerReports(PlayedClock(lambda: now))
    )
    job = Job(new_id(), "", NOW)
    store.create(job)
    FleetStore(store.table).put_snapshot(SNAPSHOT)

    def places() -> list[str]:
        progress = client.get(f"/jobs/{job.job_id}/progress").get_json()["sentence"]
        return [progress, client.get("/fleet").text, client.get("/").text]

    assert all("Three workers, enough." in place for place in places()[:-1]), "the upload page has its forecast"
    now = 60.0
    assert all("The controller has not reported for 60 s." in place for place in places())
    assert client.get("/api/v1/fleet").get_json()["silent_seconds"] == 60
    FleetStore(store.table).put_snapshot(SNAPSHOT.model_copy(update={"at": NOW - timedelta(hours=1)}))
    assert all("Three workers, enough." in place for place in places()[:-1]), "for any clock of the controller"


def test_decisions_are_listed_with_their_times_and_never_as_markup(client: FlaskClient, fleet: FleetStore) -> None:
    words = "paused by ops since 12:03 UTC (<b>new</b> model): no images waiting"
    fleet.put_decisions(Decisions(decisions=(Decision(at=NOW, words=words),)))
    page = client.get("/fleet").text
    assert escape(words.replace("paused", "Paused", 1)) in page
    assert f"{NOW:%H:%M:%S}</time>" in page


def test_the_chart_is_drawn_from_the_history_without_a_script(
    client: FlaskClient, fleet: FleetStore, store: JobStore
) -> None:
    now = int(datetime.now(UTC).timestamp())
    for span in ("minutes", "hour"):
        fleet.put_block(span, 0, HistoryBlock(number=1, points=((now - 1_800, 5, 112), (now - 300, 2, 30))))
    FleetStore(store.table).put_snapshot(SNAPSHOT)
    ten_minutes = unescape(client.get("/fleet?span=minutes").text)
    assert (
        "Last 10 minutes: at most 5 workers and 135 images in the queue; now 3 workers and 135 images." in ten_minutes
    )
    assert re.search(r'class="workers-line" d="M36\.0 26\.0H\d+\.\d+V', ten_minutes)
    assert "Last hour: at most 5 workers" in client.get("/fleet?span=hour").text
    assert "Last day: at most 3 workers" in client.get("/fleet?span=day").text
    assert "Last 10 minutes: at most" in client.get("/fleet?span=<b>").text


def test_a_reason_is_one_line_and_is_cut_if_it_is_too_long(client: FlaskClient, fleet: FleetStore) -> None:
    client.post("/fleet/pause", data={"reason": "new\r\n model\u202e" + "x" * 5_000}, headers=SAME_SITE)
    assert getattr(fleet.paused(), "reason", "") == ("new model" + "x" * 200)[:200]


def test_every_page_shows_a_paused_fleet_and_a_job_shows_why_it_waits(
    client: FlaskClient, fleet: FleetStore, store: JobStore, job: Job
) -> None:
    pause, blocked = fleet.pause(NOW, "new model"), "blocked: paused by ops"
    paused = SNAPSHOT.model_copy(update={"paused": pause, "problem": "no capacity"})
    FleetStore(store.table).put_snapshot(paused)
    add_images(store, job, "a.jpg")
    assert blocked not in client.get("/jobs").text, "workers still run"
    FleetStore(store.table).put_snapshot(paused.model_copy(update={"running": 0, "pending": 0}))
    assert blocked in client.get("/jobs").text
    assert client.get(f"/api/v1/jobs/{job.job_id}").get_json()["blocked"] == "paused by ops"
    page = client.get(f"/jobs/{job.job_id}").text
    assert "0 workers · paused" in page
    assert blocked in page
    assert "No new workers start" not in page, "the sentence says that it is paused"
    assert "no capacity" not in page
    shown = client.get("/fleet").text
    alarm = r'<div class="caution"[^>]* id="paused">(?s:.)*?action="/fleet/resume"'
    assert re.search(alarm, shown), "has its button"
    assert re.search(r"Paused by ops since \d+ \w+, \d\d:\d\d UTC: new model\. No new workers start;", shown)


def problem_of(client: FlaskClient) -> Any:
    return json.loads(client.get("/api/v1/fleet").data).get("problem")


def test_the_alarm_of_workers_that_end_links_the_console_of_the_last_one(
    client: FlaskClient, fleet: FleetStore
) -> None:
    ended = [("i-answered", 7), ("i-failed", 0), ("i-before", None)]
    times = {"launched_at": NOW, "ended_at": NOW}
    instances = [
        EndedInstance(instance_id=name, instance_type="c7a.large", zone="", images=images, **times)
        for name, images in ended
    ]
    fleet.put_ended(EndedInstances(instances=tuple(instances)))
    fleet.put_snapshot(SNAPSHOT)
    link = r'<div class="caution"[^>]* id="problem">(?s:.)*?href="/fleet/instances/i-failed/console"'
    assert not re.search(link, client.get("/fleet").text)
    circuit = FleetCircuit(state=CircuitState.OPEN, failed_runs=3, since=NOW)
    fleet.put_snapshot(SNAPSHOT.model_copy(update={"circuit": circuit, "problem": "workers end"}))
    assert re.search(link, client.get("/fleet").text)
    fleet.put_ended(EndedInstances())
    assert "/console" not in client.get("/fleet").text


RUNNING, ENDED = "i-0123456789abcdef0", "i-0fedcba9876543210"


@pytest.fixture
def ec2(fleet: FleetStore, monkeypatch: pytest.MonkeyPatch) -> MemoryEC2:
    """EC2 as the web tier calls it; the fleet has an instance that runs and one that has ended."""
    fleet.put_instances(FleetInstances(total=150, instances=(instance(RUNNING),)))  # of which some are not listed
    now = datetime.now(UTC)
    ended = EndedInstance(instance_id=ENDED, instance_type="c7a.large", zone="a", launched_at=now, ended_at=now)
    fleet.put_ended(EndedInstances(instances=(ended,)))
    ec2 = MemoryEC2()
    monkeypatch.setattr(Clients, "ec2", ec2)
    return ec2


def test_the_console_is_the_last_100_lines_as_printable_escaped_text(client: FlaskClient, ec2: MemoryEC2) -> None:
    ec2.consoles[RUNNING] = "first\r\n" + "".join(f"\x1b[1;31m{n}\x1b[0m\t\u202e<b>\x07\r\n" for n in range(100))
    lines = client.get(f"/api/v1/fleet/instances/{RUNNING}/console").get_json()["lines"]
    assert lines == [f"{n}".ljust(8) + "<b>" for n in range(100)]
    page = client.get(f"/fleet/instances/{RUNNING}/console").text
    assert escape("\n".join(lines)) in page
    assert "<b>" not in page


@pytest.mark.parametrize(
    "instance_id", ["i-0aaaaaaaaaaaaaaaa", "i-none", "%3Cb%3E", RUNNING.upper(), f"{RUNNING}%0a"]
)
def test_the_console_of_an_instance_of_another_fleet_is_never_read(
    client: FlaskClient, ec2: MemoryEC2, instance_id: str
) -> None:
    ec2.consoles[unquote(instance_id)] = "secret"
    for prefix in ("", "/api/v1"):
        answer = client.get(f"{prefix}/fleet/instances/{instance_id}/console")
        assert (answer.status_code, "secret" in answer.text) == (404, False)


@pytest.mark.parametrize(
    ("instance_id", "code", "status"),
    [
        (RUNNING, "InvalidInstanceID.NotFound", 404),
        (ENDED, "UnauthorizedOperation", 404),  # it has lost the tag by which the role may read it
        (RUNNING, "UnauthorizedOperation", 503),
        (RUNNING, "RequestLimitExceeded", 503),
    ],
)
def test_a_console_that_ec2_does_not_return_is_a_problem(
    client: FlaskClient, ec2: MemoryEC2, instance_id: str, code: str, status: int
) -> None:
    def refuse(**_: object) -> None:
        raise refusal(code, "GetConsoleOutput")

    ec2.get_console_output = refuse  # type: ignore[method-assign,assignment]
    assert client.get(f"/api/v1/fleet/instances/{instance_id}/console").status_code == status


def test_an_instance_that_ended_an_hour_ago_is_not_shown(client: FlaskClient, fleet: FleetStore) -> None:
    at = datetime.now(UTC) - ENDED_LISTED - timedelta(seconds=1)
    old = EndedInstance(instance_id=ENDED, instance_type="c7a.large", zone="a", launched_at=at, ended_at=at)
    fleet.put_ended(EndedInstances(instances=(old,)))
    assert ENDED not in client.get("/fleet").text


def test_a_controller_that_ends_again_and_again_is_shown_with_its_last_words(
    client: FlaskClient, fleet: FleetStore
) -> None:
    message = "the queue <b>is gone</b>\x1b[2J" + "x" * 500
    line = json.dumps({"at": NOW.isoformat(), "level": "critical", "message": message, "error": "AccessDenied"})
    record_previous_end(fleet, "", NOW)
    record_previous_end(fleet, "status 1: Killed", NOW - timedelta(days=1))
    record_previous_end(fleet, "status 1: Killed", NOW + timedelta(days=365))
    record_previous_end(fleet, f"status 1: {line}", NOW)
    fleet.put_snapshot(SNAPSHOT.model_copy(update={"at": NOW, "problem": "no capacity"}))
    assert problem_of(client) == "no capacity", "one end is no pattern"
    for number in range(1, 20):
        record_previous_end(fleet, f"status 1: {line}", NOW + timedelta(seconds=number))
    words = (
        f"the controller has ended 10 times within 10 minutes, last at {NOW + timedelta(seconds=19):%H:%M:%S} UTC "
        f"with status 1: critical at {NOW:%H:%M:%S} UTC: the queue <b>is gone</b> [2Jxx"
    )
    problem = problem_of(client)
    assert problem.startswith(words)
    assert problem.endswith("xxx; no capacity")
    assert len(problem) < 400
    assert escape(words) in client.get("/fleet").text
    fleet.put_snapshot(SNAPSHOT.model_copy(update={"at": NOW + timedelta(minutes=11), "problem": None}))
    assert problem_of(client) is None, "it has worked since"


def test_a_controller_that_ends_before_its_first_report_is_shown(client: FlaskClient, fleet: FleetStore) -> None:
    for second in range(2):
        record_previous_end(fleet, "status 1: Traceback", NOW + timedelta(seconds=second))
    words = (
        f"ended 2 times within 10 minutes, last at {NOW + timedelta(seconds=1):%H:%M:%S} UTC with status 1: Traceback"
    )
    answer = client.get("/api/v1/fleet")
    assert answer.status_code == 404
    assert words in answer.text
    assert words in client.get("/fleet").text


def spending(today: float = 1.2, cap: float | None = 1.0) -> FleetSpending:
    """What a controller has reported just now about a cap of a day."""
    day = datetime.now(UTC).date()
    return FleetSpending(day=day, today=today, month=today, launch=0.006, dollars_per_day=cap)


def test_a_reached_cap_is_shown_everywhere_with_the_time_of_its_end(
    client: FlaskClient, fleet: FleetStore, store: JobStore, job: Job
) -> None:
    reason = "the day's spending cap is reached, no worker starts until 00:00 UTC: 1 image waiting"
    fleet.put_snapshot(fleet_snapshot(NOW, spending=spending(), reason=reason))
    fleet.put_decisions(Decisions(decisions=(Decision(at=NOW, words=reason),)))
    body = fleet_shown(client)
    assert body.capped == (
        "The day's spending cap is reached: instances cost $1.20 of $1.00 today. No worker starts until 00:00 UTC; "
        "uploads still queue."
    )
    assert (body.spending, body.is_latest) == ("$1.20 of $1.00 today", True)
    assert body.next_worker == "Workers start at 00:00 UTC, or once operators allow more dollars."
    page = unescape(client.get("/fleet").text)
    alarm = r'<div class="caution"[^>]* id="capped">(?s:.)*?href="/fleet/allowance"'
    assert re.search(alarm, page), "has its button"
    assert client.get("/api/v1/fleet").get_json()["spending"]["today"] == 1.2
    add_images(store, job, "a.jpg")
    waiting = unescape(client.get(f"/jobs/{job.job_id}").text)
    assert "No worker starts until 00:00 UTC" not in waiting, "users see no amounts"
    assert "no worker starts until 00:00 UTC: 1 image waiting." in waiting


def test_without_a_cap_the_page_shows_none_and_no_dollars_can_be_allowed(
    client: FlaskClient, fleet: FleetStore
) -> None:
    fleet.put_snapshot(fleet_snapshot(NOW))
    page = client.get("/fleet").text
    assert 'id="capped" hidden' in page
    assert 'id="spending" hidden' in page
    refused = client.put("/api/v1/fleet/allowance", json={"dollars": 5})
    assert (refused.status_code, "set fleet.dollars_per_day" in refused.get_json()["detail"]) == (422, True)
    assert client.post("/fleet/allowance", data={"dollars": "5"}, headers=SAME_SITE).status_code == 422
    assert fleet.commands().allowance is None


def test_operators_allow_more_dollars_today_and_withdraw_them(client: FlaskClient, fleet: FleetStore) -> None:
    fleet.put_snapshot(fleet_snapshot(NOW, spending=spending()))
    for dollars_more, still in ((0.1, True), (5, False)):
        answer = client.put("/api/v1/fleet/allowance", json={"dollars": dollars_more, "reason": "<b>release</b>"})
        body = answer.get_json()
        assert (answer.status_code, body["still_reached"], body["cap_this_month"]) == (200, still, None)
        assert body["cap_today"] == pytest.approx(1 + dollars_more)
    order = fleet.commands().allowance
    assert order is not None
    assert (order.dollars, order.reason, order.day) == (5, "<b>release</b>", datetime.now(UTC).date())
    shown = fleet_shown(client)
    assert shown.capped is None, "before the controller has applied it"
    assert re.fullmatch(
        r"\$1\.20 of \$6\.00 today, with \$5\.00 allowed by ops at \d\d:\d\d UTC \(<b>release</b>\)",
        shown.spending or "",
    )
    assert "<b>release" not in client.get("/fleet").text
    for _ in range(2):
        assert client.delete("/api/v1/fleet/allowance").status_code == 204
        assert fleet.commands().allowance is None


@pytest.mark.parametrize(
    "body", [{}, {"dollars": 0}, {"dollars": -1}, {"dollars": "5"}, {"dollars": 1e9}, {"dollars": 1, "day": "x"}]
)
def test_an_invalid_allowance_gets_422(client: FlaskClient, fleet: FleetStore, body: dict[str, object]) -> None:
    fleet.put_snapshot(fleet_snapshot(NOW, spending=spending()))
    assert client.put("/api/v1/fleet/allowance", json=body).status_code == 422
    assert fleet.commands().allowance is None


def test_the_form_allows_more_dollars_and_is_filled_again_with_an_error(
    client: FlaskClient, fleet: FleetStore
) -> None:
    fleet.put_snapshot(fleet_snapshot(NOW, spending=spending()))
    assert "Instances: $1.20 of $1.00 today." in client.get("/fleet/allowance").text
    for text in ("", "0", "-1", "nan", "inf", "1e9", "٣", '"><script>', "9" * 5_000):
        answer = client.post("/fleet/allowance", data={"dollars": text, "reason": "why"}, headers=SAME_SITE)
        assert (answer.status_code, "Give dollars, more than 0 and up to 1,000,000" in answer.text) == (422, True), (
            text
        )
        assert 'name="reason" value="why"' in answer.text
        assert "<script>" not in answer.text
    assert fleet.commands().allowance is None
    done = client.post("/fleet/allowance", data={"dollars": " 2.50"}, headers=SAME_SITE)
    assert (done.status_code, done.headers["Location"]) == (303, "/fleet")
    assert fleet.state().allowance is not None
    assert "Withdraw the allowance" in client.get("/fleet/allowance").text
    assert client.post("/fleet/allowance/reset", headers=SAME_SITE).status_code == 303
    assert fleet.state().allowance is None


def test_an_allowance_is_for_the_controllers_day_if_its_clock_is_ahead(fleet: FleetStore) -> None:
    tomorrow = NOW.date() + timedelta(days=1)
    reported = FleetSpending(day=tomorrow, today=1.2, month=1.2, launch=0.006, dollars_per_day=1.0)
    fleet.put_snapshot(fleet_snapshot(NOW, spending=reported))
    assert fleet.allow_dollars(5, "", NOW).reached is None
    assert getattr(fleet.commands().allowance, "day", None) == tomorrow


LIMITED = FleetSnapshot(
    at=NOW, running=2, pending=1, visible=112, in_flight=23, min_workers=0, max_workers=19, peak_workers=6,
    billed_seconds=325, reason="three workers, enough", configured=WorkerLimits(min_workers=0, max_workers=19),
)  # fmt: skip
ORDER = LimitsOverride(min_workers=1, max_workers=5, since=NOW, reason="<b>budget</b>")
WORDS = "1..5, set by ops on 1 March, 12:00 UTC (<b>budget</b>); config.yaml says 0..19"


def instance_with(instance_id: str, state: str = "running", **said: object) -> FleetInstance:
    now = datetime.now(UTC)
    return instance(instance_id, state, launched_at=now - timedelta(minutes=5), heard_at=now, **said)


@pytest.mark.parametrize(
    ("least", "most"),
    [("6", "5"), ("0", "1001"), ("-1", "5"), ("٣", "5"), ("0", "9" * 5_000), ("0", '"><script>'), ("", "")],
)
def test_invalid_limits_leave_the_form_filled_with_an_error(
    client: FlaskClient, fleet: FleetStore, least: str, most: str
) -> None:
    fields = {"min_workers": least, "max_workers": most, "reason": "budget"}
    answer = client.post("/fleet/limits", data=fields, headers=SAME_SITE)
    assert answer.status_code == 422
    assert "Give whole numbers from 0 to 1,000, the minimum at most as high as the maximum." in answer.text
    assert 'name="reason" value="budget"' in answer.text
    assert "<script>" not in answer.text
    assert fleet.commands().limits is None


def test_every_page_with_limits_shows_who_set_them(client: FlaskClient, fleet: FleetStore, store: JobStore) -> None:
    FleetStore(store.table).put_snapshot(LIMITED)
    assert 'id="limits-set" hidden' in client.get("/fleet").text
    fleet.set_limits(ORDER)
    page = client.get("/fleet").text
    assert f"Limits {WORDS}." in unescape(page)
    assert "<b>budget" not in page
    assert 'id="limits-set" hidden' not in page
    body = fleet_shown(client)
    assert (body.limits.min_workers, body.limits.max_workers, body.limits_set) == (1, 5, f"Limits {WORDS}.")
    assert f"Now {WORDS}." in unescape(client.get("/fleet/limits").text)


def test_reset_limits_are_shown_at_once_before_the_controller_applies_them(
    client: FlaskClient, fleet: FleetStore, store: JobStore
) -> None:
    fleet.set_limits(ORDER)
    FleetStore(store.table).put_snapshot(
        LIMITED.model_copy(update={"min_workers": 1, "max_workers": 5, "limits_order": ORDER})
    )
    assert client.post("/fleet/limits/reset", headers=SAME_SITE).status_code == 303
    assert fleet.commands().limits is None
    body = fleet_shown(client)
    assert (body.limits.min_workers, body.limits.max_workers, body.limits_set) == (0, 19, None)


def test_only_drainable_instances_have_a_drain_link(client: FlaskClient, fleet: FleetStore) -> None:
    instances = (
        instance_with("i-pending", "pending"), instance_with("i-running"), instance_with("i-asked", draining=True),
        instance_with("i-draining", worker="draining"), instance_with("i-stopped", "stopped"),
    )  # fmt: skip
    fleet.put_instances(FleetInstances(total=5, instances=instances))
    rows = fleet_shown(client).instances
    assert [row.instance_id for row in rows if row.can_drain] == ["i-pending", "i-running"]
    assert [row.state for row in rows] == ["starts", "busy", "draining", "draining", "stopped"]
    assert client.get("/fleet/instances/i-stopped/drain").status_code == 404
    answer = client.post("/fleet/instances/i-none/drain", headers=SAME_SITE)
    assert (answer.status_code, "no instance" in answer.text) == (404, True)


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def row(state: str = "running", *, age: float = 72, silence: float | None = None, **more: object) -> InstanceRow:
    heard_at = None if silence is None else NOW - timedelta(seconds=silence)
    shown = instance("i-0f3a", state, launched_at=NOW - timedelta(seconds=age), heard_at=heard_at, **more)
    return InstanceRow.from_instance(shown, NOW)


@pytest.mark.parametrize(
    ("shown", "state", "heard", "marked"),
    [
        (row("pending", age=5), "starts", "boots, 115 s left", False),
        (row(age=40), "boots", "boots, 80 s left", False),
        (row(age=BOOT_SECONDS + 60), "silent", "none for 3 min", True),
        (row(worker="ready", silence=0.4), "ready", "just now", False),
        (row(worker="busy", silence=9), "busy", "9 s ago", False),
        (row(worker="draining", silence=9), "draining", "9 s ago", False),
        (row(worker="busy", silence=SILENT_SECONDS + 10), "silent", "none for 40 s", True),
        (row(worker=None, silence=2, images=1), "busy", "2 s ago", False),
        (row(worker="ended", silence=1), "ended", "1 s ago", False),
        (row("stopping", worker="busy", silence=90), "stops", "90 s ago", False),
        (row("stopped", age=7200), "stopped", "-", False),
    ],
)
def test_a_worker_has_its_reported_state_and_is_marked_when_silent(
    shown: InstanceRow, state: str, heard: str, marked: bool
) -> None:
    assert (shown.state, shown.heard, shown.marked) == (state, heard, marked)


def test_a_row_has_the_market_the_images_and_the_speed_while_its_worker_is_busy() -> None:
    rows = (
        row(),
        row(images=1_234, silence=1, spot=True),
        row(images=31, images_per_second=2.444, silence=1),
        row(images=31, images_per_second=2.444, silence=1, worker="draining"),
    )
    shown = [(each.market, each.images, each.speed) for each in rows]
    assert shown == [("", "-", "-"), ("Spot", "1,234", "-"), ("", "31", "2.4 /s"), ("", "31", "-")]


def test_a_row_has_the_cost_of_its_instance_so_far_at_least_the_billed_minimum() -> None:
    ran = (None, NOW - timedelta(seconds=5), NOW - timedelta(minutes=10))
    rows = [InstanceRow.from_instance(instance(billed_since=since), NOW, PRICES) for since in ran]
    assert [each.cost for each in rows] == ["$0.00", "$0.0060", "$0.060"]
    assert row().cost == "-", "the prices are not known"


def test_an_unhealthy_instance_has_the_reason_and_the_consequence() -> None:
    words = "no heartbeat for 2 min: checked again, then terminated"
    shown = row(age=30, marked=words)
    assert (shown.state, shown.heard, shown.marked, shown.at_work) == ("stuck", words, True, False)
