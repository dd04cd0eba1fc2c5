"""A pool's policy is asked of every password, and a session is one account's for some minutes."""

from typing import Any

import pytest

from localcloud.user_pools import sign_in
from localcloud.user_pools.passwords import fault_of
from localcloud.user_pools.sign_in import CODE_OF_AN_APP, NEW_PASSWORD, Challenges

STRICT = {"MinimumLength": 12}
LAX = {f"Require{kind}": False for kind in ("Lowercase", "Uppercase", "Numbers", "Symbols")} | {"MinimumLength": 6}


@pytest.mark.parametrize(
    ("password", "policy", "fault"),
    [
        ("Correct-Horse-9", STRICT, None),
        ("Correct-Ho-9", STRICT, None),
        ("Correct-H-9", STRICT, "Password not long enough"),
        ("Aa1-" * 64, STRICT, None),
        ("Aa1-" * 65, STRICT, "Password too long"),
        ("CORRECT-HORSE-9", STRICT, "Password must have lowercase characters"),
        ("correct-horse-9", STRICT, "Password must have uppercase characters"),
        ("Correct-Horse-X", STRICT, "Password must have numeric characters"),
        ("Correct-Horse-٣", STRICT, "Password must have numeric characters"),
        ("Correct0Horse09", STRICT, "Password must have symbol characters"),
        ("Correct Horse 9", STRICT, None),
        (" Correct0Horse9 ", STRICT, "Password must have symbol characters"),
        ("simple", LAX, None),
        ("short", LAX, "Password not long enough"),
        ("Aa1-567", {}, "Password not long enough"),
    ],
)
def test_a_password_is_told_what_it_lacks(password: str, policy: dict[str, Any], fault: str | None) -> None:
    assert fault_of(password, policy) == fault


def test_a_session_is_one_accounts_until_it_ends() -> None:
    now = 0.0
    challenges = Challenges(lambda: now)
    session = challenges.begin(NEW_PASSWORD, "pool", "ann", minutes=3)
    assert challenges.is_open(NEW_PASSWORD, session, "pool", "ann")
    assert not challenges.is_open(NEW_PASSWORD, session, "pool", "bob")
    assert not challenges.is_open(CODE_OF_AN_APP, session, "pool", "ann")
    assert not challenges.is_open(NEW_PASSWORD, session, "other", "ann")
    assert not challenges.is_open(NEW_PASSWORD, "made-up", "pool", "ann")
    assert not challenges.is_open(NEW_PASSWORD, "made-up", "", "")
    now = 180.0
    assert not challenges.is_open(NEW_PASSWORD, session, "pool", "ann")


def test_a_session_is_over_once_it_is_used() -> None:
    challenges = Challenges()
    session = challenges.begin(NEW_PASSWORD, "pool", "ann", minutes=3)
    challenges.end(session)
    challenges.end(session)
    assert not challenges.is_open(NEW_PASSWORD, session, "pool", "ann")


def test_sessions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "MAX_CHALLENGES", 1)
    challenges = Challenges()
    first, second = (challenges.begin(NEW_PASSWORD, "pool", "ann", minutes=3) for _ in range(2))
    assert not challenges.is_open(NEW_PASSWORD, first, "pool", "ann")
    assert challenges.is_open(NEW_PASSWORD, second, "pool", "ann")
