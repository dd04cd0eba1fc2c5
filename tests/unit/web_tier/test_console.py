"""Consoles of instances: only of the fleet's own, rarely read, and harmless with any text in them."""

import json
import re
import unicodedata
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import ENDED_LISTED, EndedInstance, EndedInstances, FleetInstance, FleetInstances
from core.fleet.store import FleetStore
from services.errors import NotFoundError
from services.table import Table
from tests.support.api import AppMaker, fleet_shown, problem
from tests.support.autoscaler import Clock
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW
from tests.support.memory_aws.calls import refusal
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.features.consoles.console import (
    EXTENSION,
    FRESH_SECONDS,
    MAX_CHARACTERS,
    MAX_FIELDS,
    MAX_KEPT,
    MAX_LINE_CHARACTERS,
    MAX_LINES,
    ConsoleUnavailableError,
    InstanceConsole,
    InstanceConsoles,
    clean,
    console_lines,
    parse_line,
)
from web_tier.http.bulkheads import Bulkhead

RUNNING, ENDED, FOREIGN = "i-0123456789abcdef0", "i-0fedcba9876543210", "i-0aaaaaaaaaaaaaaaa"
LINE = {
    "at": "2026-11-25T12:03:22.123+00:00", "level": "warning", "process": "worker", "logger": "app_tier.pipeline",
    "message": "a step failed", "image": "01KA", "tries": 2, "of": {"a": [1, None]},
}  # fmt: skip


class ConsoleService:
    """EC2 with one console for all instances; it counts its calls, and can refuse them."""

    def __init__(self, text: str = "up\n") -> None:
        self.text, self.calls = text, list[str]()
        self.error: Exception | None = None
        self.has_latest = True
        self.reached: Callable[[], None] = lambda: None

    def get_console_output(self, InstanceId: str, Latest: bool = False) -> dict[str, str]:  # noqa: N803 (EC2's names)
        self.calls.append(InstanceId)
        self.reached()
        if self.error is not None:
            raise self.error
        if Latest and not self.has_latest:
            raise refusal("UnsupportedOperation", "GetConsoleOutput")
        return {"Output": self.text}


def running(instance_id: str = RUNNING) -> FleetInstance:
    return FleetInstance(
        instance_id=instance_id, state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=NOW
    )


def ended(instance_id: str = ENDED, at: datetime = NOW) -> EndedInstance:
    return EndedInstance(
        instance_id=instance_id, instance_type="c7a.large", zone="us-east-1a", launched_at=NOW, ended_at=at, images=45
    )


def consoles_of(service: ConsoleService, clock: Clock | None = None, places: int = 8) -> InstanceConsoles:
    return InstanceConsoles(lambda: cast(Any, service), Bulkhead(places), PlayedClock(clock or Clock(), lambda: NOW))


# What an instance has written

_harmful = st.sampled_from(["\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\x1b", "\u202e", "\u2028", "\r", "\n", "\x00"])


@given(st.lists(st.text(max_size=20) | _harmful).map("".join))
def test_no_line_contains_a_character_that_controls_a_terminal_or_reorders_text(text: str) -> None:
    as_json = json.dumps({"message": text, "exception": text, text: text, "at": text, "level": text})
    for line in (*console_lines(text), parse_line(as_json), parse_line(f"[  3.2] python[7]: {as_json}")):
        parts = [line.text, line.level, line.message or "", *line.exception.split("\n"), *line.fields]
        for part in (*parts, *line.fields.values()):
            assert not {unicodedata.category(each) for each in part} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[1;31mfailed\x1b[0m", "failed"),
        ("\x1b]0;title\x07ready", "ready"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]never ended, yet shown", "never ended, yet shown"),
        ("\x9b2Jcleared", "cleared"),
        ("a\tb", "a    b"),
        ("user\u202eexe.gpj", "userexe.gpj"),
        ("naïve 日本 🚦", "naïve 日本 🚦"),
    ],
)
def test_a_line_is_shown_without_its_escape_sequences(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_the_lines_are_those_that_end_with_any_line_end_and_the_newest_are_kept() -> None:
    assert [line.text for line in console_lines("a\r\nb\r\r\nc\rd\n\ne")] == ["a", "b", "c", "d", "", "e"]
    assert console_lines("") == ()
    many = console_lines("".join(f"{number}\n" for number in range(MAX_LINES + 7)))
    assert (len(many), many[0].text, many[-1].text) == (MAX_LINES, "7", str(MAX_LINES + 6))
    long = console_lines("x" * (2 * MAX_CHARACTERS))
    assert [len(line.text) for line in long] == [MAX_LINE_CHARACTERS + len(" … (61,536 more characters)")]


def test_a_line_of_json_has_its_parts_also_behind_the_prefix_of_systemd() -> None:
    for prefix in ("", "[   12.345678] python[512]: "):
        line = parse_line(prefix + json.dumps(LINE))
        assert (line.at, line.level, line.message) == (
            datetime(2026, 11, 25, 12, 3, 22, 123_000, UTC), "warning", "a step failed",
        )  # fmt: skip
        assert line.fields == {"image": "01KA", "tries": "2", "of": '{"a": [1, null]}'}
        assert line.text == prefix + json.dumps(LINE)
    failed = parse_line(json.dumps({**LINE, "exception": "Traceback:\n  File x\nValueError: \x1b[31mno"}))
    assert failed.exception == "Traceback:\n  File x\nValueError: no"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "{}", "[1]", "null", '{"message": 5}', '{"message": null}', '{"at": "now"}', "kernel: {panic}"),
        '{"a":' * 20_000,
        '{"message": "x", "n": ' + "9" * 5_000 + "}",
        '{"message": "x"} and more',
    ],
)
def test_any_other_line_is_shown_as_it_is(text: str) -> None:
    line = parse_line(text)
    assert (line.message, line.text[:20], line.fields) == (None, text[:20], {})


@pytest.mark.parametrize("at", [5, "soon", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", None])
def test_a_line_of_json_with_an_invalid_time_has_none(at: object) -> None:
    assert (parse_line(json.dumps({**LINE, "at": at})).at, parse_line(json.dumps(LINE)).message) == (
        None, "a step failed",
    )  # fmt: skip


def test_the_fields_of_a_line_are_bounded() -> None:
    line = parse_line(json.dumps({"message": "m", **{f"field {number}" * 99: "x" for number in range(999)}}))
    assert len(line.fields) <= MAX_FIELDS
    assert max(map(len, line.fields)) <= 40


# Calls of EC2


def test_ec2_is_called_once_in_five_seconds_for_an_instance_also_when_it_refuses() -> None:
    service, clock = ConsoleService(), Clock()
    consoles = consoles_of(service, clock)
    for _ in range(3):
        assert consoles.read(running()).lines[0].text == "up"
    assert service.calls == [RUNNING]
    clock.now += FRESH_SECONDS
    service.error = refusal("RequestLimitExceeded", "GetConsoleOutput")
    for _ in range(3):
        with pytest.raises(ConsoleUnavailableError, match="throttles"):
            consoles.read(running())
    assert service.calls == [RUNNING] * 2
    clock.now += FRESH_SECONDS
    service.error = None
    assert consoles.read(running()).is_latest
    consoles.read(running("i-another"))
    assert service.calls == [RUNNING] * 3 + ["i-another"]


def test_a_process_keeps_a_bounded_number_of_consoles() -> None:
    service = ConsoleService()
    consoles = consoles_of(service)
    for number in range(MAX_KEPT + 1):
        consoles.read(running(f"i-{number}"))
    consoles.read(running(f"i-{MAX_KEPT}"))
    assert len(service.calls) == MAX_KEPT + 1
    consoles.read(running("i-0"))
    assert len(service.calls) == MAX_KEPT + 2


@pytest.mark.parametrize(("places", "wait_seconds"), [(8, 0.01), (1, DEADLINE_SECONDS)], ids=["time", "number"])
def test_one_call_is_made_at_a_time_and_others_wait_in_bounded_number_and_time(
    places: int, wait_seconds: float
) -> None:
    service = ConsoleService()
    consoles = consoles_of(service, places=places)

    def read_another_meanwhile() -> None:
        with ThreadPoolExecutor(1) as pool, pytest.raises(ConsoleUnavailableError, match="others read consoles"):
            pool.submit(consoles.read, running("i-another"), "", wait_seconds).result(DEADLINE_SECONDS / 2)

    service.reached = read_another_meanwhile
    consoles.read(running())
    assert service.calls == [RUNNING]
    service.reached = lambda: None
    assert consoles.read(running("i-another")).is_latest, "its place is free again"


def test_a_fresh_console_waits_for_no_call_and_needs_no_place() -> None:
    service = ConsoleService()
    consoles = consoles_of(service, places=1)
    consoles.read(running())
    found: list[InstanceConsole] = []

    def read_the_fresh_one_meanwhile() -> None:
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(consoles.read, running(), "", 0.01).result(DEADLINE_SECONDS))

    service.reached = read_the_fresh_one_meanwhile
    consoles.read(running("i-another"))
    assert [console.lines[0].text for console in found] == ["up"]
    assert service.calls == [RUNNING, "i-another"]


def test_threads_that_wait_for_the_same_console_share_one_call() -> None:
    service = ConsoleService()
    consoles = consoles_of(service)
    with ThreadPoolExecutor(2) as pool:
        waiting: list[Future[InstanceConsole]] = []

        def wait_for_the_same_one() -> None:
            waiting.append(pool.submit(consoles.read, running()))
            wait_until(lambda: waiting[0].running() or waiting[0].done(), "the second thread has begun")

        service.reached = wait_for_the_same_one
        first = consoles.read(running())
        assert waiting[0].result(DEADLINE_SECONDS) is first
    assert service.calls == [RUNNING]


@pytest.mark.parametrize(
    ("error", "instance", "kind", "words"),
    [
        (refusal("InvalidInstanceID.NotFound", "x"), ended(), NotFoundError, "any more"),
        (refusal("UnauthorizedOperation", "x"), ended(), NotFoundError, "any more"),
        (refusal("UnauthorizedOperation", "x"), running(), ConsoleUnavailableError, "needs ec2:GetConsoleOutput"),
        (refusal("InternalError", "x"), running(), ConsoleUnavailableError, "InternalError"),
        (EndpointConnectionError(endpoint_url="ec2"), running(), ConsoleUnavailableError, "EndpointConnectionError"),
    ],
)
def test_a_refusal_of_ec2_says_what_it_means(
    error: ClientError, instance: FleetInstance | EndedInstance, kind: type[Exception], words: str
) -> None:
    service = ConsoleService()
    service.error = error
    with pytest.raises(kind, match=words):
        consoles_of(service).read(instance)


def test_a_type_without_the_latest_output_has_that_of_its_last_change_of_state() -> None:
    service = ConsoleService()
    service.has_latest = False
    console = consoles_of(service).read(running())
    assert (console.is_latest, [line.text for line in console.lines]) == (False, ["up"])


# The page and the API


@pytest.fixture
def fleet(table: Table) -> FleetStore:
    """The fleet's items, with a running instance and one that has ended."""
    store = FleetStore(table)
    store.put_instances(FleetInstances(total=1, instances=(running(),)))
    store.put_ended(EndedInstances(instances=(ended(at=datetime.now(UTC)),)))
    return store


@pytest.fixture
def service(app: Flask) -> ConsoleService:
    """EC2 as the web tier calls it."""
    service = ConsoleService()
    app.extensions[EXTENSION] = consoles_of(service)
    return service


@pytest.fixture
def app(make_app: AppMaker) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


EVIL = '<script>alert(1)</script>"&\x1b[31m'


def test_the_page_shows_lines_with_their_fields_folded_and_escapes_them(
    client: FlaskClient, fleet: FleetStore, service: ConsoleService
) -> None:
    service.text = f"booting {EVIL}\r\n{json.dumps({**LINE, 'message': EVIL, 'image': EVIL, 'exception': EVIL})}\r\n"
    page = client.get(f"/fleet/instances/{RUNNING}/console").text
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&#34;&amp;") == 4
    assert '<span class="level warning">warning</span>' in page
    assert "12:03:22.123</time>" in page
    assert "2 lines, newest last" in page
    assert re.search(r"<details><summary><time.*?</summary> <span class=\"quiet\">image=", page, re.DOTALL)
    assert client.get(f"/fleet/instances/{RUNNING}/console").text == page
    assert service.calls == [RUNNING], "both are of one call"


def test_an_instance_that_ended_an_hour_ago_is_not_shown(client: FlaskClient, fleet: FleetStore) -> None:
    fleet.put_ended(EndedInstances(instances=(ended(at=datetime.now(UTC) - ENDED_LISTED - timedelta(seconds=1)),)))
    assert fleet_shown(client).ended == ()
    assert ENDED not in client.get("/fleet").text


def test_the_api_returns_the_lines_with_their_parts(
    client: FlaskClient, fleet: FleetStore, service: ConsoleService
) -> None:
    service.text = f"booting\n{json.dumps(LINE)}\n"
    service.has_latest = False
    body = client.get(f"/api/v1/fleet/instances/{ENDED}/console").get_json()
    assert (body["instance_id"], body["is_latest"]) == (ENDED, False)
    assert [(line["text"][:7], line["message"]) for line in body["lines"]] == [
        ("booting", None), ('{"at": ', "a step failed"),
    ]  # fmt: skip
    assert body["lines"][1]["fields"]["tries"] == "2"
    assert "Nitro System" in client.get(f"/fleet/instances/{ENDED}/console").text


@pytest.mark.parametrize("instance_id", [FOREIGN, "i-none", "%3Cb%3E", RUNNING.upper(), f"{RUNNING}%0a"])
def test_the_console_of_an_instance_that_is_not_of_this_fleet_is_never_read(
    client: FlaskClient, fleet: FleetStore, service: ConsoleService, instance_id: str
) -> None:
    fleet.put_instances(FleetInstances(total=150, instances=(running(),)))  # of which some are not listed
    assert "the fleet has no instance" in problem(client.get(f"/api/v1/fleet/instances/{instance_id}/console"), 404)
    assert client.get(f"/fleet/instances/{instance_id}/console").status_code == 404
    assert service.calls == []


def test_an_empty_console_and_a_throttled_one_say_so(
    client: FlaskClient, fleet: FleetStore, service: ConsoleService
) -> None:
    service.text = ""
    assert "The console is empty." in client.get(f"/fleet/instances/{RUNNING}/console").text
    service.error = refusal("RequestLimitExceeded", "GetConsoleOutput")
    answer = client.get(f"/api/v1/fleet/instances/{ENDED}/console")
    assert "EC2 throttles the account just now" in problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0
