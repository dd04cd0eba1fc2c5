"""Which new passwords an account may get."""

import pytest

from services.passwords import is_good


@pytest.mark.parametrize(
    "password",
    [
        "trombone lamp sea correct horse battery staple",
        "trombone lamp sea",
        "Correct-horse-7-battery",
        "x7#kQ2!vLp0z",
        "ключ от чердака",
    ],
)
def test_e7_a_passphrase_needs_no_kinds_of_characters(password: str) -> None:
    assert is_good(password, "ada@example.org")


@pytest.mark.parametrize(
    "password",
    ["Password1234", "Aaaaaaaaaaa1", "Qwertyuiop12", "Fleetsight123", "P@ssw0rd2026!", "ada.lovelace12",
     "trombone-la", " trombone lamp sea", "x" * 300, "x" * 24 + "trombone lamp sea",
     "correcthorsebatterystaple", "Correct-Horse-Battery-Staple", "correct horse battery staple 1",
     "ada.lovelace@example.org", "LovelaceAdaLovelace2026", "fleetsight-example-org"],
)  # fmt: skip
def test_e7_a_password_that_is_guessed_early_is_refused(password: str) -> None:
    assert not is_good(password, "ada.lovelace@example.org")
