"""New passwords: long enough, and not among those that guessing programs try first.

Passphrases are welcome: nothing asks for kinds of characters (NIST SP 800-63B-4, section 3.1.1.2). zxcvbn estimates
the guesses by its lists of common passwords, names and words, by patterns of the keyboard, repeats and dates.
"""

import re
from typing import Final

MIN_CHARACTERS: Final = 12
"""Minimum characters, also of the pools that Fleetsight creates."""

MAX_CHARACTERS: Final = 256
"""Maximum characters, in Cognito."""

_MIN_SCORE: Final = 3
"""zxcvbn's "safely unguessable": more than 10^8 guesses."""

_ESTIMATED_CHARACTERS: Final = 24
"""These alone must be good enough: 72 that stand for other letters (`@`, `4`, `3`) would take two seconds of CPU."""

_OWN_WORD_CHARACTERS: Final = 4
"""Characters from which a word of the account's address, or the system's name, counts for nothing in a password."""

_FAMOUS: Final = r"correct\W?horse\W?battery\W?staple"
"""The passphrase that everybody knows (https://xkcd.com/936), which zxcvbn takes for a good one."""

_TYPED: Final = re.compile(r"\S(.*\S)?", re.DOTALL)


def is_typable(password: str) -> bool:
    """Return whether the pool can have a password: not empty, not too long, no blanks at its ends."""
    return len(password) <= MAX_CHARACTERS and bool(_TYPED.fullmatch(password))


def is_good(password: str, email: str) -> bool:
    """Return whether an account may get a new password."""
    from zxcvbn import zxcvbn  # type: ignore[import-untyped]  # here: its lists take memory, and few processes need them

    if not is_typable(password) or len(password) < MIN_CHARACTERS:
        return False
    own = ["fleetsight", email.partition("@")[0], *re.split(r"[^a-z0-9]+", email.lower())]
    # zxcvbn takes a row of such words for much harder to guess than one.
    words = "|".join([_FAMOUS, *(re.escape(word) for word in own if len(word) >= _OWN_WORD_CHARACTERS)])
    others = re.sub(words, "", password, flags=re.IGNORECASE)
    return bool(others) and int(zxcvbn(others[:_ESTIMATED_CHARACTERS], user_inputs=own)["score"]) >= _MIN_SCORE
