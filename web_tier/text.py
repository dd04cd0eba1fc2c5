"""Cleaning of text from users: it is only shown, and never part of a key, a path or a command."""

import unicodedata

from core.fleet.models import MAX_REASON_CHARACTERS

MAX_FILENAME = 255
MAX_JOB_NAME = 100

_DROPPED_CATEGORIES = frozenset({"Cc", "Cs"})  # control characters (NUL, line ends), halves of surrogate pairs
_DROPPED = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""Characters that reorder or break the text around them; single left-to-right and right-to-left marks stay."""


def clean_filename(raw: str) -> str:
    """Return the name to show for a file that was sent as `raw`: its last path part, at most 255 characters."""
    return _printable(raw.replace("\\", "/").rsplit("/", 1)[-1])[:MAX_FILENAME] or "unnamed"


def clean_job_name(raw: str) -> str:
    """Return the name to show for a job, at most 100 characters; a job without a name is `untitled`."""
    return _printable(raw)[:MAX_JOB_NAME] or "untitled"


def clean_search(raw: str) -> str:
    """Return the text to search for among the names of jobs, at most 100 characters, or an empty string."""
    return _printable(raw)[:MAX_JOB_NAME]


def clean_reason(raw: str) -> str:
    """Return the reason to show for a pause, at most 200 characters, or an empty string."""
    return _printable(raw)[:MAX_REASON_CHARACTERS]


def _printable(raw: str) -> str:
    kept = (
        character
        for character in raw
        if character not in _DROPPED and unicodedata.category(character) not in _DROPPED_CATEGORIES
    )
    return "".join(kept).strip()
