"""``fleetsight fleet``: what ops type, and what they read, against a web tier that answers over the wire."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.fleet.models import (
    Decision,
    Decisions,
    FleetInstance,
    FleetInstances,
    FleetPause,
    FleetSnapshot,
    LimitsOverride,
)
from core.fleet.store import FleetStore
from core.jobs.store import JobStore
from scripts.cli import fleetsight
from scripts.client import ApiError
from scripts.fleet_client import FleetClient, url_of
from scripts.fleet_commands import follow_events
from services.clients import Clients
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.served import served
from web_tier.app import create_app

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INSTANCE = "i-0123456789abcdef0"
ORDER = LimitsOverride(min_workers=1, max_workers=5, since=NOON, reason="[red]<b>budget</b>")


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items."""
    return FleetStore(table)


@pytest.fixture
def url(config: Config, provisioned: Clients) -> Iterator[str]:
    """The address of a web tier."""
    with served(create_app(config)) as address:
        yield address


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(fleetsight, ["fleet", *arguments])


def instance(instance_id: str = INSTANCE, state: str = "running") -> FleetInstance:
    now = datetime.now(UTC)
    return FleetInstance(
        instance_id=instance_id, state=state, instance_type="c7a.16xlarge", zone="us-east-1a", spot=True,
        launched_at=now - timedelta(minutes=5), heard_at=now - timedelta(seconds=2),
        worker="busy", images=123_456, in_hand=2,
    )  # fmt: skip


def snapshot(**said: object) -> FleetSnapshot:
    return FleetSnapshot.model_validate(
        {
            "at": datetime.now(UTC), "running": 2, "pending": 1,
            "visible": 112_000, "in_flight": 23, "dead_letters": 1,
            "min_workers": 0, "max_workers": 19, "peak_workers": 6, "billed_seconds": 3325.2, "cost": 0.0948,
            "images": 2_000, "reason": "three workers, enough", "policy": "deadline",
            "configured": {"min_workers": 0, "max_workers": 19}, **said,
        }
    )  # fmt: skip


def test_status_shows_in_80_columns_what_there_is(url: str, fleet: FleetStore, store: JobStore) -> None:
    problem = "the last good limits stay in force: config.yaml is not valid:\n  fleet.max_workers = -1: too little"
    limits = {"min_workers": 1, "max_workers": 5, "limits_order": ORDER, "paused": FleetPause(since=NOON)}
    FleetStore(store.table).put_snapshot(snapshot(problem=problem, stopped=3, **limits))
    fleet.put_instances(FleetInstances(total=7, instances=(instance(), instance("i-0f3a", "stopped"))))
    done = typed("status", "--url", url)
    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.output.splitlines()) <= 80
    shown = " ".join(done.output.split())
    for words in (
        "2 running, 1 starting, 3 stopped; 6 at the peak",
        "112,000 waiting, 23 in flight, 1 dead letter",
        "1..5, set by ops on 1 March, 12:00 UTC ([red]<b>budget</b>); config.yaml says 0..19",
        "deadline",
        "Three workers, enough.",
        "fleet.max_workers = -1: too little",
        "Paused by ops since 1 March, 12:00 UTC.",
        "billed 3,325 s, $0.095",
        "1,000 images $0.0",
        INSTANCE,
        "123,456",
        "s ago",
        "stopped",
        "and 5 older",
    ):
        assert words in shown


@pytest.mark.parametrize("ahead", [-600, 600])
def test_row_53_status_is_right_if_the_clock_of_the_controller_differs(
    url: str, fleet: FleetStore, store: JobStore, ahead: int
) -> None:
    at = datetime.now(UTC) + timedelta(seconds=ahead)
    times = {"launched_at": at - timedelta(minutes=5), "heard_at": at - timedelta(seconds=2)}
    FleetStore(store.table).put_snapshot(snapshot(at=at))
    fleet.put_instances(FleetInstances(total=1, instances=(instance().model_copy(update=times),)))
    shown = " ".join(typed("status", "--url", url).output.split())
    for words in ("Three workers, enough.", "busy", "5 min", "2 s ago"):
        assert words in shown


def test_status_as_json_is_what_the_api_answers(url: str, fleet: FleetStore, store: JobStore) -> None:
    FleetStore(store.table).put_snapshot(snapshot())
    fleet.put_instances(FleetInstances(total=1, instances=(instance(),)))
    told = json.loads(typed("status", "--url", url, "--json").output)
    assert (told["fleet"]["max_workers"], told["fleet"]["policy"]) == (19, "deadline")
    assert told["instances"]["instances"][0]["instance_id"] == INSTANCE


def test_before_the_first_look_there_is_no_status_and_that_is_said(url: str) -> None:
    done = typed("status", "--url", url)
    assert done.exit_code == 1
    assert "the controller has not looked at the fleet yet" in done.output
    assert typed("status", "--url", url, "--json").exit_code == 1


def test_a_fleet_without_instances_is_said_to_have_none(url: str, store: JobStore) -> None:
    FleetStore(store.table).put_snapshot(snapshot(running=0, pending=0))
    assert "There are no instances" in typed("status", "--url", f"{url}/").output


def test_the_fleet_is_paused_with_a_reason_and_resumed(url: str, fleet: FleetStore) -> None:
    done = typed("pause", "new model", "--url", url)
    assert (done.exit_code, "is paused (new model)" in done.output) == (0, True)
    pause = fleet.paused()
    assert pause is not None
    assert pause.reason == "new model"
    assert json.loads(typed("pause", "--url", url, "--json").output)["reason"] == "new model"
    assert typed("resume", "--url", url).output == "The fleet is not paused.\n"
    assert fleet.paused() is None


def test_limits_are_set_and_taken_back(url: str, fleet: FleetStore) -> None:
    done = typed("scale", "1", "5", "--reason", "budget", "--url", url)
    assert (done.exit_code, "Limits 1..5 hold until" in done.output) == (0, True)
    order = fleet.commands().limits
    assert order is not None
    assert (order.min_workers, order.max_workers, order.reason) == (1, 5, "budget")
    assert json.loads(typed("scale", "0", "3", "--json", "--url", url).output)["max_workers"] == 3
    done = typed("scale", "--reset", "--url", url)
    assert (done.exit_code, "config.yaml hold again" in done.output) == (0, True)
    assert fleet.commands().limits is None
    assert json.loads(typed("scale", "--reset", "--json", "--url", url).output) == {"limits_order": None}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("scale", "5", "3"), 1, "min_workers (5) must be at most max_workers (3)"),
        (("scale", "0", "1001"), 1, "less than or equal to 1000"),
        (("scale", "5"), 2, "say MIN and MAX"),
        (("scale", "many", "5"), 2, "'many' is not a valid integer"),
        (("scale", "1", "5", "--reset"), 2, "--reset takes limits back"),
        (("drain", "i-none"), 1, "the fleet has no instance 'i-none'"),
        (("drain", "../limits"), 1, "answered 404"),
        (("pause", "x" * 201), 1, "at most 200 characters"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    url: str, fleet: FleetStore, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = typed(*arguments, "--url", url)
    assert (done.exit_code, words in done.output) == (status, True), done.output
    assert (fleet.commands().limits, fleet.commands().drain, fleet.paused()) == (None, (), None)


def test_an_instance_is_asked_to_drain(url: str, fleet: FleetStore) -> None:
    fleet.put_instances(FleetInstances(total=1, instances=(instance(),)))
    done = typed("drain", INSTANCE, "--url", url)
    assert (done.exit_code, "is asked to drain" in done.output) == (0, True)
    assert fleet.commands().drain == (INSTANCE,)
    assert json.loads(typed("drain", INSTANCE, "--url", url, "--json").output)["instance_id"] == INSTANCE


def test_the_help_of_drain_says_that_another_may_take_its_place() -> None:
    assert "another is launched in its place" in " ".join(typed("drain", "--help").output.split())


def test_events_are_told_oldest_first_and_nothing_in_them_moves_the_terminal(url: str, fleet: FleetStore) -> None:
    later = Decision(at=NOON + timedelta(seconds=7), words="limits [red]1..5\x1b[2J (budget): " + "long " * 30)
    fleet.put_decisions(Decisions(decisions=(later, Decision(at=NOON, words="starting 5"))))
    done = typed("events", "--url", url)
    lines = done.output.splitlines()
    assert lines[0].split() == ["01", "Mar", "12:00:00", "starting", "5"]
    assert lines[1].startswith("01 Mar 12:00:07  limits [red]1..5[2J (budget): long")
    assert max(len(line) for line in lines) <= 80
    told = json.loads(typed("events", "--url", url, "--json").output)
    assert [each["words"] for each in told["decisions"]][1] == "starting 5"


@dataclass
class Told(FleetClient):
    """A client that answers from a list, one look after the other; an error in it is raised."""

    base_url: str = "http://nowhere"
    looks: list[list[str] | ApiError] = field(default_factory=list)

    def decisions(self) -> dict[str, Any]:
        look = self.looks.pop(0)
        if isinstance(look, ApiError):
            raise look
        return {"decisions": [{"at": "2026-03-01T12:00:00Z", "words": words} for words in look]}


def test_new_events_are_followed_in_their_order_until_ctrl_c_also_while_nobody_answers_for_a_moment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gone = ApiError("nothing answers")
    client = Told(looks=[["a"], ["c", "b", "a"], gone, gone, ["d", "c", "b"], ["d", "c", "b"]])
    looks, shown = len(client.looks), list[str]()

    def wait(_seconds: float) -> None:
        if not client.looks:
            raise KeyboardInterrupt

    seen = [{"at": "2026-03-01T12:00:00Z", "words": "a"}]
    follow_events(client, seen, lambda event: shown.append(event["words"]), wait)
    assert shown == ["b", "c", "d"]
    assert looks == 6
    assert capsys.readouterr().err == "fleetsight: nothing answers; going on\n"


def test_where_nothing_listens_it_is_said_what_to_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = typed("status", "--url", f"http://127.0.0.1:{port}")
    assert done.exit_code == 2
    assert f"nothing answers at http://127.0.0.1:{port}: start Fleetsight with ./scripts/run.sh" in done.output


def test_what_is_no_address_is_said_to_be_none() -> None:
    done = typed("status", "--url", "nonsense")
    assert (done.exit_code, "use --url" in done.output) == (2, True)


class Stranger(BaseHTTPRequestHandler):
    """A server of another kind."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<h1>hello</h1>")

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def test_a_server_of_another_kind_is_told_from_fleetsight() -> None:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        done = typed("status", "--url", f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert (done.exit_code, "is not Fleetsight" in done.output) == (2, True)


def test_without_an_address_the_configured_one_is_asked(
    url: str, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    FleetStore(store.table).put_snapshot(snapshot())
    monkeypatch.setenv("FLEETSIGHT__WEB__PORT", url.rpartition(":")[2])
    assert typed("status").exit_code == 0
    monkeypatch.setenv("FLEETSIGHT__WEB__PORT", "none")
    done = typed("status")
    assert (done.exit_code, "web.port" in done.output) == (2, True)


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("web.example", "web.example")],
)
def test_the_configured_address_is_one_that_can_be_called(host: str, address: str, make_config: ConfigMaker) -> None:
    config = make_config(web={"host": host, "port": 8001}, auth={"open": True})
    assert url_of(config.web) == f"http://{address}:8001"


def test_limits_of_an_older_controller_are_shown_as_they_are(url: str, store: JobStore) -> None:
    FleetStore(store.table).put_snapshot(snapshot(policy=None, configured=None))
    shown = typed("status", "--url", url).output
    assert "limits        0..19" in shown
    assert "policy" not in shown
