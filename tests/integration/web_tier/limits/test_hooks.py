"""Which requests count, and for whom."""

import json
import time
from collections.abc import Mapping

import pytest
from flask import Response
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services.clients import Clients
from services.table import Table
from tests.conftest import ConfigMaker
from tests.integration.web_tier.limits.conftest import SMALL, HouseMaker
from tests.support.people import BROWSER, RIGHT_PASSWORD, House, keep
from tests.support.pictures import picture
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.access.access import COOKIE
from web_tier.app import create_app
from web_tier.limits import table_storage
from web_tier.pages.sign_in import CHALLENGE

HERE, ELSEWHERE = {"REMOTE_ADDR": "203.0.113.1"}, {"REMOTE_ADDR": "203.0.113.2"}


def statuses(
    client: FlaskClient, path: str, times: int, where: Mapping[str, str] = HERE, **more: object
) -> list[int]:
    """Ask several times for the same; return the statuses."""
    return [client.get(path, environ_base=where, **more).status_code for _ in range(times)]


def try_to(browser: FlaskClient, do: str, email: str, where: Mapping[str, str] = HERE) -> TestResponse:
    """Send the form of the page called `do` with a wrong password."""
    fields = {"email": email, "password": "wrong", "code": "123456"}
    return browser.post(f"/{do}", data=fields, headers=BROWSER, environ_base=dict(where))


def test_a_stranger_has_so_many_requests_a_minute_from_an_address(make_house: HouseMaker) -> None:
    stranger = make_house().stranger()
    assert statuses(stranger, "/api/v1", 4) == [200, 200, 200, 429]
    assert statuses(stranger, "/api/v1", 1, ELSEWHERE) == [200]
    # Also for what is refused anyway, and what is not there.
    assert statuses(stranger, "/api/v1/jobs", 4, {"REMOTE_ADDR": "203.0.113.3"}) == [401, 401, 401, 429]
    assert statuses(stranger, "/api/v1/nowhere", 4, {"REMOTE_ADDR": "203.0.113.4"}) == [404, 404, 404, 429]


def test_users_at_one_address_have_their_own_and_a_user_has_the_same_at_every_address(make_house: HouseMaker) -> None:
    house = make_house()
    ann, bob = house.signed_in("ann"), house.signed_in("bob")
    assert statuses(ann, "/api/v1/jobs", 2) == [200, 200]
    assert statuses(ann, "/api/v1/jobs", 2, ELSEWHERE) == [200, 429]
    assert statuses(bob, "/api/v1/jobs", 3) == [200, 200, 200]
    token = house.with_token("cleo", "read")
    assert statuses(house.stranger(), "/api/v1/jobs", 4, headers=token) == [200, 200, 200, 429]


def test_strangers_who_flood_keep_no_user_of_their_address_out(make_house: HouseMaker) -> None:
    house = make_house()
    assert statuses(house.stranger(), "/api/v1", 9)[-1] == 429
    assert statuses(house.signed_in("ann"), "/api/v1/jobs", 1) == [200]


def test_a_refusal_says_when_to_come_again_and_is_a_problem(make_house: HouseMaker) -> None:
    stranger = make_house().stranger()
    statuses(stranger, "/api/v1", 3)
    answer = stranger.get("/api/v1", environ_base=HERE)
    assert (answer.status_code, answer.content_type) == (429, "application/problem+json")
    body = json.loads(answer.data)
    assert body["type"] == "urn:fleetsight:problem:too-many-requests"
    assert f"wait for {answer.headers['Retry-After']} s" in body["detail"]
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    page = stranger.get("/sign-in", environ_base=HERE)
    assert page.status_code == 429
    assert page.headers["Retry-After"] in page.text


def test_a_classic_client_is_told_in_plain_text(make_house: HouseMaker) -> None:
    stranger = make_house().stranger()
    statuses(stranger, "/api/v1", 3)
    answer = stranger.post("/classify-image", environ_base=HERE, data={})
    assert (answer.status_code, answer.mimetype) == (429, "text/plain")
    assert f"wait for {answer.headers['Retry-After']} s" in answer.text


def test_static_files_and_health_are_not_counted(make_house: HouseMaker) -> None:
    stranger = make_house().stranger()
    for path in ("/static/fleetsight.css", "/healthz", "/readyz", "/api/v1/healthz"):
        assert statuses(stranger, path, 5, buffered=True) == [200] * 5
    assert statuses(stranger, "/api/v1", 1) == [200]


@pytest.mark.parametrize("do", ["sign-in", "sign-up", "forgot", "reset"])
def test_an_address_may_try_passwords_and_codes_so_often(make_house: HouseMaker, do: str) -> None:
    house = make_house(requests_per_minute=0)
    tries = [try_to(house.stranger(), do, f"{number}@example.org").status_code for number in range(5)]
    assert (tries[:4].count(429), tries[4]) == (0, 429)
    assert statuses(house.stranger(), "/sign-in", 9) == [200] * 9


def signs_in(browser: FlaskClient, email: str, where: Mapping[str, str] = HERE) -> int:
    """Send the sign-in form with the right password; return the status."""
    fields = {"email": email, "password": RIGHT_PASSWORD}
    return browser.post(
        "/sign-in", data=fields, headers=BROWSER, environ_base=dict(where), base_url="https://localhost"
    ).status_code


def places(count: int, net: int = 0) -> list[dict[str, str]]:
    """Return so many addresses."""
    return [{"REMOTE_ADDR": f"198.51.{net}.{number}"} for number in range(count)]


def test_s10_an_account_has_few_attempts_from_everywhere_then_one_from_each_address(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0)
    house.pool.add("ann")
    tries = [try_to(house.stranger(), "sign-in", "Ann@example.org ", where).status_code for where in places(3) * 2]
    # Two attempts, then one from each address.
    assert tries == [401] * (2 + 3) + [429]
    assert signs_in(house.stranger(), "ann@example.org", ELSEWHERE) == 303, "its owner is not locked out"
    assert try_to(house.stranger(), "sign-in", "bob@example.org", ELSEWHERE).status_code == 401


def test_s10_guessed_passwords_do_not_stop_a_forgotten_one(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0, sign_in_attempts_per_minute=6)
    house.pool.add("ann")
    tries = [try_to(house.stranger(), "sign-in", "ann@example.org").status_code for _ in range(5)]
    assert tries[3:] == [401, 429], "three attempts on the account, and one more from this address"
    assert try_to(house.stranger(), "forgot", "ann@example.org").status_code == 200


def test_s10_strangers_guesses_do_not_stop_a_device_that_has_signed_in_before(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0)
    house.pool.add("ann")
    house.pool.add("bob")
    known = house.stranger()
    assert signs_in(known, "ann@example.org") == 303
    for where in [HERE, *places(9)]:
        for _ in range(4):
            try_to(house.stranger(), "sign-in", "ann@example.org", where)
    assert signs_in(house.stranger(), "ann@example.org") == 429
    assert signs_in(known, "ann@example.org") == 303
    assert signs_in(known, "bob@example.org") == 429, "the device is one of ann's only"
    tries = [try_to(known, "sign-in", "ann@example.org").status_code for _ in range(5)]
    assert (tries[0], tries[-1]) == (401, 429), "it may not guess for ever either"


def test_s10_attempts_that_succeed_are_not_counted(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0)
    for name in ("ann", "bob", "cleo"):
        house.pool.add(name)
        assert [signs_in(house.stranger(), f"{name}@example.org") for _ in range(5)] == [303] * 5


@pytest.mark.parametrize("header", ["Bearer fst_" + "x" * 43, "Bearer forged", "nonsense of no form"])
def test_s10_invalid_tokens_stop_strangers_of_their_address_and_no_valid_token(
    make_house: HouseMaker, header: str
) -> None:
    house = make_house()
    forged, valid = {"Authorization": header}, house.with_token("ann", "read")
    assert statuses(house.stranger(), "/api/v1/jobs", 5, headers=forged) == [401] * 3 + [429] * 2
    assert statuses(house.stranger(), "/api/v1", 1) == [429]
    assert statuses(house.stranger(), "/api/v1/jobs", 1, headers=valid) == [200]
    assert statuses(house.signed_in("bob"), "/api/v1/jobs", 1) == [200]
    assert statuses(house.stranger(), "/api/v1/jobs", 1, ELSEWHERE, headers=forged) == [401]


def test_a_forged_session_is_no_way_around_the_limit_of_an_address(make_house: HouseMaker) -> None:
    forger = make_house().stranger()
    forger.set_cookie(COOKIE, "forged", secure=True)
    https = "https://localhost"
    assert statuses(forger, "/jobs", 4, base_url=https) == [303, 303, 303, 429]


def test_requests_are_counted_in_the_table_where_the_processes_share_it(
    make_house: HouseMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_storage, "WAIT_SECONDS", DEADLINE_SECONDS)
    later = int(time.time() // 60 + 2) * 60
    monkeypatch.setattr(table_storage.TableStorage, "_ends", lambda *_: later)  # so the minute does not end meanwhile
    one, other = make_house(store="table"), make_house(store="table")
    found = [statuses(house.stranger(), "/api/v1", 1)[0] for house in (one, other, one, other)]
    assert found == [200, 200, 200, 429]


def test_where_nobody_signs_in_the_address_counts_once_the_page_is_open(
    provisioned: Clients, make_config: ConfigMaker
) -> None:
    client = create_app(make_config(auth={"open": True}, limits=SMALL)).test_client()
    assert statuses(client, "/api/v1/jobs", 4) == [200, 200, 200, 429]
    assert statuses(client, "/api/v1/jobs", 1, ELSEWHERE) == [200]


@pytest.mark.usefixtures("provisioned")
def test_whoever_is_alone_on_one_machine_has_no_limits_and_nothing_is_counted(
    table: Table, make_config: ConfigMaker
) -> None:
    config = make_config(limits=SMALL | {"store": "table"})
    client = create_app(config).test_client()
    assert statuses(client, "/api/v1/jobs", 9) == [200] * 9
    for number in range(5):
        sent = {"data": picture(shade=number), "content_type": "image/jpeg"}
        assert client.post("/api/v1/classify?wait=0", **sent).status_code == 202
    assert set(client.get("/api/v1/limits").get_json().values()) == {None}
    items = table.client.scan(TableName=table.name)["Items"]
    assert items
    assert not [item for item in items if item["pk"]["S"].startswith(("RATE#", "QUOTA#"))]


def challenge_of(house: House, email: str) -> str:
    """Return what the browser keeps of a sign-in of which the password was right."""
    return house.access.sessions.keys.seal(CHALLENGE, email, "session")


def test_codes_of_a_second_factor_are_few_in_an_hour_from_wherever_they_come(make_house: HouseMaker) -> None:
    """Whoever has the password may not guess the code, with however many addresses."""
    house = make_house(requests_per_minute=0)
    challenge = challenge_of(house, " Ann@example.org")
    answers = [try_a_code(house, challenge, where) for where in places(9)]
    assert [answer.status_code for answer in answers] == [401, 401] + [429] * 7
    assert "more than 2 codes came in an hour" in answers[-1].text
    assert try_a_code(house, challenge_of(house, "bob@example.org"), HERE).status_code == 401


@pytest.mark.parametrize(("second_factor", "status"), [(True, 401), (False, 429)])
def test_only_a_device_that_gave_a_code_before_has_codes_of_its_own(
    make_house: HouseMaker, second_factor: bool, status: int
) -> None:
    house = make_house(requests_per_minute=0)
    house.pool.add("ann")
    browser = house.stranger()
    with house.app.test_request_context("/", base_url="https://localhost"):
        answer = house.access.begin(house.pool.tokens("ann"), Response(), second_factor=second_factor)
    for cookie in answer.headers.getlist("Set-Cookie"):
        keep(browser, cookie)
    challenge = challenge_of(house, "ann@example.org")
    for where in places(9):
        try_a_code(house, challenge, where)
    assert try_a_code(house, challenge, HERE, browser).status_code == status


def test_strangers_without_the_password_use_up_nobodys_codes(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0)
    for where in places(9):
        assert try_a_code(house, "made-up", where, email="ann@example.org").status_code == 401
    assert try_a_code(house, challenge_of(house, "ann@example.org"), ELSEWHERE).status_code == 401
    tries = [try_a_code(house, "made-up", HERE).status_code for _ in range(9)]
    assert tries[-1] == 429, "an address has its own attempts"


def test_the_page_for_recovery_codes_gives_no_more_attempts_at_a_password(make_house: HouseMaker) -> None:
    house = make_house(requests_per_minute=0)
    house.pool.add("ann")
    pages = ["sign-in", "sign-in/recovery"] * 3
    tries = [try_to(house.stranger(), page, "ann@example.org").status_code for page in pages]
    assert tries == [401] * 3 + [429] * 3


def try_a_code(
    house: House, challenge: str, where: Mapping[str, str], browser: FlaskClient | None = None, **fields: str
) -> TestResponse:
    """Send a wrong code."""
    fields |= {"challenge": challenge, "code": "000000"}
    return (browser or house.stranger()).post(
        "/sign-in/code", data=fields, headers=BROWSER, environ_base=dict(where), base_url="https://localhost"
    )
