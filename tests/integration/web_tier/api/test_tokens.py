"""Personal tokens by the API: each user's own, told once, and made by people rather than by other tokens."""

from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from core.config import Config
from services.accounts import OPERATORS
from services.table import Table
from tests.support.jobs import NOBODY
from tests.support.people import BEGIN, BROWSER, Clock, House, PlayedPool, access_of
from web_tier.app import create_app

PATH = "/api/v1/tokens"
WANTED = {"name": "nightly", "scopes": ["read", "classify"], "days": 30}


@pytest.fixture
def house(config: Config, table: Table) -> House:
    pool, clock = PlayedPool(), Clock()
    access = access_of(table, pool, clock)
    return House(create_app(config, auth=access), access, pool, clock)


@pytest.fixture
def browser(house: House) -> FlaskClient:
    return house.signed_in("ada")


def test_a_token_that_was_made_lets_its_user_in(house: House, browser: FlaskClient) -> None:
    answer = browser.post(PATH, json=WANTED, headers=BROWSER)
    made = answer.get_json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{PATH}/{made['token_id']}"
    assert (made["name"], made["scopes"]) == ("nightly", ["classify", "read"])
    assert made["expires_at"] == (BEGIN + timedelta(days=30)).isoformat().replace("+00:00", "Z")
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert house.stranger().post("/api/v1/jobs", headers=headers).status_code == 201


def test_its_text_is_told_only_once(browser: FlaskClient) -> None:
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    listed = browser.get(PATH)
    [token] = listed.get_json()["tokens"]
    assert token == {name: value for name, value in made.items() if name != "token"}
    assert made["token"] not in listed.text


def test_a_revoked_one_lets_nobody_in(house: House, browser: FlaskClient) -> None:
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    assert browser.delete(f"{PATH}/{made['token_id']}", headers=BROWSER).status_code == 204
    headers = {"Authorization": made["token"]}
    assert house.stranger().get("/api/v1/jobs", headers=headers).status_code == 401
    assert browser.get(PATH).get_json() == {"tokens": []}


def test_nobody_sees_or_revokes_the_token_of_another(house: House, browser: FlaskClient) -> None:
    """Row 40."""
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    other = house.signed_in("eve")
    assert other.get(PATH).get_json() == {"tokens": []}
    theirs = other.delete(f"{PATH}/{made['token_id']}", headers=BROWSER)
    none = other.delete(f"{PATH}/{NOBODY}", headers=BROWSER)
    assert theirs.status_code == none.status_code == 404
    assert theirs.get_json()["detail"].replace(made["token_id"], NOBODY) == none.get_json()["detail"]
    assert len(browser.get(PATH).get_json()["tokens"]) == 1


def test_a_token_of_the_pool_makes_tokens_and_a_personal_token_makes_none(house: House) -> None:
    house.pool.add("ada")
    program = house.stranger()
    assert program.post(PATH, json=WANTED, headers={"Authorization": "id.ada.1"}).status_code == 201
    personal = house.with_token("ada", "classify", "read", "operate")
    assert program.post(PATH, json=WANTED, headers=personal).status_code == 403
    assert program.get(PATH, headers=personal).status_code == 403


def test_only_operators_make_tokens_for_the_fleet(house: House, browser: FlaskClient) -> None:
    wanted = WANTED | {"scopes": ["operate"]}
    assert browser.post(PATH, json=wanted, headers=BROWSER).status_code == 403
    house.pool.add("ops", OPERATORS)
    assert house.signed_in("ops").post(PATH, json=wanted, headers=BROWSER).status_code == 201


def test_what_cannot_be_made_is_refused(browser: FlaskClient) -> None:
    faults: tuple[dict[str, object], ...] = (
        {"name": ""},
        {"name": "  "},
        {"name": "x" * 101},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"days": 0},
        {"days": 366},
        {"days": "30"},
        {"owner": "eve"},
    )
    for wrong in faults:
        assert browser.post(PATH, json={**WANTED, **wrong}, headers=BROWSER).status_code == 422, wrong
    assert browser.post(PATH, json={}, headers=BROWSER).status_code == 422
    assert browser.get(PATH).get_json() == {"tokens": []}
