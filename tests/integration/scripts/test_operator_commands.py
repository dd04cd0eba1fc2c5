"""The commands for operators, `fleetsight fleet` and those of `model`, against a real web tier."""

import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import ANY

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
    FleetSpending,
    LimitsOverride,
)
from core.fleet.store import FleetStore
from core.jobs.store import JobStore
from scripts.cli import fleetsight
from services.clients import Clients
from services.clock import utc_now
from services.table import Table
from tests.support.autoscaler import fleet_snapshot
from tests.support.bundles import relabelled_bundle
from tests.support.memory_aws.ec2 import MemoryEC2
from tests.support.servers import served
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


def run_fleet(*arguments: str) -> Result:
    return CliRunner().invoke(fleetsight, ["fleet", *arguments])


def instance(instance_id: str = INSTANCE, state: str = "running") -> FleetInstance:
    now = datetime.now(UTC)
    return FleetInstance(
        instance_id=instance_id, state=state, instance_type="c7a.16xlarge", zone="us-east-1a", spot=True,
        launched_at=now - timedelta(minutes=5), heard_at=now - timedelta(seconds=2),
        worker="busy", images=123_456, in_hand=2,
    )  # fmt: skip


def snapshot(**printed: object) -> FleetSnapshot:
    return FleetSnapshot.model_validate(
        {
            "at": datetime.now(UTC), "running": 2, "pending": 1,
            "visible": 112_000, "in_flight": 23, "packs": 2_300, "dead_letters": 1,
            "min_workers": 0, "max_workers": 19, "peak_workers": 6, "billed_seconds": 3325.2, "cost": 0.0948,
            "images": 2_000, "reason": "three workers, enough", "policy": "deadline",
            "configured": {"min_workers": 0, "max_workers": 19}, **printed,
        }
    )  # fmt: skip


def test_status_fits_80_columns(url: str, fleet: FleetStore, store: JobStore) -> None:
    problem = "the last good limits stay in force: config.yaml is not valid:\n  fleet.max_workers = -1: too little"
    limits = {
        "failed_models": ("b" * 64,),
        "min_workers": 1,
        "max_workers": 5,
        "limits_order": ORDER,
        "paused": FleetPause(since=NOON),
    }
    FleetStore(store.table).put_snapshot(snapshot(problem=problem, stopped=3, **limits))
    fleet.put_instances(FleetInstances(total=7, instances=(instance(), instance("i-0f3a", "stopped"))))
    done = run_fleet("status", "--url", url)
    assert done.exit_code == 0, done.output
    assert max(len(line) for line in done.output.splitlines()) <= 80
    shown = " ".join(done.output.split())
    for words in (
        "2 running, 1 starting, 3 stopped",
        "112,023 images in 2,300 packs, 23 in flight, 1 dead letter",
        "1..5, set by ops on 1 March, 12:00 UTC ([red]<b>budget</b>); config.yaml says 0..19",
        "deadline",
        "Three workers, enough.",
        "fleet.max_workers = -1: too little",
        "Paused by ops since 1 March, 12:00 UTC.",
        "no worker can load bbbbbbbbbbbb",
        "instances $0.095 since the first launch, for 3,325 s",
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
    shown = " ".join(run_fleet("status", "--url", url).output.split())
    for words in ("Three workers, enough.", "busy", "5 min", "2 s ago"):
        assert words in shown


def test_status_before_the_first_snapshot_is_an_error(url: str) -> None:
    done = run_fleet("status", "--url", url)
    assert done.exit_code == 1
    assert "the controller has not published a fleet status yet" in done.output
    assert run_fleet("status", "--url", url, "--json").exit_code == 1


def test_dollars_beyond_a_reached_cap_are_allowed_and_withdrawn(url: str, fleet: FleetStore) -> None:
    refused = run_fleet("allow", "5", "--url", url)
    assert (refused.exit_code, "there is no spending cap to raise" in refused.output) == (1, True)
    day = datetime.now(UTC).date()
    reached = FleetSpending(day=day, today=1.2, month=1.2, launch=0.006, dollars_per_day=1.0)
    fleet.put_snapshot(fleet_snapshot(datetime.now(UTC), spending=reached))
    shown = " ".join(run_fleet("status", "--url", url).output.split())
    assert "spending instances $1.20 of $1.00 today" in shown
    assert "No worker starts until 00:00 UTC" in shown
    little = run_fleet("allow", "0.1", "--url", url)
    words = " ".join(little.output.split())
    assert words == "Instances may cost $1.10 today, until 00:00 UTC. A cap is still reached: allow more."
    done = run_fleet("allow", "5", "--reason", "release", "--url", url)
    assert (done.exit_code, done.output) == (0, "Instances may cost $6.00 today, until 00:00 UTC.\n")
    order = fleet.commands().allowance
    assert order is not None
    assert (order.dollars, order.reason) == (5, "release")
    assert run_fleet("allow", "--reset", "--url", url).exit_code == 0
    assert fleet.commands().allowance is None
    for wrong in (["allow"], ["allow", "0"], ["allow", "five"], ["allow", "5", "--reset"]):
        assert run_fleet(*wrong, "--url", url).exit_code == 2


def test_the_fleet_is_paused_with_a_reason_and_resumed(url: str, fleet: FleetStore) -> None:
    done = run_fleet("pause", "new model", "--url", url)
    assert (done.exit_code, "is paused (new model)" in done.output) == (0, True)
    pause = fleet.paused()
    assert pause is not None
    assert pause.reason == "new model"
    again = json.loads(run_fleet("pause", "--url", url, "--json").output)
    assert (again["reason"], again["changed"]) == ("new model", False)
    assert "The fleet was paused before (new model)" in run_fleet("pause", "--url", url).output
    fleet.put_snapshot(fleet_snapshot(utc_now(), visible=20))
    assert run_fleet("resume", "--url", url).output == "Resumed. 20 images start now.\n"
    assert fleet.paused() is None
    assert run_fleet("resume", "--url", url).output == "The fleet was not paused: nothing has changed.\n"
    resume = fleet.commands().resume
    assert resume is not None
    assert resume.by == "ops"


def test_limits_are_set_and_reset(url: str, fleet: FleetStore) -> None:
    done = run_fleet("scale", "1", "5", "--reason", "budget", "--url", url)
    assert (done.exit_code, "Limits 1..5 apply until" in done.output) == (0, True)
    order = fleet.commands().limits
    assert order is not None
    assert (order.min_workers, order.max_workers, order.reason) == (1, 5, "budget")
    assert json.loads(run_fleet("scale", "0", "3", "--json", "--url", url).output)["max_workers"] == 3
    for arguments, limits in ((("2", "9"), "2..9"), (("4",), "2..4"), (("1",), "1..1")):
        assert f"Limits {limits} apply until" in run_fleet("scale", *arguments, "--url", url).output
    done = run_fleet("scale", "--reset", "--url", url)
    assert (done.exit_code, "config.yaml apply again" in done.output) == (0, True)
    assert fleet.commands().limits is None
    assert json.loads(run_fleet("scale", "--reset", "--json", "--url", url).output) == {"limits_order": None}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("scale", "5", "3"), 2, "Error: MIN (5) must be at most MAX (3)"),
        (("scale", "0", "1001"), 2, "1001 is not in the range 0<=x<=1000"),
        (("scale",), 2, "give MAX, or MIN and MAX"),
        (("scale", "1", "2", "3"), 2, "give MAX, or MIN and MAX"),
        (("scale", "many", "5"), 2, "'many' is not a valid integer"),
        (("scale", "1", "5", "--reset"), 2, "--reset deletes the limits"),
        (("drain", "i-none"), 1, "Error: the fleet has no instance 'i-none'"),
        (("drain", "../limits"), 1, "Error: nothing is at this address"),
        (("pause", "x" * 201), 1, "at most 200 characters"),
    ],
)
def test_an_invalid_command_is_rejected_with_the_reason(
    url: str, fleet: FleetStore, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = run_fleet(*arguments, "--url", url)
    assert (done.exit_code, words in done.output) == (status, True), done.output
    assert (fleet.commands().limits, fleet.commands().drain, fleet.paused()) == (None, (), None)


def test_events_are_shown_oldest_first_without_control_characters(url: str, fleet: FleetStore) -> None:
    later = Decision(at=NOON + timedelta(seconds=7), words="limits [red]1..5\x1b[2J (budget): " + "long " * 30)
    fleet.put_decisions(Decisions(decisions=(later, Decision(at=NOON, words="starting 5"))))
    done = run_fleet("events", "--url", url)
    lines = done.output.splitlines()
    assert lines[0].split() == ["01", "Mar", "12:00:00", "starting", "5"]
    assert lines[1].startswith("01 Mar 12:00:07  limits [red]1..5\ufffd[2J (budget): long")
    assert max(len(line) for line in lines) <= 80
    reported = json.loads(run_fleet("events", "--url", url, "--json").output)
    assert [each["words"] for each in reported["decisions"]][1] == "starting 5"


def test_a_console_is_printed_as_its_lines_or_as_json(
    url: str, fleet: FleetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clients, "ec2", MemoryEC2(consoles={INSTANCE: "boot\n[red]started\n"}))
    fleet.put_instances(FleetInstances(total=1, instances=(instance(),)))
    assert run_fleet("console", INSTANCE, "--url", url).stdout.splitlines() == ["boot", "[red]started"]
    assert json.loads(run_fleet("console", INSTANCE, "--json", "--url", url).stdout)["lines"] == [
        "boot",
        "[red]started",
    ]
    other = run_fleet("console", "i-0aaaaaaaaaaaaaaaa", "--url", url)
    assert (other.exit_code, "the fleet has no instance 'i-0aaaaaaaaaaaaaaaa'" in other.output) == (1, True)


def test_without_a_server_the_error_says_what_to_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    done = run_fleet("status", "--url", f"http://127.0.0.1:{port}")
    assert done.exit_code == 2
    assert f"nothing answers at http://127.0.0.1:{port}: start Fleetsight with ./scripts/run.sh" in done.output
    assert "(Failed to establish" in done.output, "the cause may be another, such as an untrusted certificate"


# Models


def run_model(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(fleetsight, ["model", *arguments, "--url", url])


def test_models_are_added_used_rolled_back_and_removed(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = relabelled_bundle(tmp_path / "signs", "signs", " (2)")
    for arguments, output in (
        (("add", str(tmp_path / "signs")), f"Jobs may name the model signs, digest {digest[:12]}. "),
        (("use", "signs"), "New jobs get signs.\n"),
        (("roll-back",), "New jobs get demo.\n"),
        (("remove", "signs"), "New jobs cannot choose the model signs any more.\n"),
    ):
        done = run_model(url, *arguments)
        assert (done.exit_code, done.output.startswith(output)) == (0, True), done.output
    monkeypatch.chdir(tmp_path)
    assert run_model(url, "add", "signs", "--name", "signs-2").exit_code == 0
    lines = run_model(url, "list").output.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [["demo", ANY, "default"], ["signs-2", digest[:12], ANY]]
    listed = json.loads(run_model(url, "list", "--json").output)
    assert [(each["name"], each["is_default"]) for each in listed["models"]] == [("demo", True), ("signs-2", False)]
    assert run_model(url, "remove", "signs-2").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("use", "birds"), 1, "there is no model 'birds': choose one of demo"),
        (("add", "/nowhere"), 1, "no bundle can be read at /nowhere"),
        (("roll-back",), 1, "there is no model before demo"),
        (("remove", "demo"), 1, "give them another model"),
        (("add", "/nowhere", "--name", "a b"), 1, "name: "),
    ],
)
def test_a_command_for_models_that_is_refused_says_why(
    url: str, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = run_model(url, *arguments)
    assert done.exit_code == status, done.output
    assert words in " ".join(done.output.split())
