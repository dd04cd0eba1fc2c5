"""The upload page for people who sign in: whose form it was is told before a file is read (row 38)."""

import io
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from services.clients import Clients
from services.table import Table
from tests.conftest import ConfigMaker
from tests.integration.web_tier.pages.accounts_stage import SAME_SITE, MemoryPool, Person, access_by, signed_in
from tests.support.pictures import picture
from web_tier.app import create_app

ADA = "ada@example.org"


@pytest.fixture
def app(make_config: ConfigMaker, provisioned: Clients, table: Table) -> Flask:
    """The web tier, to which Ada signs in."""
    return create_app(make_config(auth={"mode": "cognito"}), auth=access_by(MemoryPool({ADA: Person()}), table))


def upload(client: FlaskClient, token: str | None) -> TestResponse:
    """Send the form with one image, and the token where a browser does: before the file."""
    fields = {} if token is None else {"csrf_token": token}
    form = {**fields, "name": "mine", "images": (io.BytesIO(picture()), "a.jpg")}
    return client.post("/", data=form, headers=SAME_SITE)


def token_on(page: str) -> str:
    form = page[page.index('<form id="upload"') : page.index('type="file"')]
    found = re.search(r'name="csrf_token" value="([^"]+)"', form)
    assert found is not None
    return found[1]


def test_the_form_of_ones_own_session_is_taken(app: Flask) -> None:
    client = signed_in(app, ADA)
    answer = upload(client, token_on(client.get("/").text))
    assert answer.status_code == 303
    assert client.get(answer.headers["Location"]).status_code == 200


@pytest.mark.parametrize("token", [None, "", "made.up"])
def test_a_form_from_before_the_sign_in_takes_nothing_and_is_shown_anew(app: Flask, token: str | None) -> None:
    client = signed_in(app, ADA)
    answer = upload(client, token)
    assert answer.status_code == 403
    assert "opened before you signed in" in answer.text
    assert upload(client, token_on(answer.text)).status_code == 303
    assert client.get("/jobs").text.count("<td><a href=") == 1


def test_a_strangers_form_is_refused_with_a_way_to_sign_in(app: Flask) -> None:
    answer = upload(app.test_client(), None)
    assert answer.status_code == 401
    assert "You are not signed in, or not any more, so nothing was changed." in answer.text
    assert 'href="/sign-in"' in answer.text
