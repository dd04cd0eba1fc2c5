"""Rate limits: which requests count, for which caller, and what happens when counting fails."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from flask.testing import FlaskClient

from core.jobs.store import JobStore
from services.clients import Clients
from services.table import EXPIRES_AT, Table
from tests.conftest import ConfigMaker
from tests.support.clocks import ManualClock
from tests.support.jobs import picture
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import SMALL_LIMITS, SignInSiteMaker
from web_tier.app import create_app
from web_tier.auth.context import COOKIE
from web_tier.http import rate_limits
from web_tier.http.rate_limits import (
    PAUSE_SECONDS,
    ProcessCounts,
    RateCounter,
    TableCounts,
    network_of,
)

HERE, ELSEWHERE = {"REMOTE_ADDR": "203.0.113.1"}, {"REMOTE_ADDR": "203.0.113.2"}


def statuses(
    client: FlaskClient, path: str, times: int, where: Mapping[str, str] = HERE, **more: object
) -> list[int]:
    """Ask several times for the same; return the statuses."""
    return [client.get(path, environ_base=where, **more).status_code for _ in range(times)]


def test_an_anonymous_user_has_so_many_requests_a_minute_from_an_address(make_site: SignInSiteMaker) -> None:
    anonymous = make_site().anonymous()
    assert statuses(anonymous, "/api/v1", 4) == [200, 200, 200, 429]
    assert statuses(anonymous, "/api/v1", 1, ELSEWHERE) == [200]
    # Also for what is refused anyway, and what is not there.
    assert statuses(anonymous, "/api/v1/jobs", 4, {"REMOTE_ADDR": "203.0.113.3"}) == [401, 401, 401, 429]
    assert statuses(anonymous, "/api/v1/nowhere", 4, {"REMOTE_ADDR": "203.0.113.4"}) == [404, 404, 404, 429]


def test_users_at_one_address_have_their_own_limit_and_each_has_it_at_every_address(
    make_site: SignInSiteMaker,
) -> None:
    site = make_site()
    ann, bob = site.signed_in("ann"), site.signed_in("bob")
    assert statuses(ann, "/api/v1/jobs", 2) == [200, 200]
    assert statuses(ann, "/api/v1/jobs", 2, ELSEWHERE) == [200, 429]
    assert statuses(bob, "/api/v1/jobs", 3) == [200, 200, 200]
    token = site.with_token("cleo", "read")
    assert statuses(site.anonymous(), "/api/v1/jobs", 4, headers=token) == [200, 200, 200, 429]


@pytest.mark.usefixtures("provisioned")
def test_row_71_a_body_counts_by_its_size_also_if_it_is_refused(make_site: SignInSiteMaker) -> None:
    site = make_site(requests_per_minute=100)
    token, body = site.with_token("ann", "classify"), b"--b\r\nX: " + b"\\" * 3 * 2**20
    kind = {"content_type": "multipart/form-data; boundary=b", "headers": token, "environ_base": HERE}
    tries = [site.anonymous().post("/api/v1/classify", data=body, **kind).status_code for _ in range(26)]
    assert tries == [413] * 25 + [429]


def test_a_body_of_any_size_counts_for_a_tenth_of_the_limit_at_most(make_site: SignInSiteMaker) -> None:
    anonymous, huge = make_site(requests_per_minute=20).anonymous(), {"CONTENT_LENGTH": str(2**40)}
    assert statuses(anonymous, "/api/v1", 1, HERE | huge) == [200]
    assert statuses(anonymous, "/api/v1", 18) == [200] * 17 + [429]


def test_a_rejection_is_a_problem_with_the_time_to_retry(make_site: SignInSiteMaker) -> None:
    anonymous = make_site().anonymous()
    statuses(anonymous, "/api/v1", 3)
    answer = anonymous.get("/api/v1", environ_base=HERE)
    assert (answer.status_code, answer.content_type) == (429, "application/problem+json")
    body = json.loads(answer.data)
    assert body["type"] == "urn:fleetsight:problem:too-many-requests"
    assert f"wait for {answer.headers['Retry-After']} s" in body["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    page = anonymous.get("/signed-out", environ_base=HERE)
    assert page.status_code == 429
    assert page.headers["Retry-After"] in page.text


@pytest.mark.usefixtures("provisioned")
def test_static_files_and_health_are_not_counted(make_site: SignInSiteMaker) -> None:
    anonymous = make_site().anonymous()
    for path in ("/static/fleetsight.css", "/healthz", "/readyz", "/api/v1/healthz"):
        assert statuses(anonymous, path, 5, buffered=True) == [200] * 5
    assert statuses(anonymous, "/api/v1", 1) == [200]


@pytest.mark.parametrize("header", ["Bearer fst_" + "x" * 43, "Bearer forged", "nonsense of no form"])
def test_s10_invalid_tokens_stop_anonymous_users_of_their_address_and_no_valid_token(
    make_site: SignInSiteMaker, header: str
) -> None:
    site = make_site()
    forged, valid = {"Authorization": header}, site.with_token("ann", "read")
    assert statuses(site.anonymous(), "/api/v1/jobs", 5, headers=forged) == [401] * 3 + [429] * 2
    assert statuses(site.anonymous(), "/api/v1", 1) == [429]
    assert statuses(site.anonymous(), "/api/v1/jobs", 1, headers=valid) == [200]
    assert statuses(site.signed_in("bob"), "/api/v1/jobs", 1) == [200]
    assert statuses(site.anonymous(), "/api/v1/jobs", 1, ELSEWHERE, headers=forged) == [401]


def test_a_forged_session_is_no_way_around_the_limit_of_an_address(make_site: SignInSiteMaker) -> None:
    forger = make_site().anonymous()
    forger.set_cookie(COOKIE, "forged", secure=True)
    https = "https://localhost"
    assert statuses(forger, "/jobs", 4, base_url=https) == [303, 303, 303, 429]


def test_without_sign_in_addresses_count_if_the_page_is_open(provisioned: Clients, make_config: ConfigMaker) -> None:
    client = create_app(make_config(auth={"open": True}, limits=SMALL_LIMITS)).test_client()
    assert statuses(client, "/api/v1/jobs", 4) == [200, 200, 200, 429]
    assert statuses(client, "/api/v1/jobs", 1, ELSEWHERE) == [200]


@pytest.mark.usefixtures("provisioned")
def test_one_machine_without_sign_in_has_no_limits(table: Table, make_config: ConfigMaker) -> None:
    config = make_config(limits=SMALL_LIMITS | {"store": "table"})
    client = create_app(config, store=JobStore(table)).test_client()
    assert statuses(client, "/api/v1/jobs", 9) == [200] * 9
    for number in range(5):
        sent = {"data": picture(shade=number), "content_type": "image/jpeg"}
        assert client.post("/api/v1/classify?wait=0", **sent).status_code == 202
    limits = client.get("/api/v1/limits").get_json()
    assert {name for name, value in limits.items() if value is not None} == {
        *("max_image_bytes", "max_request_bytes", "max_files", "max_files_with_key", "direct_uploads")
    }
    items = cast(MemoryTable, table).items
    assert items
    assert not [pk for pk, _ in items if pk.startswith(("RATE#", "QUOTA#"))]


NOON = 1_772_366_400.0
"""The beginning of a minute, in seconds since the epoch."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON, datetime.fromtimestamp(0, UTC))


@dataclass
class Calls:
    """Counts the calls of a table; while it `is_away`, each of them fails."""

    count: int = 0
    is_away: bool = False

    def __call__(self, _operation: str, effect: Callable[[], Any]) -> Any:
        self.count += 1
        if self.is_away:
            raise EndpointConnectionError(endpoint_url="http://inside")
        return effect()


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def table(calls: Calls) -> Table:
    """The job table, in memory."""
    return MemoryTable(calls)


@pytest.fixture(params=["memory", "table"])
def counts(request: pytest.FixtureRequest, table: Table, clock: ManualClock) -> TableCounts | ProcessCounts:
    """The counts, in each place where they may be."""
    return TableCounts(table, clock) if request.param == "table" else ProcessCounts(clock)


@pytest.mark.parametrize("years", [1, -1])
def test_a_jump_of_the_clock_blocks_no_caller_for_longer_than_a_minute(
    counts: TableCounts | ProcessCounts, calls: Calls, clock: ManualClock, years: int
) -> None:
    counter = RateCounter(counts)
    assert [counter.hit("ann", 1) > 0 for _ in range(2)] == [False, True]
    clock.now += years * 365 * 86_400
    calls.is_away = True
    assert counter.hit("bob", 1) == 0
    calls.is_away = False
    clock.now += PAUSE_SECONDS
    assert [counter.hit("ann", 1) > 0 for _ in range(2)] == [False, True]
    clock.now = NOON + 60
    assert [counter.hit("ann", 1) for _ in range(2)] == [0, 60]


def test_the_counts_in_memory_are_bounded(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_COUNTED", 2)
    counts = ProcessCounts(clock)
    counter = RateCounter(counts)
    keys = [f"{caller}/9" for caller in ("bob", "cleo", "ann")]
    for caller in ("ann", "bob", "ann", "cleo"):
        clock.now += 1
        assert counter.hit(caller, 9) == 0
    assert [counts.add(key, 0)[0] for key in keys] == [1, 1, 0], "the oldest makes room"


def test_a_flood_costs_the_table_nothing(table: Table, clock: ManualClock) -> None:
    counter = RateCounter(TableCounts(table, clock))
    for _ in range(5):
        counter.hit("ann", 2)
    [item] = table.query("RATE#ann/2", "0", "9")
    assert (item["hits"], item["sk"]) == (3, str(int(NOON)))
    assert int(item[EXPIRES_AT]) > NOON + 60


def test_a_failing_table_rejects_and_delays_no_request_and_is_logged_once(
    table: Table, calls: Calls, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls.is_away = True
    counter = RateCounter(TableCounts(table, clock))
    assert [counter.hit("ann", 1) for _ in range(9)] == [0] * 9
    assert calls.count == 1
    clock.now += PAUSE_SECONDS
    counter.hit("ann", 1)
    assert calls.count == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    clock.now, calls.is_away = clock.now + PAUSE_SECONDS, False
    assert counter.hit("ann", 1) == 0
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_the_number_of_blocked_callers_is_bounded(
    table: Table, calls: Calls, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls_of(caller: str) -> int:
        before = calls.count
        assert counter.hit(caller, 1) == 60
        return calls.count - before

    monkeypatch.setattr(rate_limits, "MAX_BLOCKED", 2)
    counter = RateCounter(TableCounts(table, clock))
    for caller in ("ann", "bob", "cleo"):
        assert counter.hit(caller, 1) == 0
        assert calls_of(caller) > 0
    assert [calls_of(caller) > 0 for caller in ("ann", "bob", "cleo")] == [False, False, True]
    clock.now += 60
    assert counter.hit("cleo", 1) == 0
    assert [calls_of("cleo") > 0 for _ in range(2)] == [True, False], "callers make room when their minute has ended"


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("unknown, 203.0.113.9", "unknown"),
    ],
)
def test_an_address_counts_as_the_network_that_one_customer_has(host: str, counted: str) -> None:
    assert network_of(host) == counted
