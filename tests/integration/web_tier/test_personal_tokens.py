"""Personal tokens, on the account page and by the API: created, listed, revoked."""

import re
from datetime import timedelta
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient

from core.config import Config
from services.accounts import OPERATORS
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.accounts import SAME_SITE, MemoryPool, Person, access_by, signed_in
from tests.support.jobs import UNKNOWN_ID
from tests.support.people import BEGIN, BROWSER, Clock, House, PlayedPool, access_of
from web_tier.app import create_app

ADA, OPS = "ada@example.org", "ops@example.org"
TOKEN = re.compile(r'value="(fst_[\w-]{43})"')


@pytest.fixture
def app(make_config: ConfigMaker, table: Table) -> Flask:
    """A web tier with sign-in and the accounts of Ada and of an operator."""
    pool = MemoryPool({ADA: Person(), OPS: Person(groups=frozenset({"operators"}))})
    return create_app(make_config(auth={"mode": "cognito"}), auth=access_by(pool, table))


def send_token_form(client: FlaskClient, **fields: object) -> tuple[int, str]:
    """Send the form that creates a token; return the status and the page."""
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/account").text)
    assert token is not None
    fields_sent = {"name": "nightly", "scopes": ["classify", "read"], "days": "30", "csrf_token": token[1]}
    answer = client.post("/account/tokens", data={**fields_sent, **fields}, headers=SAME_SITE)
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, unescape(answer.text)


def test_a_token_is_shown_once_after_its_creation(app: Flask) -> None:
    client = signed_in(app, ADA)
    status, page = send_token_form(client, name="<b>nightly</b>")
    made = TOKEN.search(page)
    assert status == 201
    assert made is not None
    later = client.get("/account").text
    assert made[1] not in later
    assert "<bdi>&lt;b&gt;nightly&lt;/b&gt;</bdi>" in later
    assert "classify, read" in later
    api = app.test_client()
    assert api.get("/api/v1/jobs", headers={"Authorization": f"Bearer {made[1]}"}).status_code == 200


def test_the_account_page_shows_what_is_left_of_quotas(app: Flask) -> None:
    assert "<dt>Left today</dt><dd>100,000 images, 50 GB</dd>" in signed_in(app, ADA).get("/account").text


def test_a_revoked_token_is_not_listed_and_not_accepted(app: Flask) -> None:
    client = signed_in(app, ADA)
    _, page = send_token_form(client)
    made = TOKEN.search(page)
    assert made is not None
    form = re.search(r'action="(/account/tokens/\w+/revoke)"><input[^>]* value="([^"]+)"', page)
    assert form is not None
    answer = client.post(form[1], data={"csrf_token": form[2]}, headers=SAME_SITE)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/account")
    assert "nightly</bdi>" not in client.get("/account").text
    assert app.test_client().get("/api/v1/jobs", headers={"Authorization": made[1]}).status_code == 401


def test_a_token_of_another_user_cannot_be_revoked(app: Flask) -> None:
    ada = signed_in(app, ADA)
    other = signed_in(app, OPS)
    _, page = send_token_form(ada)
    form = re.search(r'action="(/account/tokens/\w+/revoke)"', page)
    token = re.search(r'name="csrf_token" value="([^"]+)"', other.get("/account").text)
    assert form is not None
    assert token is not None
    assert other.post(form[1], data={"csrf_token": token[1]}, headers=SAME_SITE).status_code == 404
    assert "nightly" in ada.get("/account").text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": " "}, "Give the token a name"),
        ({"scopes": []}, "Choose at least one thing"),
        ({"scopes": ["operate"]}, "Choose at least one thing"),
        ({"scopes": ["everything"]}, "Choose at least one thing"),
        ({"days": "366"}, "after 1 to 365 days, not after 366"),
        ({"days": "soon"}, "a whole number from 1 to 365"),
        ({"days": "-1"}, "a whole number from 1 to 365"),
    ],
)
def test_an_invalid_token_form_gets_an_error_and_stays_filled(
    app: Flask, fields: dict[str, object], words: str
) -> None:
    client = signed_in(app, ADA)
    status, page = send_token_form(client, **{"name": "mine", **fields})
    alert = re.search(r'role="alert"[^>]*>([^<]*)<', page)
    assert status == 422
    assert alert is not None
    assert words in alert[1]
    assert f'name="name" value="{fields.get("name", "mine")}"' in page
    assert f'name="days" value="{fields.get("days", "30")}"' in page
    assert not TOKEN.search(page)
    assert "<table" not in client.get("/account").text


def test_the_operate_scope_is_offered_to_operators_only(app: Flask) -> None:
    client = signed_in(app, ADA)
    assert 'value="operate"' not in client.get("/account").text
    client = signed_in(app, OPS)
    assert 'value="operate"' in client.get("/account").text
    _, page = send_token_form(client, scopes=["operate"])
    made = TOKEN.search(page)
    assert made is not None
    assert app.test_client().get("/api/v1/fleet/instances", headers={"Authorization": made[1]}).status_code == 200


def test_a_token_form_without_csrf_token_is_rejected(app: Flask) -> None:
    client = signed_in(app, ADA)
    assert send_token_form(client, csrf_token="made.up")[0] == 403
    assert "<table" not in client.get("/account").text


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


def test_a_created_token_authenticates_its_user(house: House, browser: FlaskClient) -> None:
    answer = browser.post(PATH, json=WANTED, headers=BROWSER)
    made = answer.get_json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{PATH}/{made['token_id']}"
    assert (made["name"], made["scopes"]) == ("nightly", ["classify", "read"])
    assert made["expires_at"] == (BEGIN + timedelta(days=30)).isoformat().replace("+00:00", "Z")
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert house.stranger().post("/api/v1/jobs", headers=headers).status_code == 201


def test_the_text_of_a_token_is_returned_only_once(browser: FlaskClient) -> None:
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    listed = browser.get(PATH)
    [token] = listed.get_json()["tokens"]
    assert token == {name: value for name, value in made.items() if name != "token"}
    assert made["token"] not in listed.text


def test_a_revoked_token_is_rejected_by_the_api(house: House, browser: FlaskClient) -> None:
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    assert browser.delete(f"{PATH}/{made['token_id']}", headers=BROWSER).status_code == 204
    headers = {"Authorization": made["token"]}
    assert house.stranger().get("/api/v1/jobs", headers=headers).status_code == 401
    assert browser.get(PATH).get_json() == {"tokens": []}


def test_row_40_a_user_cannot_list_or_revoke_the_token_of_another(house: House, browser: FlaskClient) -> None:
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    other = house.signed_in("eve")
    assert other.get(PATH).get_json() == {"tokens": []}
    theirs = other.delete(f"{PATH}/{made['token_id']}", headers=BROWSER)
    none = other.delete(f"{PATH}/{UNKNOWN_ID}", headers=BROWSER)
    assert theirs.status_code == none.status_code == 404
    assert theirs.get_json()["detail"].replace(made["token_id"], UNKNOWN_ID) == none.get_json()["detail"]
    assert len(browser.get(PATH).get_json()["tokens"]) == 1


def test_a_pool_token_can_create_tokens_and_a_personal_token_cannot(house: House) -> None:
    house.pool.add("ada")
    program = house.stranger()
    assert program.post(PATH, json=WANTED, headers={"Authorization": "id.ada.1"}).status_code == 201
    personal = house.with_token("ada", "classify", "read", "operate")
    assert program.post(PATH, json=WANTED, headers=personal).status_code == 403
    assert program.get(PATH, headers=personal).status_code == 403


def test_only_operators_create_tokens_with_the_operate_scope(house: House, browser: FlaskClient) -> None:
    wanted = WANTED | {"scopes": ["operate"]}
    assert browser.post(PATH, json=wanted, headers=BROWSER).status_code == 403
    house.pool.add("ops", OPERATORS)
    assert house.signed_in("ops").post(PATH, json=wanted, headers=BROWSER).status_code == 201


def test_an_invalid_token_request_gets_422(browser: FlaskClient) -> None:
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
