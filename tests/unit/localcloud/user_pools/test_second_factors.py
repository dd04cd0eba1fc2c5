"""Codes of an authenticator app: those of RFC 6238, each good once and only about its time."""

import pytest
from moto.cognitoidp.exceptions import CodeMismatchException, ExpiredCodeException

from localcloud.user_pools.second_factors import Authenticator


@pytest.mark.parametrize(
    ("seconds", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_the_codes_are_those_of_the_standard(seconds: int, code: str) -> None:
    """RFC 6238, appendix B, for SHA-1; its codes of eight digits end in ours."""
    app = Authenticator(lambda: float(seconds), secret=b"12345678901234567890")
    assert app.code(seconds // 30) == code
    app.use(code)


@pytest.mark.parametrize(("steps", "taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_is_good_about_its_time(steps: int, taken: bool) -> None:
    app = Authenticator(lambda: 3000.0)
    code = app.code(100 + steps)
    if taken:
        app.use(code)
    else:
        with pytest.raises(CodeMismatchException):
            app.use(code)


def test_neither_a_code_that_was_used_nor_an_older_one_is_taken() -> None:
    app = Authenticator(lambda: 3000.0)
    app.use(app.code(100))
    for step in (100, 99):
        with pytest.raises(ExpiredCodeException):
            app.use(app.code(step))
    app.use(app.code(101))


@pytest.mark.parametrize("code", ["", "12345", "abcdef", "\u0661\u0662\u0663\u0664\u0665\u0666"])
def test_what_is_no_code_is_wrong(code: str) -> None:
    with pytest.raises(CodeMismatchException):
        Authenticator().use(code)
