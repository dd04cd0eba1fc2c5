"""The pages of the sign-in, the sign-out and the account; forms of a session; personal tokens, also by the API."""

import io
import re
from datetime import timedelta
from html import unescape
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.credentials import user_partition
from core.ids import new_id
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.tokens import TokenUncheckedError
from services.table import LAST, Table
from tests.support.fixtures import AuditLog
from tests.support.jobs import UNKNOWN_ID, picture
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import BEGIN, BROWSER, SIGN_IN, SIGN_OUT, SignInSite, cookie_of
from web_tier.auth.identity import FRESH_SECONDS
from web_tier.auth.provider import ProviderUnreachableError

SITE = "http://localhost"
ELSEWHERE = ("//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "")


@pytest.fixture
def browser(site: SignInSite) -> FlaskClient:
    return site.signed_in("ada")


def sent(browser: FlaskClient, site: SignInSite, path: str, **fields: object) -> TestResponse:
    """Send a form of the account page."""
    form = {"csrf_token": site.token_for_forms(browser), **fields}
    return browser.post(path, data=form, headers=BROWSER)


def query_of(answer: TestResponse) -> dict[str, list[str]]:
    """Return the parameters with which the provider is asked."""
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith(f"{SIGN_IN}?")
    return parse_qs(urlsplit(answer.headers["Location"]).query)


def test_a_user_comes_back_from_the_provider_to_the_page_that_was_asked_for(site: SignInSite) -> None:
    browser = site.anonymous()
    asked = browser.get("/jobs?name=holiday").headers["Location"]
    assert query_of(browser.get(asked))["redirect_uri"] == [f"{SITE}/sign-in/callback"]
    answer = site.signs_in(browser, "ada", asked)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/jobs?name=holiday")
    assert "ada@example.org" in browser.get("/account").text
    again = browser.get(asked)
    assert (again.status_code, again.headers["Location"]) == (303, "/jobs?name=holiday"), "there is a session already"


@pytest.mark.parametrize("path", ELSEWHERE)
def test_a_sign_in_never_redirects_to_another_site(site: SignInSite, browser: FlaskClient, path: str) -> None:
    start = f"/sign-in?{urlencode({'next': path})}"
    assert site.signs_in(site.anonymous(), "eve", start).headers["Location"] == "/"
    assert browser.get(start).headers["Location"] == "/"
    site.provider.started["forged"] = path
    answer = browser.get("/sign-in/callback?state=forged&code=ada")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


@pytest.mark.parametrize(
    ("query", "status"), [("", 403), ("?state=0", 403), ("?state=1&code=ada", 403), ("?state=0&code=unknown", 403)]
)
def test_a_return_that_signs_nobody_in_leaves_no_session_and_says_why(
    site: SignInSite, audit_log: AuditLog, query: str, status: int
) -> None:
    browser = site.anonymous()
    browser.get("/sign-in")
    answer = browser.get(f"/sign-in/callback{query}")
    assert (answer.status_code, 'role="alert"' in answer.text) == (status, True)
    assert 'href="/sign-in?again=1"' in answer.text, "the provider must not repeat what it remembers"
    assert "Set-Cookie" not in answer.headers
    assert browser.get("/jobs").status_code == 303
    assert [(event.action, event.user) for event in audit_log()] == [("failed sign-in", "")]


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/sign-in", ProviderUnreachableError("no answer")),
        ("/sign-in/callback", ProviderUnreachableError("no answer")),
        ("/sign-in/callback", TokenUncheckedError("no keys")),
    ],
)
def test_a_sign_in_while_the_provider_is_away_can_be_tried_again(
    site: SignInSite, audit_log: AuditLog, path: str, error: Exception
) -> None:
    site.provider.away = error
    browser = site.anonymous()
    answer = browser.get(path)
    assert (answer.status_code, 'role="alert"' in answer.text) == (503, True)
    assert audit_log() == []
    site.provider.away = None
    assert site.signs_in(browser, "ada").status_code == 303


def test_a_sign_in_that_is_older_than_the_last_sign_out_everywhere_must_be_repeated(site: SignInSite) -> None:
    """The provider remembers it in another browser, and would return its user for ever."""
    site.provider.add("ada")
    remembered = site.provider.tokens("ada")
    site.access.revocations.revoke_all_of("ada")
    browser = site.anonymous()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site.provider, "tokens", lambda _sub: remembered)
        answer = site.signs_in(browser, "ada")
    assert (answer.status_code, "older than your last sign-out everywhere" in answer.text) == (403, True)
    assert query_of(browser.get("/sign-in?again=1"))["prompt"] == ["login"]
    assert site.signs_in(browser, "ada").status_code == 303
    assert browser.get("/jobs").status_code == 200


def test_a_sign_out_ends_the_session_and_leads_to_the_sign_out_of_the_provider(
    site: SignInSite, browser: FlaskClient, audit_log: AuditLog
) -> None:
    cookie = cookie_of(browser)
    answer = sent(browser, site, "/sign-out")
    assert answer.headers["Clear-Site-Data"] == '"cache", "storage"', "the next user must see no thumbnails"
    assert answer.headers["Refresh"].startswith(f"0; url={SIGN_OUT}?")
    assert parse_qs(urlsplit(answer.headers["Refresh"]).query)["post_logout_redirect_uri"] == [f"{SITE}/signed-out"]
    assert "You are signed out" in answer.text
    assert "ada@example.org" not in answer.text
    assert site.access.sessions.open(cookie) is None
    assert [(event.action, event.user) for event in audit_log()] == [("sign-out", "ada@example.org")]
    page = browser.get("/signed-out")
    assert (page.status_code, "You are signed out" in page.text, "Refresh" in page.headers) == (200, True, False)


def test_a_sign_out_without_a_session_clears_the_browser_and_is_no_event(
    site: SignInSite, audit_log: AuditLog
) -> None:
    answer = site.anonymous().post("/sign-out", headers=BROWSER)
    assert (answer.status_code, answer.headers["Clear-Site-Data"]) == (200, '"cache", "storage"')
    assert audit_log() == []


def test_a_sign_out_at_a_provider_without_one_ends_the_session_here(
    site: SignInSite, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.provider, "sign_out_address", lambda _back: None)
    answer = sent(browser, site, "/sign-out")
    assert (answer.status_code, "Refresh" in answer.headers) == (200, False)
    assert browser.get("/jobs").status_code == 303


def test_a_sign_out_everywhere_ends_the_sessions_and_tokens_of_that_user_alone(
    site: SignInSite, browser: FlaskClient
) -> None:
    other_session, other_user = site.signed_in("ada"), site.signed_in("eve")
    tokens = [site.with_token(sub, "read") for sub in ("ada", "eve")]
    answer = sent(browser, site, "/account/sessions/end")
    assert (answer.status_code, "All your sessions and personal tokens have ended." in answer.text) == (200, True)
    assert answer.headers["Refresh"].startswith(f"0; url={SIGN_OUT}?")
    assert [each.get("/jobs").status_code for each in (browser, other_session, other_user)] == [303, 303, 200]
    assert [site.anonymous().get("/api/v1/jobs", headers=each).status_code for each in tokens] == [401, 200]
    assert site.signed_in("ada").get("/jobs").status_code == 200


def test_a_user_downloads_the_data_and_deletes_all_jobs_and_credentials(
    site: SignInSite, browser: FlaskClient, table: MemoryTable, audit_log: AuditLog
) -> None:
    other, jobs = site.signed_in("ada"), JobStore(table)
    token = {"Authorization": f"Bearer {made_token(sent_token_form(browser, site))}"}
    for owner in ("ada", "eve"):
        jobs.create(Job(new_id(), f"of {owner}", BEGIN, owner=owner))
    data = browser.get("/account/data")
    assert data.headers["Content-Disposition"] == "attachment; filename=fleetsight-data.json"
    found = data.get_json()
    assert found["account"] == {"id": "ada", "email": "ada@example.org", "is_operator": False}
    assert [each["name"] for each in found["tokens"] + found["jobs"]] == ["nightly", "of ada"]
    deleted = sent(browser, site, "/account/delete")
    assert (deleted.status_code, "Your jobs, sessions and personal tokens are deleted." in deleted.text) == (
        200,
        True,
    )
    assert deleted.headers["Refresh"].startswith(f"0; url={SIGN_OUT}?")
    assert [each.get("/jobs").status_code for each in (browser, other)] == [303, 303]
    assert site.anonymous().get("/api/v1/jobs", headers=token).status_code == 401
    assert [[job.name for job in jobs.jobs(9, None, owner)] for owner in ("ada", "eve")] == [[], ["of eve"]]
    assert {item["sk"] for item in table.query(user_partition("ada"), "0", LAST)} == {"REVOKED"}, "no profile either"
    assert not any(str(key).startswith("('TOKEN#") for key in table.items)
    assert [event.user for event in audit_log() if event.action == "account deleted"] == ["ada@example.org"]


def test_what_outlives_a_session_or_cannot_be_restored_needs_a_fresh_sign_in(
    site: SignInSite, browser: FlaskClient, table: Table
) -> None:
    JobStore(table).create(Job(new_id(), "hers", BEGIN, owner="ada"))
    page = browser.get("/account").text
    assert re.search(r"<details>.*<form[^>]* action=\"/account/delete\"", page, re.DOTALL), "asked once more"
    site.clock.advance(FRESH_SECONDS)
    refused = [sent_token_form(browser, site), sent(browser, site, "/account/delete")]
    assert [(answer.status_code, "sign in again" in answer.text) for answer in refused] == [(403, True)] * 2
    assert (len(JobStore(table).jobs(9, None, "ada")), site.access.personal_tokens.list("ada")) == (1, [])
    page = browser.get("/account").text
    assert not {'action="/account/tokens"', 'action="/account/delete"'} & set(re.findall(r'action="[^"]+"', page))
    [again] = set(re.findall(r'href="(/sign-in\?[^"]+)"[^>]*>Sign in again', page))
    assert query_of(browser.get(unescape(again)))["prompt"] == ["login"]
    assert site.signs_in(browser, "ada", unescape(again)).headers["Location"] == "/account"
    assert sent_token_form(browser, site).status_code == 201


def test_a_token_names_the_session_that_made_it_by_the_page_and_by_the_api(
    site: SignInSite, browser: FlaskClient
) -> None:
    session = site.access.sessions.open(cookie_of(browser))
    assert session is not None
    sent_token_form(browser, site)
    browser.post(PATH, json=WANTED, headers=BROWSER)
    by_provider = {"Authorization": f"Bearer {site.provider.tokens('ada').id_token}"}
    assert site.anonymous().post(PATH, json=WANTED, headers=by_provider).status_code == 201
    families = sorted(token.family for token in site.access.personal_tokens.list("ada"))
    assert families == ["", session.record.family, session.record.family]


def test_a_user_whose_address_the_provider_does_not_tell_is_named_by_their_id(
    site: SignInSite, audit_log: AuditLog
) -> None:
    site.provider.add("8e1c", has_email=False)
    browser = site.anonymous()
    site.signs_in(browser, "8e1c")
    assert re.search(r'href="/account"[^>]*><bdi>8e1c</bdi>', browser.get("/account").text)
    assert browser.get("/account/visitor").get_json()["name"] == "8e1c"
    assert [event.user for event in audit_log()] == ["8e1c"]


def test_pages_of_the_sign_in_and_of_the_account_are_never_cached(site: SignInSite, browser: FlaskClient) -> None:
    for path in ("/sign-in", "/sign-in/callback", "/signed-out", "/account", "/account/data"):
        assert browser.get(path).headers["Cache-Control"] == "no-store", path


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
def test_an_upload_form_from_before_the_sign_in_is_rejected_and_shown_again(
    site: SignInSite, browser: FlaskClient, token: str | None
) -> None:
    client = browser
    answer = upload(client, token)
    assert answer.status_code == 403
    assert "opened before you signed in" in answer.text
    assert upload(client, upload_token(answer.text)).status_code == 303
    assert client.get("/jobs").text.count("<td><a href=") == 1


TOKEN = re.compile(r'value="(fst_[\w-]{43})"')


def sent_token_form(browser: FlaskClient, site: SignInSite, **fields: object) -> TestResponse:
    """Send the form that creates a token."""
    wanted = {"name": "nightly", "scopes": ["classify", "read"], "days": "30", **fields}
    answer = sent(browser, site, "/account/tokens", **wanted)
    assert answer.headers["Cache-Control"] == "no-store"
    return answer


def made_token(answer: TestResponse) -> str:
    """Return the text of a token that has just been created."""
    found = TOKEN.search(answer.text)
    assert found is not None
    return found[1]


def test_the_page_shows_a_new_token_once_and_revokes_it(site: SignInSite, browser: FlaskClient) -> None:
    answer = sent_token_form(browser, site)
    headers = {"Authorization": f"Bearer {made_token(answer)}"}
    assert (answer.status_code, site.anonymous().get("/api/v1/jobs", headers=headers).status_code) == (201, 200)
    page = browser.get("/account").text
    assert (TOKEN.search(page), "nightly" in page) == (None, True)
    [path] = re.findall(r'action="(/account/tokens/[^"]+/revoke)"', page)
    assert sent(browser, site, path).headers["Location"] == "/account"
    assert site.anonymous().get("/api/v1/jobs", headers=headers).status_code == 401
    assert "nightly" not in browser.get("/account").text.partition("<form class=")[0]


@pytest.mark.parametrize(
    "fields", [{"scopes": ["operate"]}, {"scopes": []}, {"days": "x"}, {"days": "366"}, {"name": " "}]
)
def test_the_form_of_a_user_makes_no_token_that_is_not_allowed_and_says_why(
    site: SignInSite, browser: FlaskClient, fields: dict[str, object]
) -> None:
    answer = sent_token_form(browser, site, **fields)
    assert (answer.status_code, TOKEN.search(answer.text), 'role="alert"' in answer.text) == (422, None, True)


PATH = "/api/v1/tokens"
WANTED = {"name": "nightly", "scopes": ["read", "classify"], "days": 30}


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
    providers_token = {"Authorization": f"Bearer {site.provider.tokens('ada').id_token}"}
    site.clock.advance(FRESH_SECONDS)
    for refused in (
        browser.post(PATH, json=WANTED, headers=BROWSER),
        site.anonymous().post(PATH, json=WANTED, headers=providers_token),
    ):
        assert (refused.status_code, "sign in again" in refused.get_json()["detail"]) == (403, True)
    later = {"Authorization": f"Bearer {site.provider.tokens('ada').id_token}"}
    assert site.anonymous().post(PATH, json=WANTED, headers=later).status_code == 201


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
    site.provider.add("ops", is_operator=True)
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
