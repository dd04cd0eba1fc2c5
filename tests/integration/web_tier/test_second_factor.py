"""The second factor on the pages: set up, asked for, turned off, recovered, and required (docs/security.md)."""

import re
import time
from html import unescape

import pytest
from flask import Flask
from flask.testing import FlaskClient

from core.credentials import RecoveryCodes, Scope
from core.jobs.store import JobStore
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.clocks import ManualClock
from tests.support.fixtures import AuditLog, memory_table, sign_in_access, sign_in_app, sign_in_config
from tests.support.people import (
    APP_KEY,
    BROWSER,
    CODE,
    PASSWORD,
    MemoryPool,
    Person,
    access_of,
    cookie_of,
    sign_in,
    signed_in,
)
from web_tier.app import create_app
from web_tier.auth.context import COOKIE, AuthServices
from web_tier.auth.session_keys import SessionKeys
from web_tier.http.rate_limits import WINDOW_SECONDS, ProcessCounts, RateCounter, current_limiter
from web_tier.pages.second_factor import SETUP
from web_tier.pages.sign_in import CODE_CHALLENGE

ADA, OPS, SAFE = "ada@example.org", "ops@example.org", "safe@example.org"
PAGE = "/account/second-factor"
WRONG_CODE = "That code is wrong"


@pytest.fixture
def pool() -> MemoryPool:
    """A pool with Ada, an operator, and an account with a second factor."""
    return MemoryPool({ADA: Person(), OPS: Person(groups=frozenset({"operators"})), SAFE: Person(app=True)})


table, config, access, app = memory_table, sign_in_config, sign_in_access, sign_in_app


@pytest.fixture
def strict(make_config: ConfigMaker, pool: MemoryPool, table: Table) -> Flask:
    """A web tier that requires a second factor of operators."""
    config = make_config(auth={"mode": "cognito", "require_second_factor": "operators"})
    return create_app(config, store=JobStore(table), auth=access_of(table, pool))


def send(client: FlaskClient, path: str, **fields: str) -> tuple[int, str]:
    """Send a form of a page; return the status and the text of the answer."""
    answer = client.post(path, data={"csrf_token": csrf_of(client), **fields}, headers=BROWSER)
    return answer.status_code, unescape(answer.text)


def csrf_of(client: FlaskClient) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', client.get(PAGE).text)
    return found[1] if found else ""


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def set_up(client: FlaskClient) -> list[str]:
    """Set a second factor up; return the recovery codes."""
    status, page = send(client, PAGE, password=PASSWORD)
    assert status == 200
    status, page = send(client, f"{PAGE}/confirm", setup=hidden(page, "setup"), code=CODE)
    assert status == 200
    return codes_in(page)


def codes_in(page: str) -> list[str]:
    return re.findall("<li><code>([A-Z2-7-]{29})</code></li>", page)


def with_code(client: FlaskClient, who: str, code: str = CODE, **fields: str) -> int:
    """Sign in with a password and a code; return the status of the latter."""
    asked = sign_in(client, who)
    assert asked.status_code == 200
    form = {"challenge": hidden(asked.text, "challenge"), "code": code, **fields}
    return client.post("/sign-in/code", data=form, headers=BROWSER).status_code


def test_setup_ends_every_session_of_the_account_and_begins_one_in_its_browser(app: Flask, pool: MemoryPool) -> None:
    """A session that began with the password alone must end, in the pool as well."""
    client, other, of_another = signed_in(app, ADA), signed_in(app, ADA), signed_in(app, OPS)
    _, page = send(client, PAGE, password=PASSWORD)
    before = cookie_of(client)
    _, page = send(client, f"{PAGE}/confirm", setup=hidden(page, "setup"), code=CODE)
    stolen = app.test_client()
    stolen.set_cookie(COOKIE, before, secure=True)
    assert stolen.get("/account").status_code == 303
    assert f'href="data:text/plain;charset=utf-8,{"%0A".join(codes_in(page))}"' in page
    assert client.get("/account").status_code == 200
    assert other.get("/account").status_code == 303
    assert of_another.get("/account").status_code == 200
    assert pool.gone == {f"sub of {ADA}"}
    sent = client.post("/account/sessions/end", data={"csrf_token": hidden(page, "csrf_token")}, headers=BROWSER)
    assert sent.status_code == 303, "the page's own forms are of the new session"
    assert sign_in(client, ADA).status_code == 200, "the next sign-in asks for a code"


def test_setup_requires_the_password_before_it_shows_a_key(app: Flask, pool: MemoryPool) -> None:
    status, page = send(signed_in(app, ADA), PAGE, password="Wrong-horse-9")
    assert status == 401
    assert APP_KEY not in page


def test_a_wrong_code_turns_nothing_on_and_the_key_stays(app: Flask, pool: MemoryPool) -> None:
    client = signed_in(app, ADA)
    _, page = send(client, PAGE, password=PASSWORD)
    status, page = send(client, f"{PAGE}/confirm", setup=hidden(page, "setup"), code="000000")
    assert status == 401
    assert WRONG_CODE in page
    assert f'value="{APP_KEY}"' in page
    assert not pool.people[ADA].app
    assert send(client, f"{PAGE}/confirm", setup=hidden(page, "setup"), code=CODE)[0] == 200


@pytest.mark.parametrize("setup", ["", "made-up", None])
def test_a_forged_or_foreign_setup_key_is_rejected(app: Flask, pool: MemoryPool, setup: str | None) -> None:
    if setup is None:
        setup = hidden(send(signed_in(app, ADA), PAGE, password=PASSWORD)[1], "setup")
    status, page = send(signed_in(app, OPS), f"{PAGE}/confirm", setup=setup, code=CODE)
    assert status == 400
    assert f"start again at {PAGE}" in page
    assert not pool.people[ADA].app
    assert not pool.people[OPS].app


def test_setup_requests_no_key_if_a_second_factor_exists(app: Flask, pool: MemoryPool) -> None:
    """The pool would remove the factor, as the documentation of AssociateSoftwareToken says."""
    client = signed_in(app, ADA)
    token = csrf_of(client)
    pool.people[ADA].app = True
    answer = client.post(PAGE, data={"csrf_token": token, "password": PASSWORD}, headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (303, PAGE)


@pytest.mark.parametrize("path", [f"{PAGE}/off", f"{PAGE}/recovery-codes"])
@pytest.mark.parametrize(("password", "code"), [("Wrong-horse-9", CODE), (PASSWORD, "000000"), (PASSWORD, "")])
def test_changes_require_the_password_and_a_code(
    app: Flask, pool: MemoryPool, path: str, password: str, code: str
) -> None:
    client = signed_in(app, ADA)
    codes = set_up(client)
    assert send(client, path, password=password, code=code)[0] == 401
    assert pool.people[ADA].app
    assert recover(app.test_client(), ADA, codes[0])[0] == 303, "they are still good"


@pytest.mark.parametrize("path", [f"{PAGE}/off", f"{PAGE}/recovery-codes"])
@pytest.mark.parametrize("first", [False, True])
def test_without_a_second_factor_there_is_nothing_to_change(
    app: Flask, pool: MemoryPool, table: Table, path: str, first: bool
) -> None:
    """A password alone creates no recovery codes, and a temporary one that an operator has set does not, either."""
    client = signed_in(app, ADA)
    pool.people[ADA].first = first
    assert send(client, path, password=PASSWORD, code=CODE)[0] == (422 if first else 303)
    assert not RecoveryCodes(table).exist(f"sub of {ADA}")


def test_attempts_at_codes_for_changes_are_limited_per_hour(app: Flask) -> None:
    client = signed_in(app, ADA)
    set_up(client)
    token = csrf_of(client)
    clock = ManualClock()
    with app.app_context():
        current_limiter().counter = RateCounter(ProcessCounts(clock))

    def wrong(path: str) -> tuple[int, str]:
        clock.advance(WINDOW_SECONDS["minute"])
        form = {"csrf_token": token, "password": PASSWORD, "code": "000000"}
        answer = client.post(f"{PAGE}/{path}", data=form, headers=BROWSER)
        return answer.status_code, answer.text

    tries = [wrong(path) for path in ["off", "recovery-codes"] * 6]
    assert [status for status, _ in tries] == [401] * 10 + [429] * 2
    assert "more than 10 codes came in an hour" in tries[-1][1]


def test_new_recovery_codes_replace_the_old_ones(app: Flask) -> None:
    client = signed_in(app, ADA)
    old = set_up(client)
    status, page = send(client, f"{PAGE}/recovery-codes", password=PASSWORD, code=CODE)
    new = codes_in(page)
    assert status == 200
    assert not set(old) & set(new)
    assert recover(app.test_client(), ADA, old[0])[0] == 401
    assert recover(app.test_client(), ADA, new[0])[0] == 303


def recover(client: FlaskClient, email: str, code: str, password: str = PASSWORD) -> tuple[int, str]:
    answer = sign_in(client, email, password)
    if answer.status_code == 200:
        form = {"challenge": hidden(answer.text, "challenge"), "recovery_code": code}
        answer = client.post("/sign-in/code", data=form, headers=BROWSER)
    return answer.status_code, answer.headers.get("Location", unescape(answer.text))


def test_a_recovery_code_and_the_password_sign_in_and_turn_the_app_off(app: Flask, pool: MemoryPool) -> None:
    codes = set_up(signed_in(app, ADA))
    client = app.test_client()
    assert recover(client, ADA, codes[0], "Wrong-horse-9")[0] == 401
    status, page = recover(client, ADA, "AAAA-AAAA-AAAA-AAAA")
    assert status == 401
    assert "That is none of your recovery codes" in page
    assert pool.people[ADA].app
    assert recover(client, ADA, codes[0].lower()) == (303, PAGE)
    assert "It is off" in client.get(PAGE).text
    pool.people[ADA].app = True
    assert {recover(app.test_client(), ADA, code)[0] for code in codes[:3]} == {401}, "they went with the factor"


def test_changes_of_a_second_factor_are_in_the_audit_trail(app: Flask, audit_log: AuditLog) -> None:
    client = signed_in(app, ADA)
    set_up(client)
    _, page = send(client, f"{PAGE}/recovery-codes", password=PASSWORD, code=CODE)
    with_code(app.test_client(), ADA, "000000", email=OPS)  # who names another user
    recover(app.test_client(), ADA, "AAAA-AAAA-AAAA-AAAA")
    recover(app.test_client(), ADA, codes_in(page)[0])
    client = signed_in(app, ADA)
    set_up(client)
    send(client, f"{PAGE}/off", password="Wrong-horse-9", code=CODE)
    send(client, f"{PAGE}/off", password=PASSWORD, code=CODE)
    found = audit_log()
    assert [event.action for event in found] == [
        "sign-in",
        "second factor on",
        "recovery codes made",
        *["code asked for", "failed sign-in"] * 2,
        "code asked for",
        "recovery code used",
        "sign-in",
        "second factor on",
        "failed sign-in",
        "second factor off",
    ]
    assert {event.user for event in found} == {ADA}


def test_a_late_code_leads_back_to_the_sign_in(app: Flask, access: AuthServices) -> None:
    client = app.test_client()
    keys, of_another_site = access.sessions.keys, SessionKeys(["the keys of another site, which is not this one"])
    for challenge in (
        keys.seal(CODE_CHALLENGE, SAFE, "a session that is over", PASSWORD),
        of_another_site.seal(CODE_CHALLENGE, SAFE, f"session of {SAFE}", PASSWORD),
        keys.seal(SETUP, SAFE, f"session of {SAFE}"),
        keys.encrypt("a refresh token"),
    ):
        answer = client.post("/sign-in/code", data={"challenge": challenge, "code": CODE}, headers=BROWSER)
        assert answer.status_code == 401
        assert "Sign in again" in answer.text
    assert client.get("/sign-in/code").headers["Location"] == "/sign-in"


def test_a_challenge_expires_after_a_quarter_of_an_hour(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a user of an old password could exhaust the attempts at codes forever."""
    client = app.test_client()
    form = {"challenge": hidden(sign_in(client, SAFE).text, "challenge"), "code": CODE}
    later = time.time() + 15 * 60 + 2
    monkeypatch.setattr("cryptography.fernet.time.time", lambda: later)
    assert client.post("/sign-in/code", data=form, headers=BROWSER).status_code == 401
    monkeypatch.undo()
    assert client.post("/sign-in/code", data=form, headers=BROWSER).status_code == 303


def test_if_required_an_operator_without_one_can_only_set_one_up(strict: Flask, pool: MemoryPool) -> None:
    client = signed_in(strict, OPS)
    for path in ("/", "/jobs", "/fleet", "/account"):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (303, PAGE), path
    for path in ("/api/v1/jobs", "/api/v1/fleet"):
        answer = client.get(path)
        assert answer.status_code == 403
        assert PAGE in answer.get_json()["detail"]
    pause = client.post("/fleet/pause", data={"csrf_token": csrf_of(client), "reason": "x"}, headers=BROWSER)
    assert pause.status_code == 403
    assert "requires a second factor" in client.get(PAGE).text
    assert client.get("/internal/admission").status_code == 403
    set_up(client)
    assert client.get("/fleet").status_code == 200
    assert client.get("/internal/admission").status_code == 204
    assert send(client, f"{PAGE}/off", password=PASSWORD, code=CODE)[0] == 403
    assert pool.people[OPS].app
    assert "Turn it off" not in client.get(PAGE).text


def test_if_required_a_session_from_before_the_setup_is_not_enough(strict: Flask, pool: MemoryPool) -> None:
    """A session that began with the password alone, before the setup in another browser, opens no page."""
    client = signed_in(strict, OPS)
    pool.people[OPS].app = True
    assert client.get("/fleet").headers["Location"] == PAGE
    assert "Sign out, and sign in again with a code" in client.get(PAGE).text
    assert with_code(client, OPS) == 303
    assert client.get("/fleet").status_code == 200


def test_e1_if_required_a_personal_token_from_before_the_set_up_never_works(
    strict: Flask, access: AuthServices, pool: MemoryPool
) -> None:
    signed_in_at = int(pool.clock.epoch_seconds())
    text, _ = access.personal_tokens.make(f"sub of {OPS}", OPS, "script", list(Scope), 1, signed_in_at)
    headers, client = {"Authorization": f"Bearer {text}"}, strict.test_client()
    refused = client.get("/api/v1/jobs", headers=headers)
    assert refused.status_code == 403
    assert PAGE in refused.get_json()["detail"]
    set_up(signed_in(strict, OPS))
    assert client.get("/api/v1/jobs", headers=headers).status_code == 401


def test_the_second_factor_can_be_required_of_everyone(
    make_config: ConfigMaker, pool: MemoryPool, table: Table
) -> None:
    config = make_config(auth={"mode": "cognito", "require_second_factor": "everyone"})
    app = create_app(config, store=JobStore(table), auth=access_of(table, pool))
    assert signed_in(app, ADA).get("/jobs").headers["Location"] == PAGE
