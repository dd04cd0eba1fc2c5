"""Sign-in as the configuration asks for it: what is missing stops the web tier at start, and is named."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from flask import Response

from core.provision import provision_user_pool
from services.accounts import Accounts
from services.clients import Clients
from services.errors import ConfigError
from services.table import Table
from services.users import NewPasswordRequired, PoolTokens, UserPool
from tests.conftest import ConfigMaker
from web_tier.app import create_app
from web_tier.auth.context import AuthContext, create_auth
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE
from web_tier.auth.sessions import ROTATE_SECONDS
from web_tier.backend import Backend

ADA, PASSWORD = "ada@example.org", "Correct-Horse-7-Battery"
SIGN_IN = {"mode": "cognito", "user_pool_id": "us-east-1_abc123", "client_id": "client"}


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys"
    file.write_text("k" * 32 + "\n")
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(file))
    return file


def test_without_sign_in_the_services_are_unavailable(make_config: ConfigMaker) -> None:
    access = create_auth(Backend(make_config()))
    assert not access.signs_in
    with pytest.raises(LookupError, match="signs_in"):
        assert access.pool


def test_without_a_pool_the_web_tier_does_not_start(make_config: ConfigMaker, keys: Path) -> None:
    with pytest.raises(ConfigError, match=r"auth\.user_pool_id"):
        create_app(make_config(auth={"mode": "cognito"}))


def test_without_keys_the_web_tier_does_not_start(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_FILE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=KEYS_FILE_VARIABLE):
        create_app(make_config(auth=SIGN_IN))


def test_sessions_last_as_long_as_is_configured(make_config: ConfigMaker, keys: Path) -> None:
    access = create_auth(Backend(make_config(auth=SIGN_IN | {"session_idle_minutes": 5, "session_hours": 2})))
    assert access.signs_in
    assert (access.sessions.times.idle, access.sessions.times.longest) == (300, 7_200)


def test_the_services_are_created_once_on_first_use(make_config: ConfigMaker, keys: Path) -> None:
    made = []
    whole = create_auth(Backend(make_config(auth=SIGN_IN)))._services()
    access = AuthContext(lambda: made.append(whole) or whole)  # type: ignore[func-returns-value]
    assert not made
    assert access.pool is whole.pool
    assert access.verifier is whole.verifier
    assert len(made) == 1


def test_a_user_of_a_local_pool_signs_in_stays_and_is_disabled(
    make_config: ConfigMaker, provisioned: Clients, table: Table, keys: Path
) -> None:
    pool_id, client_id = provision_user_pool(provisioned, table.name)
    accounts, pool = Accounts(provisioned.cognito_idp, pool_id), UserPool(provisioned.cognito_idp, pool_id, client_id)
    wanted = pool.sign_in(ADA, accounts.add(ADA))
    assert isinstance(wanted, NewPasswordRequired)
    tokens = pool.set_first_password(ADA, wanted.session, PASSWORD)
    assert isinstance(tokens, PoolTokens)
    auth = {"mode": "cognito", "user_pool_id": pool_id, "client_id": client_id}
    access = create_auth(Backend(make_config(auth=auth)))
    app = create_app(make_config(auth=auth), auth=access)

    with app.test_request_context("/"):
        cookie = access.begin(tokens, Response()).headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    header = {"Authorization": f"Bearer {tokens.access_token}"}
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 200
    later = replace(access.sessions, clock=lambda: time.time() + ROTATE_SECONDS)
    opened = later.open(cookie)
    assert opened is not None
    assert opened.cookie is not None
    assert opened.record.email == ADA
    accounts.set_enabled(ADA, False)
    assert replace(access.sessions, clock=lambda: time.time() + 2 * ROTATE_SECONDS).open(opened.cookie) is None
    assert access.accounts.find(opened.record.owner) is None
