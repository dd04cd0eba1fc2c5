"""The guard: who sent a request, by header or cookie, and what the sender may do."""

import logging
import string
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from core.config import Config
from core.credentials import user_partition
from core.jobs.store import JobStore
from core.tokens import TokenUncheckedError
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.jobs import UNKNOWN_ID
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import BROWSER, HOUR, OIDC, SignInSite, access_of, cookie_of, keep
from web_tier.app import create_app
from web_tier.auth.context import COOKIE, PROFILE_LIFETIME_SECONDS
from web_tier.auth.guard import (
    MAX_HEADER_CHARACTERS,
    InvalidCredentialsError,
    credentials_check,
    parse_authorization,
)
from web_tier.auth.provider import ProviderUnreachableError
from web_tier.auth.sessions import MAX_UNVERIFIED_SECONDS, ROTATE_SECONDS

PAGE, FOR_PROGRAMS = "/jobs", "/api/v1/jobs"
WRONG = {"Authorization": "Bearer forged"}


def status(browser: FlaskClient, path: str = FOR_PROGRAMS, **more: Any) -> int:
    return browser.get(path, **more).status_code


class Unread:
    """A body that must not be read."""

    def read(self, _size: int = -1) -> bytes:
        raise AssertionError("an anonymous user's body was read")


@pytest.mark.parametrize("headers", [{}, WRONG])
def test_an_anonymous_users_upload_is_refused_before_its_body_is_read(
    site: SignInSite, headers: dict[str, str]
) -> None:
    unread = {"CONTENT_LENGTH": str(10**9), "wsgi.input": Unread()}
    form = "multipart/form-data; boundary=x"
    for path in ("/", "/api/v1/classify", f"/api/v1/jobs/{UNKNOWN_ID}/images", "/file-upload"):
        answer = site.anonymous().post(path, headers=headers, content_type=form, environ_overrides=unread)
        assert answer.status_code == 401, path


@pytest.mark.parametrize(
    ("scope", "reads", "classifies", "operates"),
    [("read", 200, 403, 403), ("classify", 403, 201, 403), ("operate", 403, 403, 200)],
)
def test_a_personal_token_opens_what_it_is_for(
    site: SignInSite, scope: str, reads: int, classifies: int, operates: int
) -> None:
    site.provider.add("ops", is_operator=True)
    programme, headers = site.anonymous(), site.with_token("ops", scope)
    assert status(programme, headers=headers) == reads
    assert programme.post(FOR_PROGRAMS, headers=headers).status_code == classifies
    assert status(programme, "/api/v1/fleet/instances", headers=headers) == operates
    assert status(programme, "/api/v1/tokens", headers=headers) == 403
    assert programme.post("/api/v1/tokens", headers=headers).status_code == 403


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer forged", "Basic YTpi", "Bearer fst_forged", "\x01"])
def test_a_wrong_header_is_refused_also_where_a_good_cookie_or_nothing_would_do(
    site: SignInSite, header: str
) -> None:
    browser = site.signed_in("ada")
    for path in (PAGE, FOR_PROGRAMS, "/api", "/api/v1", "/nowhere"):
        assert status(browser, path, headers={"Authorization": header}) == 401, path


def test_a_sign_out_when_a_rotation_is_due_sets_no_new_cookie(site: SignInSite) -> None:
    browser = site.signed_in("ada")
    old, form = cookie_of(browser), {"csrf_token": site.token_for_forms(browser)}
    site.clock.advance(ROTATE_SECONDS)
    [said] = browser.post("/sign-out", data=form, headers=BROWSER).headers.getlist("Set-Cookie")
    assert said.startswith(f"{COOKIE}=;")
    ids = site.access.sessions.keys.read(old)
    assert ids is not None
    for session_id in (ids.own, ids.next):
        assert site.access.sessions.open(site.access.sessions.keys.sign(session_id)) is None


def test_a_sign_in_starts_a_new_session_and_ends_the_current_one(site: SignInSite) -> None:
    browser = site.signed_in("ada")
    before = cookie_of(browser)
    with site.app.test_request_context("/", headers={"Cookie": f"{COOKIE}={before}"}):
        answer = site.access.begin(site.provider.tokens("ada"), site.app.response_class())
    assert status(browser) == 401
    keep(browser, answer.headers["Set-Cookie"])
    assert cookie_of(browser) != before
    assert status(browser) == 200


def test_a_sign_out_while_the_provider_is_away_ends_the_session_here_and_says_so(site: SignInSite) -> None:
    browser = site.signed_in("ada")
    form = {"csrf_token": site.token_for_forms(browser)}
    site.provider.away = ProviderUnreachableError("it does not answer")
    answer = browser.post("/sign-out", data=form, headers=BROWSER)
    assert (answer.status_code, "Refresh" in answer.headers, "sign out there, too" in answer.text) == (
        200,
        False,
        True,
    )
    assert status(browser) == 401


def test_a_user_whose_provider_is_away_for_long_signs_in_and_out(site: SignInSite) -> None:
    browser = site.signed_in("ada")
    form = {"csrf_token": site.token_for_forms(browser)}
    site.provider.away = ProviderUnreachableError("it does not answer")
    site.clock.advance(MAX_UNVERIFIED_SECONDS / 2)
    assert browser.get("/account").status_code == 200
    site.clock.advance(MAX_UNVERIFIED_SECONDS / 2)
    assert browser.get("/account").status_code == 503
    assert browser.post("/sign-out", data=form, headers=BROWSER).status_code == 200
    assert status(browser) == 401


def test_the_cookie_is_for_this_host_for_the_server_and_by_tls(site: SignInSite) -> None:
    """Row 38."""
    browser = site.signed_in("ada")
    cookie = browser.get_cookie(COOKIE)
    site.clock.advance(ROTATE_SECONDS)
    form = {"csrf_token": site.token_for_forms(browser)}
    for answer in (browser.get(PAGE), browser.post("/sign-out", data=form, headers=BROWSER)):
        said = answer.headers["Set-Cookie"].split("; ")
        assert said[0].startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(said)
        assert not [word for word in said if word.startswith("Domain")]
    assert cookie is not None


def test_a_page_left_open_does_not_keep_its_session_alive(site: SignInSite) -> None:
    browser = site.signed_in("ada")
    for _ in range(6):
        site.clock.advance(HOUR / 6)
        answer = browser.get(f"/jobs/{UNKNOWN_ID}/progress")
        if "Set-Cookie" in answer.headers:
            keep(browser, answer.headers["Set-Cookie"])
    assert status(browser) == 401


def unavailable(*_key: object) -> None:
    raise EndpointConnectionError(endpoint_url="https://table.example")


def test_an_unavailable_table_signs_no_user_out(site: SignInSite, monkeypatch: pytest.MonkeyPatch) -> None:
    browser, headers = site.signed_in("ada"), site.with_token("ada", "read")

    monkeypatch.setattr(MemoryTable, "get", unavailable)
    assert status(browser, PAGE) == 503
    assert status(site.anonymous(), headers=headers) == 503
    assert status(site.anonymous()) == 401
    assert status(browser, "/healthz") == 200


def test_an_unavailable_provider_makes_no_token_invalid(site: SignInSite, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchecked(_text: str) -> None:
        raise TokenUncheckedError("no keys yet")

    headers = site.with_token("ada", "read")
    monkeypatch.setattr(site.provider, "verify", unchecked)
    site.provider.away = ProviderUnreachableError("it does not answer")
    assert status(site.anonymous(), headers={"Authorization": "Bearer id.ada.1"}) == 503
    site.clock.advance(PROFILE_LIFETIME_SECONDS)
    assert status(site.anonymous(), headers=headers) == 200


FRIEND = "https://photos.example.org"


@pytest.mark.parametrize("friends", [[], [FRIEND], ["*"]])
def test_a_page_of_another_origin_needs_its_own_token_and_cannot_use_a_cookie(
    make_config: ConfigMaker, site: SignInSite, table: Table, friends: list[str]
) -> None:
    """Row 38. A subdomain is of the same site: the browser sends the cookie along."""
    config = make_config(web={"cors_origins": friends}, auth=OIDC)
    app = create_app(config, store=JobStore(table), auth=site.access)
    visitor, token = app.test_client(), site.with_token("ada", "read", "classify")
    keep(visitor, f"{COOKIE}={cookie_of(site.signed_in('ada'))}")
    there = {"Origin": FRIEND, "Sec-Fetch-Site": "same-site"}
    assert status(visitor, headers=there) == 401
    assert visitor.post(FOR_PROGRAMS, headers=there).status_code == (401 if friends else 403)
    assert visitor.post(FOR_PROGRAMS, headers=there | token).status_code == (201 if friends else 403)
    assert "Access-Control-Allow-Credentials" not in visitor.get(FOR_PROGRAMS, headers=there | token).headers
    assert status(visitor, headers={"Origin": "http://localhost"}) == 200


def test_s11_a_page_behind_cloudfront_acts_in_the_name_of_its_visitor(site: SignInSite) -> None:
    """CloudFront asks for the host name of the web tier, so `Origin` and `Host` differ."""
    visitor = site.signed_in("ada")
    page = {"Origin": "https://site.example.org"}
    assert visitor.post(FOR_PROGRAMS, headers=page | {"Sec-Fetch-Site": "same-origin"}).status_code == 201
    assert visitor.post(FOR_PROGRAMS, headers=page).status_code == 403
    for fetch_site in ("same-site", "cross-site"):
        assert visitor.get(FOR_PROGRAMS, headers=page | {"Sec-Fetch-Site": fetch_site}).status_code == 401


def test_s14_credentials_are_valid_until_they_are_revoked(site: SignInSite, monkeypatch: pytest.MonkeyPatch) -> None:
    token, browser = site.with_token("ada", "read"), site.signed_in("ada")
    cookie = {"Cookie": f"{COOKIE}={cookie_of(browser)}"}
    with site.app.test_request_context("/", headers=token):
        of_token = credentials_check()
    with site.app.test_request_context("/", headers=cookie):
        of_session = credentials_check()
    assert of_token()
    assert of_session()
    with monkeypatch.context() as patch:
        patch.setattr(MemoryTable, "get", unavailable)
        assert of_token()
        assert of_session()
    [listed] = site.access.personal_tokens.list("ada")
    site.access.personal_tokens.revoke("ada", listed.token_id)
    site.access.sessions.end(cookie_of(browser))
    assert not of_token()
    assert not of_session()


def test_the_log_names_the_user_by_their_id_and_nothing_else_of_them(
    site: SignInSite, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 42."""
    caplog.set_level(logging.DEBUG)
    browser, headers = site.signed_in("ada"), site.with_token("ada", "read")
    cookie = cookie_of(browser)
    browser.get(PAGE)
    site.anonymous().get(FOR_PROGRAMS, headers=headers)
    site.anonymous().get(FOR_PROGRAMS, headers={"Authorization": "Bearer id.nobody.secret"})
    ours = [
        record for record in caplog.records if record.name.startswith(("web_tier", "core", "services", "fleetsight"))
    ]
    assert [vars(record).get("user") for record in ours] == ["ada", "ada", "", None]
    logged = str([vars(record) for record in ours])
    for secret in ("ada@example.org", cookie, headers["Authorization"].removeprefix("Bearer "), "nobody.secret"):
        assert secret not in logged


def test_without_sign_in_everybody_is_let_in_and_there_are_no_accounts(
    config: Config, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    answer = client.get(PAGE, headers={**WRONG, "Cookie": f"{COOKIE}=x"})
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (200, False)
    assert status(client, "/api/v1/fleet/instances") == 200
    for path in ("/sign-in", "/account", "/api/v1/tokens"):
        assert status(client, path) == 404
    assert not [record for record in caplog.records if "user" in vars(record)]


TOKENS = st.text(string.ascii_letters + string.digits + "-._~+/", min_size=1, max_size=50)


@given(TOKENS, st.sampled_from(["", "Bearer ", "bearer ", "BEARER   "]))
def test_a_token_is_accepted_alone_or_after_its_scheme(token: str, scheme: str) -> None:
    assert parse_authorization(scheme + token) == token


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer one two",
        "Bearer one,Bearer two",  # two headers reach us as one
        "Bearer one\n",
        "Bearer\tone",
        "Bearer öne",
        "Bearer " + "x" * MAX_HEADER_CHARACTERS,
    ],
)
def test_a_header_without_exactly_one_token_is_rejected(header: str) -> None:
    with pytest.raises(InvalidCredentialsError) as refused:
        parse_authorization(header)
    assert "one" not in str(refused.value)


FLEET = "/api/v1/fleet/instances"


def test_a_user_who_is_no_operator_any_more_has_no_operators_token_within_a_minute(
    site: SignInSite, table: Table
) -> None:
    site.provider.add("ops", is_operator=True)
    headers, other = site.with_token("ops", "operate"), access_of(table, site.provider)
    assert status(site.anonymous(), FLEET, headers=headers) == 200
    site.provider.add("ops")
    other.profiles.put(site.provider.verify("id.ops.1"))  # by another process, at the next sign-in or refresh
    assert status(site.anonymous(), FLEET, headers=headers) == 200, "the profile is read once a minute"
    site.clock.advance(PROFILE_LIFETIME_SECONDS)
    assert status(site.anonymous(), FLEET, headers=headers) == 403


def test_a_refresh_of_a_session_tells_personal_tokens_at_once_what_their_owner_may_do(site: SignInSite) -> None:
    browser = site.operator()
    headers = site.with_token("ops", "operate")
    assert status(site.anonymous(), FLEET, headers=headers) == 200
    site.provider.add("ops")
    site.clock.advance(ROTATE_SECONDS)
    assert (status(browser, FLEET), status(site.anonymous(), FLEET, headers=headers)) == (403, 403)


def test_a_personal_token_ends_with_the_profile_of_its_owner(site: SignInSite, table: Table) -> None:
    headers = site.with_token("ada", "read")
    table.delete_all([(user_partition("ada"), "PROFILE")])
    assert status(site.anonymous(), headers=headers) == 401


def test_a_providers_token_of_a_sign_in_before_the_last_sign_out_everywhere_is_refused(site: SignInSite) -> None:
    site.provider.add("ada")

    def token() -> dict[str, str]:
        return {"Authorization": f"Bearer {site.provider.tokens('ada').id_token}"}

    earlier, browser = token(), site.signed_in("ada")
    others = {"Authorization": f"Bearer {site.provider.tokens(site.provider.add('eve').sub).id_token}"}
    assert status(site.anonymous(), headers=earlier) == 200
    form = {"csrf_token": site.token_for_forms(browser)}
    assert browser.post("/account/sessions/end", data=form, headers=BROWSER).status_code == 200
    assert [status(site.anonymous(), headers=each) for each in (earlier, token(), others)] == [401, 200, 200]
