"""A code is good once, for a while, for five tries; and there are not too many of them."""

from dataclasses import dataclass, field
from itertools import count

import pytest
from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException

from localcloud.user_pools import codes as module
from localcloud.user_pools.codes import (
    LIFETIME_SECONDS,
    MAX_IN_WINDOW,
    WINDOW_SECONDS,
    AttemptsExceededError,
    Codes,
    Key,
)
from localcloud.user_pools.mailbox import Mailbox

ANN: Key = ("pool", "ann@example.org")
BOB: Key = ("pool", "bob@example.org")
ANN_ELSEWHERE: Key = ("other pool", "ann@example.org")


@dataclass
class Drawn:
    """Codes one after the other, at a time that the test sets."""

    now: float = 0.0
    codes: Codes = field(init=False)

    def __post_init__(self) -> None:
        numbers = count(1)
        self.codes = Codes(lambda: self.now, lambda: f"{next(numbers):06d}")


@pytest.fixture
def drawn() -> Drawn:
    return Drawn()


def test_a_code_is_used_once(drawn: Drawn) -> None:
    code = drawn.codes.new(ANN)
    drawn.codes.use(ANN, code)
    with pytest.raises(ExpiredCodeException):
        drawn.codes.use(ANN, code)


def test_only_the_latest_code_is_good(drawn: Drawn) -> None:
    first, second = drawn.codes.new(ANN), drawn.codes.new(ANN)
    with pytest.raises(CodeMismatchException):
        drawn.codes.use(ANN, first)
    drawn.codes.use(ANN, second)


def test_a_code_expires(drawn: Drawn) -> None:
    code = drawn.codes.new(ANN)
    drawn.now = LIFETIME_SECONDS - 1
    with pytest.raises(CodeMismatchException):
        drawn.codes.use(ANN, "999999")
    drawn.now += 1
    with pytest.raises(ExpiredCodeException):
        drawn.codes.use(ANN, code)


def test_five_wrong_tries_shut_out_for_an_hour_even_with_a_new_code(drawn: Drawn) -> None:
    drawn.codes.new(ANN)
    for _ in range(MAX_IN_WINDOW):
        with pytest.raises(CodeMismatchException):
            drawn.codes.use(ANN, "999999")
    code = drawn.codes.new(ANN)
    with pytest.raises(AttemptsExceededError):
        drawn.codes.use(ANN, code)
    drawn.now = WINDOW_SECONDS
    drawn.codes.use(ANN, drawn.codes.new(ANN))


def test_other_accounts_and_other_pools_are_not_shut_out(drawn: Drawn) -> None:
    bobs, elsewhere = drawn.codes.new(BOB), drawn.codes.new(ANN_ELSEWHERE)
    for _ in range(MAX_IN_WINDOW):
        with pytest.raises(ExpiredCodeException):
            drawn.codes.use(ANN, "999999")
    drawn.codes.use(BOB, bobs)
    drawn.codes.use(ANN_ELSEWHERE, elsewhere)


def test_no_more_than_five_codes_are_sent_in_an_hour(drawn: Drawn) -> None:
    for _ in range(MAX_IN_WINDOW):
        drawn.codes.new(ANN)
    with pytest.raises(AttemptsExceededError):
        drawn.codes.new(ANN)
    drawn.now = WINDOW_SECONDS
    drawn.codes.new(ANN)


def test_a_code_is_six_digits_that_nobody_can_guess() -> None:
    drawn = {Codes().new(ANN) for _ in range(20)}
    assert all(len(code) == 6 and code.isdigit() for code in drawn)
    assert len(drawn) > 15


def test_what_is_kept_is_bounded(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 2)
    first = drawn.codes.new(ANN)
    for name in ("b", "c"):
        drawn.codes.new(("pool", name))
    with pytest.raises(ExpiredCodeException):
        drawn.codes.use(ANN, first)


def test_the_mailbox_keeps_the_latest_mails_and_numbers_them_all() -> None:
    mailbox = Mailbox(lambda: 12.5, most=2)
    for code in ("1", "2", "3"):
        mailbox.send("ann@example.org", "reset", code)
    assert [(mail.number, mail.secret, mail.sent_at) for mail in mailbox.mails()] == [(2, "2", 12.5), (3, "3", 12.5)]
