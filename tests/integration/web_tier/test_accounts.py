"""Account pages: sign-in, sign-up, passwords, sign-out, forms of a session; personal tokens, also by the API."""

import io
import re
import time
from dataclasses import replace
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import cast

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.config import Config
from core.credentials import user_partition
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from services.accounts import OPERATORS
from services.table import LAST, Table, TableBusyError
from tests.conftest import ConfigMaker
from tests.support.fixtures import AuditLog, memory_table, sign_in_access, sign_in_app, sign_in_config
from tests.support.jobs import UNKNOWN_ID, picture
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import (
    ANOTHER,
    BEGIN,
    BROWSER,
    CODE,
    PASSWORD,
    TEMPORARY,
    MemoryPool,
    Person,
    PlayedPool,
    SignInSite,
    access_of,
    sign_in,
    signed_in,
)
from web_tier.app import create_app
from web_tier.auth.context import ACCOUNT_LIFETIME_SECONDS
from web_tier.auth.identity import FRESH_SECONDS

ADA, OPS, NEW = "ada@example.org", "ops@example.org", "new@example.org"
UNKNOWN_EMAIL = "nobody@example.org"
PAGES = ("/sign-in", "/sign-up", "/forgot", "/reset", "/account")


@pytest.fixture
def pool() -> MemoryPool:
    """A pool with Ada, an operator, and an account with a temporary password."""
    return MemoryPool({ADA: Person(), OPS: Person(groups=frozenset({"operators"})), NEW: Person(first=True)})


table, config, access, app = memory_table, sign_in_config, sign_in_access, sign_in_app


@pytest.fixture
def anonymous(app: Flask) -> FlaskClient:
    """A browser without a session."""
    return app.test_client()


def send(client: FlaskClient, path: str, **fields: str) -> tuple[int, str]:
    """Send a form; return the status and the text of the response."""
    answer = client.post(path, data=fields, headers=BROWSER)
    return answer.status_code, unescape(answer.text)


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]


def test_sign_in_never_redirects_to_another_site(client: FlaskClient) -> None:
    elsewhere = "//evil.example"
    assert sign_in(client, ADA, next=elsewhere).headers["Location"] == "/"
    assert client.get("/sign-in", query_string={"next": elsewhere}).headers["Location"] == "/"


@pytest.mark.parametrize("email", [ADA, UNKNOWN_EMAIL, "", "<b>@example.org"])
def test_wrong_credentials_get_one_message_and_the_password_is_not_sent_back(
    anonymous: FlaskClient, email: str
) -> None:
    status, page = send(anonymous, "/sign-in", email=email, password="Wrong-horse-9")
    assert status == 401
    assert re.search(r'role="alert"[^>]*>The e-mail address or the password is wrong\.<', page)
    assert "Wrong-horse-9" not in page
    assert "<b>" not in anonymous.post("/sign-in", data={"email": email, "password": "x"}, headers=BROWSER).text


@pytest.mark.parametrize("path", ["/sign-up", "/forgot"])
def test_s8_no_response_shows_whether_an_address_has_an_account(anonymous: FlaskClient, path: str) -> None:
    status, known = send(anonymous, path, email=ADA, password=ANOTHER)
    other, unknown = send(anonymous, path, email=UNKNOWN_EMAIL, password=ANOTHER)
    assert status == other == 200
    assert same_for(ADA, known) == same_for(UNKNOWN_EMAIL, unknown)


def same_for(email: str, page: str) -> str:
    """Return a page without what differs between two addresses."""
    return re.sub(r'(name="challenge" value=")[^"]+', r"\1", page.replace(email, ""))


def sign_up(client: FlaskClient, email: str, **fields: str) -> str:
    """Send the sign-up form; return what waits in the form for the code."""
    status, page = send(client, "/sign-up", email=email, password=PASSWORD, **fields)
    challenge = re.search(r'name="challenge" value="([^"]+)"', page)
    assert (status, 'action="/new-password"' in page, PASSWORD in page) == (200, True, False)
    assert challenge is not None
    return challenge[1]


def test_s4_the_password_of_a_new_account_counts_from_its_mailed_code_on(
    client: FlaskClient, pool: MemoryPool, audit_log: AuditLog
) -> None:
    challenge = sign_up(client, UNKNOWN_EMAIL, next="/jobs")
    assert send(client, "/sign-in", email=UNKNOWN_EMAIL, password=PASSWORD)[0] == 401, "nothing typed counts yet"
    form = {"email": UNKNOWN_EMAIL, "challenge": challenge, "next": "/jobs"}
    status, page = send(client, "/new-password", **form, code="Fleet-0000-0000-0000")
    assert (status, "The code is wrong" in page, f'value="{challenge}"' in page) == (401, True, True)
    status, page = send(client, "/sign-up", **form)
    assert (status, "sent once more" in page) == (200, True), "the password is typed once"
    answer = client.post("/new-password", data={**form, "code": TEMPORARY}, headers=BROWSER)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs")
    assert client.get("/jobs").status_code == 200, "the code has signed in"
    assert pool.mailed == [UNKNOWN_EMAIL] * 2
    found = [(event.action, event.user or event.details["account"]) for event in audit_log()]
    assert found == [*[("failed sign-in", UNKNOWN_EMAIL)] * 2, ("sign-in", UNKNOWN_EMAIL)]


@pytest.mark.parametrize(
    ("email", "hours"), [(ADA, 0), (UNKNOWN_EMAIL, 2)], ids=["another account's form", "after an hour"]
)
def test_a_code_counts_for_the_form_of_its_account_and_for_an_hour(
    anonymous: FlaskClient, pool: MemoryPool, monkeypatch: pytest.MonkeyPatch, email: str, hours: int
) -> None:
    form, later = {"challenge": sign_up(anonymous, UNKNOWN_EMAIL), "code": TEMPORARY}, time.time() + hours * 3_600
    monkeypatch.setattr("cryptography.fernet.time.time", lambda: later)
    status, page = send(anonymous, "/new-password", **form, email=email)
    assert (status, 'action="/sign-in"' in page) == (401, True)
    assert pool.people[UNKNOWN_EMAIL].first


def test_s8_a_code_is_refused_in_the_same_way_for_new_and_known_addresses(anonymous: FlaskClient) -> None:
    pages = set()
    for email in (ADA, UNKNOWN_EMAIL):
        form = {"email": email, "challenge": sign_up(anonymous, email)}
        status, page = send(anonymous, "/new-password", **form, code=CODE)
        pages.add((status, same_for(email, page)))
    assert len(pages) == 1


def test_s7_a_new_password_ends_all_sessions_and_personal_tokens(app: Flask) -> None:
    def made(client: FlaskClient) -> dict[str, str]:
        return {"Authorization": f"Bearer {made_token(send_token_form(client)[1])}"}

    attackers, other_session, others = signed_in(app, ADA), signed_in(app, ADA), signed_in(app, OPS)
    token, others_token = made(attackers), made(others)
    anonymous = app.test_client()
    send(anonymous, "/forgot", email=ADA)
    status, page = send(anonymous, "/reset", email=ADA, code=CODE, password=ANOTHER)
    assert (status, "All sessions and personal tokens of your account have ended" in page) == (200, True)
    assert [each.get("/jobs").status_code for each in (attackers, other_session, others)] == [303, 303, 200]
    asked = [anonymous.get("/api/v1/jobs", headers=each).status_code for each in (token, others_token)]
    assert asked == [401, 200]


def test_s7_a_new_password_that_could_not_end_sessions_is_reported(
    app: Flask, table: Table, monkeypatch: pytest.MonkeyPatch, audit_log: AuditLog
) -> None:
    client = signed_in(app, ADA)

    def away(*_: object, **__: object) -> None:
        raise TableBusyError("the table is busy")

    anonymous = app.test_client()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryTable, "put_all", away)
        status, page = send(anonymous, "/reset", email=ADA, code=CODE, password=ANOTHER)
    assert audit_log()[-1].action == "password reset"
    assert (status, "could not be ended" in page, 'action="/forgot"' in page) == (503, True, True)
    assert client.get("/jobs").status_code == 200
    assert send(anonymous, "/reset", email=ADA, code=CODE, password=ANOTHER)[0] == 200
    assert client.get("/jobs").status_code == 303


def test_e7_a_changed_password_ends_all_sessions_and_tokens_and_asks_for_the_old_one(
    app: Flask, pool: MemoryPool
) -> None:
    client, other = signed_in(app, ADA), signed_in(app, ADA)
    token = {"Authorization": f"Bearer {made_token(send_token_form(other)[1])}"}
    form = {"csrf_token": csrf_of(client.get("/account/password").text), "new_password": ANOTHER}
    wrong = client.post("/account/password", data={**form, "password": "Wrong-horse-9"}, headers=BROWSER)
    weak = client.post(
        "/account/password", data={**form, "password": PASSWORD, "new_password": "short"}, headers=BROWSER
    )
    assert (wrong.status_code, weak.status_code, pool.people[ADA].password) == (401, 422, PASSWORD)
    assert "harder to guess" in weak.text
    changed = client.post("/account/password", data={**form, "password": PASSWORD}, headers=BROWSER)
    assert (changed.status_code, pool.people[ADA].password) == (303, ANOTHER)
    assert "Your new password is set" in client.get(changed.headers["Location"]).text
    assert [each.get("/jobs").status_code for each in (client, other)] == [303, 303]
    assert client.get("/api/v1/jobs", headers=token).status_code == 401
    assert sign_in(client, ADA, ANOTHER).status_code == 303
    assert client.get("/jobs").status_code == 200


def test_e7_a_changed_password_that_could_not_end_sessions_is_reported(
    app: Flask, pool: MemoryPool, monkeypatch: pytest.MonkeyPatch, audit_log: AuditLog
) -> None:
    client = signed_in(app, ADA)
    form = {"csrf_token": csrf_of(client.get("/account/password").text), "password": PASSWORD}

    def away(*_: object, **__: object) -> None:
        raise TableBusyError("the table is busy")

    monkeypatch.setattr(MemoryTable, "put_all", away)
    answer = client.post("/account/password", data={**form, "new_password": ANOTHER}, headers=BROWSER)
    assert (answer.status_code, pool.people[ADA].password) == (503, ANOTHER)
    assert "could not be ended" in answer.text
    assert audit_log()[-1].action == "password changed"


def test_e7_the_account_lists_the_sessions_and_ends_one_or_all(app: Flask) -> None:
    browser = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
    client, other = app.test_client(), signed_in(app, ADA)
    client.post("/sign-in", data={"email": ADA, "password": PASSWORD}, headers=BROWSER | browser)
    page = client.get("/account").text
    assert 'Firefox, Linux, 127.0.0.1</bdi> <span class="quiet">(this one)</span>' in page
    [ends] = re.findall(r'action="(/account/sessions/[\w-]{43}/end)"', page)
    form = {"csrf_token": csrf_of(page)}
    assert client.post(ends, data=form, headers=BROWSER).status_code == 303
    assert (other.get("/jobs").status_code, client.get("/jobs").status_code) == (303, 200)
    assert client.post("/account/sessions/end", data=form, headers=BROWSER).status_code == 303
    assert client.get("/jobs").status_code == 303


def test_a_user_downloads_the_data_and_deletes_the_account_with_all_jobs_and_credentials(
    app: Flask, pool: MemoryPool, table: Table, audit_log: AuditLog
) -> None:
    client, other, jobs = signed_in(app, ADA), signed_in(app, ADA), JobStore(table)
    token = {"Authorization": f"Bearer {made_token(send_token_form(client)[1])}"}
    for owner, name in ((ADA, "hers"), (OPS, "of another")):
        jobs.create(Job(new_id(), name, BEGIN, owner=f"sub of {owner}"))
    data = client.get("/account/data")
    assert data.headers["Content-Disposition"] == "attachment; filename=fleetsight-data.json"
    found = data.get_json()
    assert found["account"] == {"id": f"sub of {ADA}", "email": ADA, "groups": []}
    assert [len(found["sessions"]), *(each["name"] for each in found["tokens"] + found["jobs"])] == [
        2, "nightly", "hers",
    ]  # fmt: skip
    form = {"csrf_token": csrf_of(client.get("/account/delete").text)}
    wrong = client.post("/account/delete", data={**form, "password": "Wrong-horse-9"}, headers=BROWSER)
    assert (wrong.status_code, ADA in pool.people, len(jobs.jobs(9, None, f"sub of {ADA}"))) == (401, True, 1)
    deleted = client.post("/account/delete", data={**form, "password": PASSWORD}, headers=BROWSER)
    assert "Your account and your jobs are deleted." in client.get(deleted.headers["Location"]).text
    assert [each.get("/jobs").status_code for each in (client, other)] == [303, 303]
    assert client.get("/api/v1/jobs", headers=token).status_code == sign_in(client, ADA).status_code == 401
    assert [job.name for job in jobs.jobs(9, None, f"sub of {OPS}")] == ["of another"]
    assert not jobs.jobs(9, None, f"sub of {ADA}")
    left = {item["sk"] for item in table.query(user_partition(f"sub of {ADA}"), "0", LAST)}
    assert left == {"REVOKED"}
    assert not any(str(key).startswith("('TOKEN#") for key in cast(MemoryTable, table).items)
    [event] = [each for each in audit_log() if each.action == "account deleted"]
    assert event.user == ADA


def test_e3_an_answer_to_a_challenge_signs_in_and_audits_only_its_own_account(
    anonymous: FlaskClient, audit_log: AuditLog
) -> None:
    status, page = send(anonymous, "/sign-in", email=NEW, password=PASSWORD)
    challenge = re.search(r'name="challenge" value="([^"]+)"', page)
    assert status == 200
    assert challenge is not None
    form = {"challenge": challenge[1], "password": ANOTHER}
    assert send(anonymous, "/new-password", **form | {"email": NEW, "password": "short"})[0] == 422
    statuses = [send(anonymous, "/new-password", **form | {"email": email})[0] for email in (ADA, "", NEW)]
    assert statuses == [401, 401, 303]
    assert send(anonymous, "/new-password", **form, email=NEW)[0] == 401, "its temporary password has been used"
    events = audit_log()
    assert [event.user for event in events if event.action == "sign-in"] == [NEW]
    assert not any(event.user for event in events if event.action != "sign-in")


def test_sign_out_clears_thumbnails_in_the_browser_and_needs_no_session(anonymous: FlaskClient) -> None:
    answer = anonymous.post("/sign-out", headers=BROWSER)
    assert (answer.status_code, answer.headers["Clear-Site-Data"]) == (303, '"cache", "storage"')


def test_the_sign_up_page_and_its_links_exist_only_if_sign_up_is_enabled(
    make_config: ConfigMaker, anonymous: FlaskClient, pool: MemoryPool, table: Table
) -> None:
    closed = make_config(auth={"mode": "cognito", "sign_up": False})
    shut = create_app(closed, store=JobStore(table), auth=access_of(table, pool)).test_client()
    for path in ("/sign-in", "/forgot"):
        assert 'href="/sign-up' not in shut.get(path).text
    assert (
        shut.get("/sign-up").status_code == send(shut, "/sign-up", email=UNKNOWN_EMAIL, password=PASSWORD)[0] == 404
    )
    assert 'href="/sign-up"' in anonymous.get("/sign-in").text


def test_account_pages_are_never_cached(anonymous: FlaskClient) -> None:
    assert {anonymous.get(path).headers["Cache-Control"] for path in PAGES} == {"no-store"}


@pytest.mark.parametrize("template", sorted(Path("web_tier").rglob("*.html")), ids=str)
def test_every_post_form_has_the_csrf_token(template: Path) -> None:
    for form in re.findall(r'<form\b[^>]*method="post".*?</form>', template.read_text(), re.DOTALL):
        assert "{{ csrf_field() }}" in form


def upload(client: FlaskClient, token: str | None) -> TestResponse:
    """Send the upload form with one image; as in a browser, the token precedes the file."""
    fields = {} if token is None else {"csrf_token": token}
    form = {**fields, "name": "mine", "images": (io.BytesIO(picture()), "a.jpg")}
    return client.post("/", data=form, headers=BROWSER)


def upload_token(page: str) -> str:
    form = page[page.index('<form id="upload"') : page.index('type="file"')]
    found = re.search(r'name="csrf_token" value="([^"]+)"', form)
    assert found is not None
    return found[1]


@pytest.mark.usefixtures("provisioned")
@pytest.mark.parametrize("token", [None, "", "made.up"])
def test_an_upload_form_from_before_the_sign_in_is_rejected_and_shown_again(app: Flask, token: str | None) -> None:
    client = signed_in(app, ADA)
    answer = upload(client, token)
    assert answer.status_code == 403
    assert "opened before you signed in" in answer.text
    assert upload(client, upload_token(answer.text)).status_code == 303
    assert client.get("/jobs").text.count("<td><a href=") == 1


TOKEN = re.compile(r'value="(fst_[\w-]{43})"')


def send_token_form(client: FlaskClient, **fields: object) -> tuple[int, str]:
    """Send the form that creates a token; return the status and the page."""
    token = csrf_of(client.get("/account").text)
    fields_sent = {
        "name": "nightly",
        "scopes": ["classify", "read"],
        "days": "30",
        "csrf_token": token,
        "password": PASSWORD,
    }
    answer = client.post("/account/tokens", data={**fields_sent, **fields}, headers=BROWSER)
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, unescape(answer.text)


def made_token(page: str) -> str:
    """Return the text of a token that has just been created."""
    found = TOKEN.search(page)
    assert found is not None
    return found[1]


def test_the_form_of_a_user_makes_no_token_with_the_operate_scope(app: Flask) -> None:
    status, page = send_token_form(signed_in(app, ADA), scopes=["operate"])
    assert (status, TOKEN.search(page)) == (422, None)


PATH = "/api/v1/tokens"
WANTED = {"name": "nightly", "scopes": ["read", "classify"], "days": 30}


@pytest.fixture
def site(config: Config, table: Table) -> SignInSite:
    pool = PlayedPool()
    access = access_of(table, pool)
    return SignInSite(create_app(config, store=JobStore(table), auth=access), access, pool)


@pytest.fixture
def browser(site: SignInSite) -> FlaskClient:
    return site.signed_in("ada")


def test_the_text_of_a_token_is_returned_only_once(site: SignInSite, browser: FlaskClient) -> None:
    answer = browser.post(PATH, json=WANTED, headers=BROWSER)
    made = answer.get_json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"{PATH}/{made['token_id']}"
    assert (made["name"], made["scopes"]) == ("nightly", ["classify", "read"])
    assert made["expires_at"] == (BEGIN + timedelta(days=30)).isoformat().replace("+00:00", "Z")
    listed = browser.get(PATH)
    [token] = listed.get_json()["tokens"]
    assert token == {name: value for name, value in made.items() if name != "token"}
    assert made["token"] not in listed.text
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert site.anonymous().post("/api/v1/jobs", headers=headers).status_code == 201
    assert browser.delete(f"{PATH}/{made['token_id']}", headers=BROWSER).status_code == 204
    assert site.anonymous().get("/api/v1/jobs", headers=headers).status_code == 401
    assert browser.get(PATH).get_json() == {"tokens": []}


def test_e1_a_token_is_made_only_soon_after_a_sign_in(site: SignInSite, browser: FlaskClient) -> None:
    pool_token = {"Authorization": f"Bearer {site.pool.tokens('ada').id_token}"}
    site.clock.advance(FRESH_SECONDS)
    for refused in (
        browser.post(PATH, json=WANTED, headers=BROWSER),
        site.anonymous().post(PATH, json=WANTED, headers=pool_token),
    ):
        assert (refused.status_code, "sign in again" in refused.get_json()["detail"]) == (403, True)
    later = {"Authorization": f"Bearer {site.pool.tokens('ada').id_token}"}
    assert site.anonymous().post(PATH, json=WANTED, headers=later).status_code == 201


def test_e1_a_pool_token_ends_with_a_new_password_and_with_its_account(site: SignInSite) -> None:
    site.pool.add("ada")
    headers, client = {"Authorization": f"Bearer {site.pool.tokens('ada').id_token}"}, site.anonymous()
    assert client.get(PATH, headers=headers).status_code == 200
    site.access.end_all_of("ada")
    assert client.get(PATH, headers=headers).status_code == 401
    headers = {"Authorization": f"Bearer {site.pool.tokens('ada').id_token}"}
    assert client.get(PATH, headers=headers).status_code == 200
    site.pool.accounts["ada"] = replace(site.pool.accounts["ada"], enabled=False)
    site.clock.advance(ACCOUNT_LIFETIME_SECONDS)
    assert client.get(PATH, headers=headers).status_code == 401


def test_row_40_a_user_cannot_list_or_revoke_the_token_of_another(site: SignInSite, browser: FlaskClient) -> None:
    made = browser.post(PATH, json=WANTED, headers=BROWSER).get_json()
    other = site.signed_in("eve")
    assert other.get(PATH).get_json() == {"tokens": []}
    theirs = other.delete(f"{PATH}/{made['token_id']}", headers=BROWSER)
    none = other.delete(f"{PATH}/{UNKNOWN_ID}", headers=BROWSER)
    assert theirs.status_code == none.status_code == 404
    assert theirs.get_json()["detail"].replace(made["token_id"], UNKNOWN_ID) == none.get_json()["detail"]
    assert len(browser.get(PATH).get_json()["tokens"]) == 1


def test_only_operators_create_tokens_with_the_operate_scope(site: SignInSite, browser: FlaskClient) -> None:
    wanted = WANTED | {"scopes": ["operate"]}
    assert browser.post(PATH, json=wanted, headers=BROWSER).status_code == 403
    site.pool.add("ops", OPERATORS)
    assert site.signed_in("ops").post(PATH, json=wanted, headers=BROWSER).status_code == 201


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
