"""The page of an account: personal tokens are made, shown once, and revoked. Row 42: nothing shows one again."""

import re
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient

from services.table import Table
from tests.conftest import ConfigMaker
from tests.integration.web_tier.pages.accounts_stage import SAME_SITE, MemoryPool, Person, access_by, signed_in
from web_tier.app import create_app

ADA, OPS = "ada@example.org", "ops@example.org"
TOKEN = re.compile(r'value="(fst_[\w-]{43})"')


@pytest.fixture
def app(make_config: ConfigMaker, table: Table) -> Flask:
    """The web tier, to which Ada and an operator sign in."""
    pool = MemoryPool({ADA: Person(), OPS: Person(groups=frozenset({"operators"}))})
    return create_app(make_config(auth={"mode": "cognito"}), auth=access_by(pool, table))


def wish(client: FlaskClient, **fields: object) -> tuple[int, str]:
    """Send the form that makes a token; return the status and the page."""
    token = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/account").text)
    assert token is not None
    asked = {"name": "nightly", "scopes": ["classify", "read"], "days": "30", "csrf_token": token[1]}
    answer = client.post("/account/tokens", data={**asked, **fields}, headers=SAME_SITE)
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, unescape(answer.text)


def test_a_token_is_shown_when_it_is_made_and_never_again(app: Flask) -> None:
    client = signed_in(app, ADA)
    status, page = wish(client, name="<b>nightly</b>")
    made = TOKEN.search(page)
    assert status == 201
    assert made is not None
    later = client.get("/account").text
    assert made[1] not in later
    assert "<bdi>&lt;b&gt;nightly&lt;/b&gt;</bdi>" in later
    assert "classify, read" in later
    api = app.test_client()
    assert api.get("/api/v1/jobs", headers={"Authorization": f"Bearer {made[1]}"}).status_code == 200


def test_the_page_says_what_may_still_be_sent_today(app: Flask) -> None:
    assert "<dt>Left today</dt><dd>100,000 images, 50 GB</dd>" in signed_in(app, ADA).get("/account").text


def test_a_revoked_token_is_gone_from_the_page_and_opens_nothing(app: Flask) -> None:
    client = signed_in(app, ADA)
    _, page = wish(client)
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
    _, page = wish(ada)
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
def test_what_is_wrong_with_a_wish_is_told_and_the_wish_stays(
    app: Flask, fields: dict[str, object], words: str
) -> None:
    client = signed_in(app, ADA)
    status, page = wish(client, **{"name": "mine", **fields})
    alert = re.search(r'role="alert"[^>]*>([^<]*)<', page)
    assert status == 422
    assert alert is not None
    assert words in alert[1]
    assert f'name="name" value="{fields.get("name", "mine")}"' in page
    assert f'name="days" value="{fields.get("days", "30")}"' in page
    assert not TOKEN.search(page)
    assert "<table" not in client.get("/account").text


def test_only_operators_are_offered_tokens_that_operate(app: Flask) -> None:
    client = signed_in(app, ADA)
    assert 'value="operate"' not in client.get("/account").text
    client = signed_in(app, OPS)
    assert 'value="operate"' in client.get("/account").text
    _, page = wish(client, scopes=["operate"])
    made = TOKEN.search(page)
    assert made is not None
    assert app.test_client().get("/api/v1/fleet/instances", headers={"Authorization": made[1]}).status_code == 200


def test_a_form_without_the_sessions_token_makes_none(app: Flask) -> None:
    client = signed_in(app, ADA)
    assert wish(client, csrf_token="made.up")[0] == 403
    assert "<table" not in client.get("/account").text
