"""Sessions: how long they last, that what has ended stays ended, their forms (row 38), and their configuration."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import pytest
from flask.testing import FlaskClient

from core.credentials import PersonalTokens
from core.tokens import TokenRefusedError, TokenUncheckedError
from services.errors import ConfigError
from services.table import Table, TableBusyError
from tests.conftest import ConfigMaker
from tests.support.clocks import ManualClock
from tests.support.jobs import UNKNOWN_ID
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.people import BEGIN, BROWSER, HOUR, KEY, MINUTE, OIDC, PlayedProvider, SignInSite, access_of
from web_tier.app import create_app
from web_tier.auth.guard import CSRF_FIELD, CSRF_HEADER
from web_tier.auth.provider import ProviderUnreachableError
from web_tier.auth.session_keys import KEYS_FILE_VARIABLE, SessionKeys
from web_tier.auth.sessions import (
    CLAIM_SECONDS,
    MAX_UNVERIFIED_SECONDS,
    OLD_ID_SECONDS,
    ROTATE_SECONDS,
    OpenSession,
    RenewedTokens,
    RotatedSession,
    SessionRecord,
    Sessions,
    SessionStore,
)


@pytest.fixture
def sessions(table: Table, provider: PlayedProvider) -> Sessions:
    """The sessions in one process; `other` has them in another."""
    provider.add("ada")
    return access_of(table, provider).sessions


@pytest.fixture
def other(table: Table, provider: PlayedProvider) -> Sessions:
    return access_of(table, provider).sessions


@pytest.fixture
def cookie(sessions: Sessions, provider: PlayedProvider) -> str:
    """Ada's, who has just signed in."""
    return sessions.begin(provider.verify("id.ada.1"), "refresh.ada.0")


def rotated(sessions: Sessions, cookie: str) -> str:
    """Open a session whose id is due, and return its new cookie."""
    opened = sessions.open(cookie)
    assert opened is not None
    assert opened.cookie is not None
    return opened.cookie


def test_a_signed_cookie_without_a_session_opens_none(sessions: Sessions) -> None:
    for cookie in (sessions.keys.sign("made-up"), "forged"):
        assert sessions.open(cookie) is None
        sessions.end(cookie)


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
    sessions.end(cookie)
    assert other.open(cookie) is None
    other.end(cookie)


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
    """Return `sessions` where something happens while the provider is asked, at a rotation."""

    def renew(refresh_token: str) -> RenewedTokens:
        happens()
        return sessions.renew(refresh_token)

    return replace(sessions, renew=renew)


def test_one_of_concurrent_requests_rotates_and_all_are_accepted(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    clock.advance(ROTATE_SECONDS)
    found: list[OpenSession | None] = []
    following = rotated(meanwhile(sessions, lambda: found.append(other.open(cookie))), cookie)
    assert found[0] is not None
    assert found[0].cookie is None
    assert provider.asked == ["refresh.ada.0"]
    assert rotated(other, cookie) == following


@dataclass(frozen=True)
class OvertakenStore(SessionStore):
    """Sessions where something happens after each one is read."""

    happens: Callable[[], object]

    def find(self, session_id: str) -> SessionRecord | RotatedSession | None:
        found = super().find(session_id)
        self.happens()
        return found


def test_a_request_that_another_one_overtakes_before_it_rotates_the_session_is_accepted(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    clock.advance(ROTATE_SECONDS)
    overtaken = replace(sessions, store=OvertakenStore(sessions.store.table, lambda: rotated(other, cookie)))
    opened = overtaken.open(cookie)
    assert opened is not None
    assert opened.cookie is None
    assert provider.asked == ["refresh.ada.0"]


def test_a_rotation_that_takes_so_long_that_another_request_rotates_leads_to_one_session(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock
) -> None:
    cookies: list[str] = []

    def wait() -> None:
        clock.advance(CLAIM_SECONDS)
        cookies.append(rotated(other, cookie))

    clock.advance(ROTATE_SECONDS)
    cookies.append(rotated(meanwhile(sessions, wait), cookie))
    assert cookies[0] == cookies[1]
    assert sessions.open(cookies[0]) is not None


def test_a_session_that_a_wrong_clock_has_begun_ends_and_the_others_stay(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    clock.advance(365 * 24 * HOUR)
    wrong = sessions.begin(provider.verify("id.ada.1"), "refresh.ada.0")
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
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    clock.advance(HOUR - 1)
    following = rotated(sessions, cookie)
    clock.advance(1 - HOUR)
    provider.asked.clear()
    rotated(sessions, following)
    assert len(provider.asked) == 1


def test_a_sign_out_during_a_rotation_ends_the_session(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock
) -> None:
    clock.advance(ROTATE_SECONDS)
    assert meanwhile(sessions, lambda: other.end(cookie)).open(cookie) is None
    ids = sessions.keys.read(cookie)
    assert ids is not None
    assert sessions.store.find(ids.next) is None


def test_s7_a_session_that_is_rotated_while_all_end_has_ended(
    sessions: Sessions, other: Sessions, cookie: str, clock: ManualClock
) -> None:
    clock.advance(ROTATE_SECONDS)
    following = rotated(meanwhile(sessions, lambda: other.revocations.revoke_all_of("ada")), cookie)
    assert [sessions.open(each) for each in (cookie, following)] == [None, None]


def test_e1_a_session_of_a_sign_in_before_the_revocation_begins_ended(
    sessions: Sessions, provider: PlayedProvider, clock: ManualClock
) -> None:
    claims = provider.verify(provider.tokens("ada").id_token)
    sessions.revocations.revoke_all_of("ada")
    assert sessions.open(sessions.begin(claims, "refresh.ada.0")) is None
    later = sessions.begin(provider.verify(provider.tokens("ada").id_token), "refresh.ada.0")
    assert sessions.is_open(later)


def test_a_clock_that_is_behind_for_a_while_brings_back_no_session(
    sessions: Sessions, provider: PlayedProvider
) -> None:
    cookie = sessions.begin(provider.verify(provider.tokens("ada").id_token), "refresh.ada.0")
    sessions.revocations.revoke_all_of("ada")
    replace(sessions.revocations, clock=ManualClock(sessions.clock.monotonic() - 3_600, BEGIN)).last_of("ada")
    assert sessions.open(cookie) is None


@pytest.mark.parametrize("with_the_old", [False, True])
def test_a_sign_out_ends_the_session_under_both_ids(
    sessions: Sessions, cookie: str, clock: ManualClock, with_the_old: bool
) -> None:
    clock.advance(ROTATE_SECONDS)
    following = rotated(sessions, cookie)
    sessions.end(cookie if with_the_old else following)
    assert sessions.open(cookie) is None
    assert sessions.open(following) is None


def test_a_rotation_tells_the_session_what_the_provider_says_of_its_user(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    provider.add("ada", is_operator=True)
    clock.advance(ROTATE_SECONDS)
    opened = sessions.open(cookie)
    assert opened is not None
    assert opened.record.is_operator


def test_a_refresh_without_an_id_token_leaves_the_session_as_it_is(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    provider.refreshes_id_tokens = False
    provider.add("ada", is_operator=True)
    for _ in range(2):
        clock.advance(ROTATE_SECONDS)
        cookie = rotated(sessions, cookie)
    opened = sessions.open(cookie)
    assert opened is not None
    assert (opened.record.email, opened.record.is_operator) == ("ada@example.org", False)
    assert provider.asked == ["refresh.ada.0", "refresh.ada.1"]


@pytest.fixture
def tokens(sessions: Sessions, provider: PlayedProvider) -> PersonalTokens:
    provider.add("eve")
    return sessions.tokens


def made_in(sessions: Sessions, cookie: str) -> str:
    """Return the text of a personal token that its user makes in a session."""
    opened = sessions.open(cookie)
    assert opened is not None
    of, now = opened.record, int(sessions.clock.epoch_seconds())
    return sessions.tokens.make(of.owner, of.email, "x", ["read"], 30, now, of.family)[0]


def test_a_refused_refresh_ends_its_session_with_its_tokens_and_no_others(
    sessions: Sessions, tokens: PersonalTokens, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    elsewhere = sessions.begin(provider.verify("id.ada.1"), "")
    of_eve = sessions.begin(provider.verify("id.eve.1"), "refresh.eve.0")
    own, *others = [made_in(sessions, each) for each in (cookie, elsewhere, of_eve)]
    others.append(tokens.make("ada", "", "by a token of the provider", ["read"], 30, 1)[0])
    clock.advance(ROTATE_SECONDS)
    following = rotated(sessions, cookie)
    del provider.users["ada"]
    clock.advance(ROTATE_SECONDS)
    assert sessions.open(following) is None
    assert [tokens.find(each) is None for each in (own, *others)] == [True, False, False, False]
    assert [sessions.open(each) is None for each in (elsewhere, of_eve)] == [False, False]
    provider.add("ada")
    assert sessions.open(following) is None


def test_a_session_without_refresh_token_asks_the_provider_nothing_and_has_its_lifetime(
    sessions: Sessions, clock: ManualClock, provider: PlayedProvider
) -> None:
    cookie = sessions.begin(provider.verify("id.ada.1"), "")
    del provider.users["ada"]
    for _ in range(11 * 2 + 1):
        clock.advance(30 * MINUTE)
        cookie = rotated(sessions, cookie)
    clock.advance(30 * MINUTE)
    assert (sessions.open(cookie), provider.asked) == (None, [])


def test_a_refresh_that_answers_for_another_user_ends_the_session(
    sessions: Sessions, tokens: PersonalTokens, clock: ManualClock, provider: PlayedProvider
) -> None:
    cookie = sessions.begin(provider.verify("id.ada.1"), "refresh.eve.0")
    clock.advance(ROTATE_SECONDS)
    assert sessions.open(cookie) is None


def test_a_session_whose_refresh_token_no_key_opens_any_more_ends(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    new = "the key of the sessions since this morning"
    between, later = (replace(sessions, keys=SessionKeys(keys)) for keys in ([new, KEY], [new]))
    clock.advance(ROTATE_SECONDS)
    rotated(sessions, cookie)
    signed_anew = rotated(between, cookie)
    assert later.open(signed_anew) is not None
    clock.advance(ROTATE_SECONDS)
    assert later.open(signed_anew) is None
    assert len(provider.asked) == 1


@pytest.mark.parametrize(
    "error", [ProviderUnreachableError("no answer"), TokenUncheckedError("no keys"), TableBusyError("throttled")]
)
def test_a_session_goes_on_for_an_hour_at_most_while_the_provider_is_away(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider, error: Exception
) -> None:
    provider.away = error
    clock.advance(ROTATE_SECONDS)
    kept = sessions.open(cookie)
    assert kept is not None
    assert kept.cookie is None
    clock.advance((MAX_UNVERIFIED_SECONDS - ROTATE_SECONDS) / 2)
    assert sessions.open(cookie) is not None
    clock.advance((MAX_UNVERIFIED_SECONDS - ROTATE_SECONDS) / 2)
    for _ in range(2):
        with pytest.raises(type(error)):
            sessions.open(cookie)
    provider.away = None
    rotated(sessions, cookie)


def test_a_session_ends_when_the_provider_has_sent_invalid_tokens_for_an_hour(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    """An error would last, also at the sign-in, since the browser sends the cookie there, too."""
    provider.away = TokenRefusedError("for another client")
    clock.advance(MAX_UNVERIFIED_SECONDS - 1)
    assert sessions.open(cookie) is not None
    clock.advance(CLAIM_SECONDS)
    assert sessions.open(cookie) is None
    provider.away = None
    assert sessions.open(cookie) is None


def test_a_token_for_forms_holds_through_rotations_and_for_its_session_alone(
    sessions: Sessions, cookie: str, clock: ManualClock, provider: PlayedProvider
) -> None:
    before = sessions.open(cookie)
    assert before is not None
    token = sessions.csrf_token(before)
    assert sessions.csrf_token(before) != token
    clock.advance(ROTATE_SECONDS)
    after = sessions.open(rotated(sessions, cookie))
    assert after is not None
    assert sessions.csrf_matches(after, token)
    another = sessions.open(sessions.begin(provider.verify("id.ada.1"), "refresh.ada.0"))
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


def test_scripts_of_our_pages_call_the_api_by_where_they_come_from_alone(browser: FlaskClient) -> None:
    assert post_form(browser, FOR_PROGRAMS, **BROWSER) == 201


def test_a_program_with_a_token_needs_no_form_token_and_its_cookie_is_ignored(
    site: SignInSite, browser: FlaskClient
) -> None:
    token = site.with_token("bob", "classify")
    assert post_form(site.anonymous(), FORM, **token) == PAST
    assert post_form(browser, FORM, **token) == PAST


def test_without_keys_the_web_tier_does_not_start(make_config: ConfigMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS_FILE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=KEYS_FILE_VARIABLE):
        create_app(make_config(auth=OIDC))
