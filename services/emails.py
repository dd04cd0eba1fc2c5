"""E-mail addresses as names of people."""

import re

from services.errors import FleetsightError

MAX_EMAIL_CHARACTERS = 128
"""Characters of a user name, which the address is, in Cognito."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")


class EmailRefusedError(FleetsightError):
    """Raised when a text cannot be an e-mail address; the message is for the user."""


def normalise_email(text: str) -> str | None:
    """Return an e-mail address in small letters; None for what cannot be one."""
    name = text.strip()
    # In ASCII, since `lower` makes letters of other alphabets ASCII's: U+212A becomes k.
    plausible = len(name) <= MAX_EMAIL_CHARACTERS and name.isascii() and name.isprintable() and _EMAIL.fullmatch(name)
    return name.lower() if plausible else None


def required_email(text: str) -> str:
    """Return an e-mail address in small letters.

    Raises:
        EmailRefusedError: when it cannot be one.
    """
    if (name := normalise_email(text)) is None:
        raise EmailRefusedError(f"{text[:40]!r} is no e-mail address")
    return name
