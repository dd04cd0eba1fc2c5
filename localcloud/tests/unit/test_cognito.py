"""User pools: codes and mails are bounded, passwords follow the policy, challenges and second factors are checked."""

from typing import Any

import pytest
from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException

from localcloud.cognito.mailbox import Mailbox
from localcloud.cognito.passwords import (
    LIFETIME_SECONDS,
    MAX_IN_WINDOW,
    WINDOW_SECONDS,
    AttemptsExceededError,
    Codes,
    Key,
    fault_of,
)
from localcloud.cognito.sign_in import Authenticator

ANN: Key = ("pool", "ann@example.org")


class Drawn:
    """Codes at a time that the test sets."""

    def __init__(self) -> None:
        self.now, self.codes = 0.0, Codes(lambda: self.now)


@pytest.fixture
def drawn() -> Drawn:
    return Drawn()


def test_only_the_latest_code_is_good(drawn: Drawn) -> None:
    first, second = drawn.codes.new(ANN), drawn.codes.new(ANN)
    with pytest.raises(CodeMismatchException):
        drawn.codes.use(ANN, first)
    drawn.codes.use(ANN, second)


def test_a_code_expires(drawn: Drawn) -> None:
    code = drawn.codes.new(ANN)
    drawn.now = LIFETIME_SECONDS - 1
    with pytest.raises(CodeMismatchException):
        drawn.codes.use(ANN, "wrong")
    drawn.now += 1
    with pytest.raises(ExpiredCodeException):
        drawn.codes.use(ANN, code)


def test_five_wrong_tries_shut_out_for_an_hour_even_with_a_new_code(drawn: Drawn) -> None:
    drawn.codes.new(ANN)
    for _ in range(MAX_IN_WINDOW):
        with pytest.raises(CodeMismatchException):
            drawn.codes.use(ANN, "wrong")
    code = drawn.codes.new(ANN)
    with pytest.raises(AttemptsExceededError):
        drawn.codes.use(ANN, code)
    drawn.now = WINDOW_SECONDS
    drawn.codes.use(ANN, drawn.codes.new(ANN))


def test_mailbox_stores_latest_mails_and_numbers_all() -> None:
    mailbox = Mailbox(lambda: 12.5, max_mails=2)
    for code in ("1", "2", "3"):
        mailbox.send("ann@example.org", "reset", code)
    assert [(mail.number, mail.content, mail.sent_at) for mail in mailbox.mails()] == [(2, "2", 12.5), (3, "3", 12.5)]


STRICT = {"MinimumLength": 12}
LAX = {f"Require{kind}": False for kind in ("Lowercase", "Uppercase", "Numbers", "Symbols")} | {"MinimumLength": 6}


@pytest.mark.parametrize(
    ("password", "policy", "fault"),
    [
        ("Correct-Ho-9", STRICT, None),
        ("Correct-H-9", STRICT, "Password not long enough"),
        ("Aa1-" * 65, STRICT, "Password too long"),
        ("CORRECT-HORSE-9", STRICT, "Password must have lowercase characters"),
        ("Correct-Horse-٣", STRICT, "Password must have numeric characters"),
        (" Correct0Horse9 ", STRICT, "Password must have symbol characters"),
        ("simple", LAX, None),
        ("short", LAX, "Password not long enough"),
        ("Aa1-567", {}, "Password not long enough"),
    ],
)
def test_rejected_password_has_its_fault(password: str, policy: dict[str, Any], fault: str | None) -> None:
    assert fault_of(password, policy) == fault


@pytest.mark.parametrize(
    ("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_the_codes_are_those_of_the_standard(seconds: int, code: str) -> None:
    """RFC 6238, appendix B, for SHA-1; its codes of eight digits end in ours."""
    app = Authenticator(lambda: float(seconds), secret=b"12345678901234567890")
    assert app.code(seconds // 30) == code
    app.use(code)


@pytest.mark.parametrize(("steps", "is_accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_is_good_about_its_time(steps: int, is_accepted: bool) -> None:
    app = Authenticator(lambda: 3000.0)
    code = app.code(100 + steps)
    if is_accepted:
        app.use(code)
    else:
        with pytest.raises(CodeMismatchException):
            app.use(code)


@pytest.mark.parametrize("code", ["", "12345", "abcdef", "\u0661\u0662\u0663\u0664\u0665\u0666"])
def test_text_that_is_no_code_is_wrong(code: str) -> None:
    with pytest.raises(CodeMismatchException):
        Authenticator().use(code)
