"""Credentials of users: personal tokens, and what the provider last told of a user."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, cast

import pytest

from core.credentials import (
    MAX_TOKENS,
    PREFIX,
    PersonalToken,
    PersonalTokens,
    Profile,
    Profiles,
    Revocations,
    TokenNotMadeError,
)
from services.errors import NotFoundError
from services.table import Table
from tests.support.clocks import ManualClock, PlayedClock
from tests.support.memory_aws.calls import meeting
from tests.support.memory_aws.dynamodb import MemoryTable


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(0.0, datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC))


@pytest.fixture
def tokens(table: Table, clock: ManualClock) -> PersonalTokens:
    return PersonalTokens(table, Revocations(table, clock), clock)


def make(tokens: PersonalTokens, owner: str = "ada", days: int = 30) -> tuple[str, PersonalToken]:
    return tokens.make(
        owner, f"{owner}@example.org", "nightly", ["read", "classify"], days, int(tokens.clock.epoch_seconds())
    )


def test_the_table_does_not_hold_the_text(tokens: PersonalTokens, table: Table) -> None:
    """Row 42."""
    text, made = make(tokens)
    stored = str(cast(MemoryTable, table).items)
    assert made.token_id in stored
    assert text.removeprefix(PREFIX) not in stored
    assert text not in repr(made)


def test_it_is_taken_until_it_expires(tokens: PersonalTokens, clock: ManualClock) -> None:
    text, _ = make(tokens, days=2)
    clock.at += timedelta(days=2, seconds=-1)
    assert tokens.find(text) is not None
    clock.at += timedelta(seconds=1)
    assert tokens.find(text) is None
    assert tokens.list("ada") == []


def test_a_text_that_is_no_id_is_unknown_without_a_key_too_long_for_the_table(
    tokens: PersonalTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryTable, "get", lambda *_: pytest.fail("DynamoDB would refuse it"))
    with pytest.raises(NotFoundError):
        tokens.revoke("ada", "x" * 2_000)


def test_e1_a_token_ends_with_the_sign_in_it_was_made_from(tokens: PersonalTokens, clock: ManualClock) -> None:
    (before, _), signed_in = make(tokens), int(clock.epoch_seconds())
    waits: list[float] = []
    replace(tokens.revocations, clock=PlayedClock(utc_now=clock.utc_now, sleep=waits.append)).revoke_all_of("ada")
    assert waits == [0.5]
    clock.at += timedelta(seconds=0.5)
    (after, _), (others, _) = make(tokens), make(tokens, owner="eve")
    late, _ = tokens.make("ada", "", "stored late", ["read"], 1, signed_in)
    assert [tokens.find(each) is None for each in (before, after, others, late)] == [True, False, False, True]
    assert [token.name for token in tokens.list("ada")] == ["nightly"]


def test_e1_a_revocation_by_a_clock_that_was_years_ahead_locks_nobody_out(
    tokens: PersonalTokens, clock: ManualClock
) -> None:
    text, _ = make(tokens)
    ahead = replace(tokens.revocations, clock=PlayedClock(utc_now=lambda: clock.utc_now() + timedelta(seconds=1e8)))
    ahead.revoke_all_of("ada")
    clock.at += timedelta(seconds=1)
    assert tokens.find(text) is None
    clock.at += timedelta(seconds=1)
    later, _ = make(tokens)
    assert tokens.find(later) is not None


@pytest.mark.parametrize(("revoking", "reading"), [(3_600, 0), (0, 3_600)], ids=["revoking", "reading"])
def test_a_clock_that_is_behind_for_a_while_brings_back_no_token(
    tokens: PersonalTokens, clock: ManualClock, revoking: int, reading: int
) -> None:
    text, _ = make(tokens)

    def process_behind_by(seconds: int) -> Revocations:
        return Revocations(tokens.table, PlayedClock(utc_now=lambda: clock.utc_now() - timedelta(seconds=seconds)))

    process_behind_by(revoking).revoke_all_of("ada")
    process_behind_by(reading).last_of("ada")
    clock.at += timedelta(seconds=1)
    assert tokens.find(text) is None
    assert tokens.find(make(tokens)[0]) is not None


def test_the_day_of_its_last_use_is_known(tokens: PersonalTokens, clock: ManualClock) -> None:
    text, _ = make(tokens)
    assert tokens.list("ada")[0].last_used is None
    tokens.find(text)
    clock.at += timedelta(hours=1)
    tokens.find(text)
    assert tokens.list("ada")[0].last_used == date(2026, 3, 1)
    clock.at += timedelta(days=1)
    tokens.find(text)
    assert tokens.list("ada")[0].last_used == date(2026, 3, 2)


def test_a_use_at_the_same_moment_does_not_bring_back_what_was_revoked(
    tokens: PersonalTokens, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, made = make(tokens)
    set_attributes = MemoryTable.set

    def revoked_meanwhile(*use: Any) -> bool:
        monkeypatch.setattr(MemoryTable, "set", set_attributes)
        tokens.revoke("ada", made.token_id)
        return set_attributes(*use)

    monkeypatch.setattr(MemoryTable, "set", revoked_meanwhile)
    tokens.find(text)
    assert cast(MemoryTable, table).items == {}


def test_there_are_at_most_twenty_of_a_user(tokens: PersonalTokens, clock: ManualClock) -> None:
    for _ in range(MAX_TOKENS):
        make(tokens, days=1)
    with pytest.raises(TokenNotMadeError, match="revoke one"):
        make(tokens)
    assert len(tokens.list("ada")) == MAX_TOKENS
    make(tokens, owner="bob")
    clock.at += timedelta(days=1)
    make(tokens)


def test_those_that_are_made_at_the_same_moment_are_not_more_either(tokens: PersonalTokens) -> None:
    for _ in range(MAX_TOKENS - 2):
        make(tokens)
    cast(MemoryTable, tokens.table).call = meeting("Query", 6)

    def try_to(_number: int) -> bool:
        try:
            make(tokens)
        except TokenNotMadeError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(try_to, range(6))) <= 2
    assert len(tokens.list("ada")) <= MAX_TOKENS


def test_the_tokens_that_a_session_has_made_are_revoked_with_it(tokens: PersonalTokens, table: Table) -> None:
    def made_in(owner: str, family: str) -> str:
        return tokens.make(owner, "", "made", ["read"], 1, int(tokens.clock.epoch_seconds()), family)[0]

    ended, other, by_api, of_eve = (
        made_in("ada", "f1"),
        made_in("ada", "f2"),
        made_in("ada", ""),
        made_in("eve", "f1"),
    )
    tokens.revoke_made_in("ada", "f1")
    assert [tokens.find(each) is None for each in (ended, other, by_api, of_eve)] == [True, False, False, False]
    assert len(tokens.list("ada")) == 2
    tokens.revoke_made_in("ada", "f1")


def test_the_last_profile_of_a_user_replaces_the_one_before(table: Table) -> None:
    profiles = Profiles(table)
    assert profiles.find("ada") is None
    for profile in (Profile("ada", "ada@example.org", True, False), Profile("ada", "", False, True)):
        profiles.put(profile)
        profiles.put(Profile("eve", "eve@example.org", True, True))
        assert profiles.find("ada") == profile


def test_the_deletion_of_a_users_data_leaves_only_the_revocation(tokens: PersonalTokens, table: Table) -> None:
    Profiles(table).put(Profile("ada", "ada@example.org", True, False))
    text, _ = make(tokens)
    others, _ = make(tokens, owner="eve")
    tokens.revocations.delete_all_of("ada")
    assert tokens.find(text) is None
    assert Profiles(table).find("ada") is None
    assert tokens.find(others) is not None
    assert "ada@" not in str(cast(MemoryTable, table).items)
