"""Sessions: how long they last, that what has ended stays ended, their forms (row 38), and their configuration."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from botocore.exceptions import EndpointConnectionError
from flask import Response
from flask.testing import FlaskClient

from core.ids import new_id
from core.provision import provision_user_pool
from services.accounts import OPERATORS, Accounts
from services.clients import Clients
from services.clock import utc_now
from services.errors import ConfigError
from services.table import Table
from services.users import NewPasswordRequired, PoolTokens, UserPool
from tests.conftest import ConfigMaker
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.fixtures import memory_table
from tests.support.jobs import UNKNOWN_ID
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import BEGIN, BROWSER, HOUR, MINUTE, PlayedPool, SignInSite, sessions_of
from web_tier.app import create_app
from web_tier.auth.context import create_auth
from web_tier.auth.guard import CSRF_FIELD, CSRF_HEADER
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE
from web_tier.auth.sessions import (
    MAX_UNVERIFIED_SECONDS,
    OLD_ID_SECONDS,
    ROTATE_SECONDS,
    OpenSession,
    RenewedTokens,
    Sessions,
)
from web_tier.http.backend import Backend

table = memory_table


@pytest.fixture
def sessions(table: Table, pool: PlayedPool) -> Sessions:
    """The sessions in one process; `other` has them in another."""
    pool.add("ada")
    return sessions_of(table, pool)


@pytest.fixture
def other(table: Table, pool: PlayedPool) -> Sessions:
    return sessions_of(table, pool)


@pytest.fixture
def cookie(sessions: Sessions, pool: PlayedPool) -> str:
    """Ada's, who has just signed in."""
    return sessions.begin(pool.verify("id.ada.1"), "refresh.ada.0")


def rotated(sessions: Sessions, cookie: str) -> str:
    """Open a session whose id is due, and return its new cookie."""
    opened = sessions.open(cookie)
    assert opened is not None
    assert opened.cookie is not None
    return opened.cookie


def test_a_signed_cookie_without_a_session_opens_none(sessions: Sessions) -> None:
    assert sessions.open(sessions.keys.sign("made-up")) is None
    assert sessions.end(sessions.keys.sign("made-up")) is None
    assert sessions.end("forged") is None


def test_the_table_holds_neither_the_id_nor_the_refresh_token(cookie: str, table: Table) -> None:
    """Row 42."""
    stored = str(cast(MemoryTable, table).items)
    assert "SESSION#" in stored
    owner, session_id, _ = cookie.split(".")
    assert (owner in stored, session_id in stored) == (True, False)
    assert "refresh.ada" not in stored


def test_an_idle_user_must_sign_in_again(sessions: Sessions, cookie: str, clock: ManualClock) -> None:
    clock.advance(HOUR)
    assert sessions.open(cookie) is None


def test_an_active_user_stays_until_the_session_ends(sessions: Sessions, cookie: str, clock: ManualClock) -> None:
    for _ in range(11 * 2):
        clock.advance(30 * MINUTE)
        cookie = rotated(sessions, cookie)
    clock.advance(59 * MINUTE)
    cookie = rotated(sessions, cookie)
    clock.advance(MINUTE)
    assert sessions.open(cookie) is None


def test_a_session_that_one_process_ends_is_refused_by_all(cookie: str, sessions: Sessions, other: Sessions) -> None:
    assert other.open(cookie) is not None
    assert sessions.end(cookie) == "refresh.ada.0"
    assert other.open(cookie) is None
    assert other.end(cookie) is None


def test_concurrent_use_does_not_restore_an_ended_session(
    cookie: str, sessions: Sessions, clock: ManualClock
) -> None:
    ids = sessions.keys.read(cookie)
    assert ids is not None
    sessions.end(cookie)
    sessions.store.touch(ids.own, int(clock.epoch_seconds()))
    assert sessions.open(cookie) is None
    assert sessions.store.find(ids.own) is None


def test_a_session_is_rotated_every_15_minutes(sessions: Sessions, cookie: str, clock: ManualClock) -> None:
    clock.advance(ROTATE_SECONDS - 1)
    kept = sessions.open(cookie)
    assert kept is not None
    assert kept.cookie is None
    clock.advance(1)
    following = rotated(sessions, cookie)
    assert following != cookie
    opened = sessions.open(following)
    assert opened is not None
    assert opened.record.owner == "ada"


def test_the_old_id_is_accepted_for_a_minute_after_rotation(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock
) -> None:
    clock.advance(ROTATE_SECONDS)
    following = rotated(sessions, cookie)
    clock.advance(OLD_ID_SECONDS - 1)
    assert rotated(other, cookie) == following
    clock.advance(1)
    assert other.open(cookie) is None
    assert other.open(following) is not None


def meanwhile(sessions: Sessions, happens: Callable[[], object]) -> Sessions:
    """Return `sessions` where something happens while the pool is asked, at a rotation."""

    def renew(owner: str, refresh_token: str) -> RenewedTokens:
        happens()
        return sessions.renew(owner, refresh_token)

    return Sessions(sessions.store, sessions.keys, sessions.times, renew, sessions.revocations, sessions.clock)


def test_one_of_concurrent_requests_rotates_and_all_are_accepted(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    clock.advance(ROTATE_SECONDS)
    found: list[OpenSession | None] = []
    following = rotated(meanwhile(sessions, lambda: found.append(other.open(cookie))), cookie)
    assert found[0] is not None
    assert found[0].cookie is None
    assert pool.asked == ["refresh.ada.0"]
    assert rotated(other, cookie) == following


def test_a_session_that_a_wrong_clock_has_begun_ends_and_the_others_stay(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    clock.advance(365 * 24 * HOUR)
    wrong = sessions.begin(pool.verify("id.ada.1"), "refresh.ada.0")
    assert (sessions.open(cookie), sessions.open(wrong) is None) == (None, False)
    clock.advance(-365 * 24 * HOUR)
    assert (sessions.open(wrong), sessions.open(cookie) is None) == (None, False)


def test_an_unused_session_ends_in_time_though_the_clock_was_ahead(
    sessions: Sessions, cookie: str, clock: ManualClock
) -> None:
    for _ in range(5):
        clock.advance(HOUR - 1)
        cookie = rotated(sessions, cookie)
    clock.advance(-5 * (HOUR - 1))
    assert sessions.is_open(cookie)
    clock.advance(HOUR)
    assert not sessions.is_open(cookie)


def test_an_account_is_checked_in_time_though_the_clock_was_ahead(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    clock.advance(HOUR - 1)
    following = rotated(sessions, cookie)
    clock.advance(1 - HOUR)
    pool.asked.clear()
    rotated(sessions, following)
    assert len(pool.asked) == 1


def test_a_sign_out_during_a_rotation_ends_the_session(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock
) -> None:
    clock.advance(ROTATE_SECONDS)
    assert meanwhile(sessions, lambda: other.end(cookie)).open(cookie) is None
    ids = sessions.keys.read(cookie)
    assert ids is not None
    assert sessions.store.find(ids.next) is None


def test_a_rotated_session_keeps_its_second_factor(sessions: Sessions, pool: PlayedPool, clock: ManualClock) -> None:
    with_code = sessions.begin(pool.verify("id.ada.1"), "refresh.ada.1", second_factor=True)
    clock.advance(ROTATE_SECONDS)
    later = sessions.open(rotated(sessions, with_code))
    assert later is not None
    assert later.record.second_factor


def test_s7_a_session_that_is_rotated_while_all_end_has_ended(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock
) -> None:
    clock.advance(ROTATE_SECONDS)
    following = rotated(meanwhile(sessions, lambda: other.revocations.revoke_all_of("ada")), cookie)
    assert [sessions.open(each) for each in (cookie, following)] == [None, None]


def test_e1_a_session_of_a_sign_in_before_the_revocation_begins_ended(
    sessions: Sessions, pool: PlayedPool, clock: ManualClock
) -> None:
    """The pool has taken the old password, and the new one is set before the session is stored."""
    claims = pool.verify(pool.tokens("ada").id_token)
    sessions.revocations.revoke_all_of("ada")
    assert sessions.open(sessions.begin(claims, "refresh.ada.0")) is None
    assert sessions.list_of("ada") == []
    later = sessions.begin(pool.verify(pool.tokens("ada").id_token), "refresh.ada.0")
    assert sessions.is_open(later)


def test_a_clock_that_is_behind_for_a_while_brings_back_no_session(sessions: Sessions, pool: PlayedPool) -> None:
    cookie = sessions.begin(pool.verify(pool.tokens("ada").id_token), "refresh.ada.0")
    sessions.revocations.revoke_all_of("ada")
    replace(sessions.revocations, clock=ManualClock(sessions.clock.monotonic() - 3_600, BEGIN)).last_of("ada")
    assert sessions.open(cookie) is None
    assert sessions.list_of("ada") == []


def test_one_session_ends_under_every_id_and_the_others_stay(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    clock.advance(ROTATE_SECONDS)
    other = sessions.begin(pool.verify("id.ada.1"), "refresh.ada.1", "Firefox, Linux, 192.0.2.7")
    following = rotated(sessions, cookie)
    families = {each.device: each.family for each in sessions.list_of("ada")}
    assert set(families) == {"Firefox, Linux, 192.0.2.7", ""}
    sessions.end_family("ada", families[""])
    assert [sessions.open(each) is None for each in (cookie, following, other)] == [True, True, False]


@pytest.mark.parametrize("with_the_old", [False, True])
def test_a_sign_out_ends_the_session_under_both_ids(
    sessions: Sessions, cookie: str, clock: ManualClock, with_the_old: bool
) -> None:
    clock.advance(ROTATE_SECONDS)
    following = rotated(sessions, cookie)
    assert (sessions.end(cookie if with_the_old else following) or "").startswith("refresh.ada")
    assert sessions.open(cookie) is None
    assert sessions.open(following) is None


def test_a_rotation_updates_the_groups_of_the_user(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    pool.add("ada", OPERATORS)
    clock.advance(ROTATE_SECONDS)
    opened = sessions.open(cookie)
    assert opened is not None
    assert opened.record.groups == {OPERATORS}


def test_a_session_ends_at_the_next_rotation_after_the_pool_ended_it(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    del pool.accounts["ada"]
    clock.advance(ROTATE_SECONDS)
    assert sessions.open(cookie) is None
    pool.add("ada")
    assert sessions.open(cookie) is None


def test_sessions_continue_for_a_bounded_time_while_the_pool_is_unavailable(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    pool.away = EndpointConnectionError(endpoint_url="https://pool.example")
    clock.advance(ROTATE_SECONDS)
    kept = sessions.open(cookie)
    assert kept is not None
    assert kept.cookie is None
    clock.advance((MAX_UNVERIFIED_SECONDS - ROTATE_SECONDS) / 2)
    assert sessions.open(cookie) is not None
    clock.advance((MAX_UNVERIFIED_SECONDS - ROTATE_SECONDS) / 2)
    for _ in range(2):
        with pytest.raises(EndpointConnectionError):
            sessions.open(cookie)
    pool.away = None
    rotated(sessions, cookie)


def test_a_token_for_forms_holds_through_rotations_and_for_its_session_alone(
    sessions: Sessions, cookie: str, clock: ManualClock, pool: PlayedPool
) -> None:
    before = sessions.open(cookie)
    assert before is not None
    token = sessions.csrf_token(before)
    assert sessions.csrf_token(before) != token
    clock.advance(ROTATE_SECONDS)
    after = sessions.open(rotated(sessions, cookie))
    assert after is not None
    assert sessions.csrf_matches(after, token)
    another = sessions.open(sessions.begin(pool.verify("id.ada.1"), "refresh.ada.0"))
    assert another is not None
    assert not sessions.csrf_matches(another, token)
    for forged in ("", ".", token[:-2], token.partition(".")[2], f"x{token}"):
        assert not sessions.csrf_matches(after, forged)


FORM, FOR_PROGRAMS = f"/jobs/{UNKNOWN_ID}/delete", "/api/v1/jobs"
PAST = 404
"""What a form gets that is let past: there is no such job."""


@pytest.fixture
def browser(site: SignInSite) -> FlaskClient:
    return site.signed_in("ada")


def post_form(browser: FlaskClient, path: str = FORM, token: str | None = None, **headers: str) -> int:
    data = {} if token is None else {CSRF_FIELD: token}
    return browser.post(path, data=data, headers=headers).status_code


def test_a_form_of_the_session_is_taken(site: SignInSite, browser: FlaskClient) -> None:
    for headers in (BROWSER, {"Origin": "http://localhost"}):
        assert post_form(browser, token=site.token_for_forms(browser), **headers) == PAST
        assert post_form(browser, **headers, **{CSRF_HEADER: site.token_for_forms(browser)}) == PAST


def test_a_form_without_the_sessions_token_is_refused(browser: FlaskClient) -> None:
    for token in (None, "", "forged", "a.b", "é"):
        assert post_form(browser, token=token, **BROWSER) == 403, token


def test_a_form_with_the_token_of_another_session_is_refused(site: SignInSite, browser: FlaskClient) -> None:
    """An attacker has a session too, and makes another user send its form."""
    theirs = site.token_for_forms(site.signed_in("eve"))
    assert post_form(browser, token=theirs, **BROWSER) == 403
    assert post_form(browser, **BROWSER, **{CSRF_HEADER: theirs}) == 403


def test_a_request_without_its_origin_is_rejected(site: SignInSite, browser: FlaskClient) -> None:
    for path in (FORM, FOR_PROGRAMS):
        assert post_form(browser, path, token=site.token_for_forms(browser)) == 403, path


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_request_of_another_site_is_rejected_with_a_valid_token_too(
    site: SignInSite, browser: FlaskClient, headers: dict[str, str]
) -> None:
    token = site.token_for_forms(browser)
    for path in (FORM, FOR_PROGRAMS, "/sign-out"):
        assert post_form(browser, path, token=token, **headers) == 403, path
    assert browser.get("/jobs").status_code == 200


def test_an_anonymous_form_of_an_older_tab_works_and_only_from_a_page_of_ours(
    browser: FlaskClient,
) -> None:
    forgotten = {"email": "ada@example.org"}
    assert browser.post("/forgot", data=forgotten, headers=BROWSER).status_code == 200
    assert browser.post("/forgot", data=forgotten).status_code == 403
    assert browser.post("/forgot", data=forgotten, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.post("/sign-out", headers=BROWSER).status_code == 403


def test_scripts_of_our_pages_call_the_api_by_where_they_come_from_alone(browser: FlaskClient) -> None:
    assert post_form(browser, FOR_PROGRAMS, **BROWSER) == 201


def test_a_program_with_a_token_needs_no_form_token_and_its_cookie_is_ignored(
    site: SignInSite, browser: FlaskClient
) -> None:
    token = site.with_token("bob", "classify")
    assert post_form(site.anonymous(), FORM, **token) == PAST
    assert post_form(browser, FORM, **token) == PAST


ADA, PASSWORD = "ada@example.org", "Correct-Horse-7-Battery"
SIGN_IN = {"mode": "cognito", "user_pool_id": "us-east-1_abc123", "client_id": "client"}


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys"
    file.write_text("k" * 32 + "\n")
    monkeypatch.setenv(KEYS_FILE_VARIABLE, str(file))
    return file


def test_without_keys_the_web_tier_does_not_start(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_FILE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=KEYS_FILE_VARIABLE):
        create_app(make_config(auth=SIGN_IN))


def test_a_user_of_a_local_pool_signs_in_stays_and_is_disabled(
    make_config: ConfigMaker, provisioned: Clients, keys: Path
) -> None:
    pool_id, client_id = provision_user_pool(provisioned, new_id())
    accounts, pool = Accounts(provisioned.cognito_idp, pool_id), UserPool(provisioned.cognito_idp, pool_id, client_id)
    wanted = pool.sign_in(ADA, accounts.add(ADA))
    assert isinstance(wanted, NewPasswordRequired)
    tokens = pool.set_first_password(ADA, wanted.session, PASSWORD)
    assert isinstance(tokens, PoolTokens)
    auth = {"mode": "cognito", "user_pool_id": pool_id, "client_id": client_id}
    access = create_auth(Backend(make_config(auth=auth))).services
    app = create_app(make_config(auth=auth), auth=access)

    with app.test_request_context("/"):
        cookie = access.begin(tokens, Response()).headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        claims = access.verifier.verify(tokens.id_token)
        kept = access.sessions.begin(claims, "")  # as after the set-up of a second factor, which ends all tokens
    header = {"Authorization": f"Bearer {tokens.access_token}"}
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 200
    later = replace(access.sessions, clock=PlayedClock(utc_now=lambda: utc_now() + timedelta(seconds=ROTATE_SECONDS)))
    cookies = []
    for opened in (later.open(cookie), later.open(kept)):
        assert opened is not None
        assert opened.cookie is not None
        assert opened.record.email == ADA
        cookies.append(opened.cookie)
    accounts.set_enabled(ADA, False)
    last = replace(
        access.sessions, clock=PlayedClock(utc_now=lambda: utc_now() + timedelta(seconds=2 * ROTATE_SECONDS))
    )
    assert [last.open(each) for each in cookies] == [None, None]
    access.accounts.evict(claims.sub)
    assert app.test_client().get("/api/v1/jobs", headers=header).status_code == 401
