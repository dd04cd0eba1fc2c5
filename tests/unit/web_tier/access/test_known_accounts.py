"""What the pool says of accounts is remembered for a minute, and no longer."""

import pytest

from services.users import Account
from tests.support.people import Clock
from web_tier.access import known_accounts
from web_tier.access.known_accounts import LIFETIME_SECONDS, KnownAccounts


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Pool:
    def __init__(self) -> None:
        self.asked: list[str] = []
        self.enabled = True

    def __call__(self, sub: str) -> Account | None:
        self.asked.append(sub)
        return None if sub == "deleted" else Account(sub, "", self.enabled, frozenset())


def test_the_pool_is_asked_once_a_minute_also_for_who_is_deleted(clock: Clock) -> None:
    pool = Pool()
    known = KnownAccounts(pool, clock.seconds)
    for _ in range(2):
        assert known.find("ada") is not None
        assert known.find("deleted") is None
    assert pool.asked == ["ada", "deleted"]
    clock.go_on(LIFETIME_SECONDS)
    known.find("ada")
    assert pool.asked == ["ada", "deleted", "ada"]


def test_who_is_disabled_is_let_in_for_a_minute_at_most(clock: Clock) -> None:
    pool = Pool()
    known = KnownAccounts(pool, clock.seconds)
    assert known.find("ada") is not None
    pool.enabled = False
    clock.go_on(LIFETIME_SECONDS)
    assert known.find("ada") is None


def test_no_more_accounts_are_remembered_than_there_is_room_for(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_accounts, "MOST", 2)
    pool = Pool()
    known = KnownAccounts(pool, clock.seconds)
    for sub in ("ada", "bob", "eve", "bob", "ada"):
        known.find(sub)
    assert pool.asked == ["ada", "bob", "eve", "ada"]
