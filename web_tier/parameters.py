"""Values that clients send: parses ids, cursors and numbers in URLs, and cleans text.

Text from users is only shown, and never part of a key, a path or a command.
"""

import unicodedata

from flask import request
from werkzeug.exceptions import BadRequest

from core.fleet.models import MAX_REASON_CHARACTERS
from core.ids import ImageRef, is_id
from services.errors import NotFoundError

MAX_FILENAME = 255

MAX_JOB_NAME = 100

_DROPPED_CATEGORIES = frozenset({"Cc", "Cs"})  # control characters (NUL, line ends), halves of surrogate pairs

_DROPPED = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
"""Characters that reorder or break the text around them; single left-to-right and right-to-left marks stay."""


def known_id(kind: str, text: str) -> str:
    """Return `text` if it has the format of an id.

    Raises:
        NotFoundError: it has not, so nothing with that id can exist.
    """
    if not is_id(text):
        raise NotFoundError(f"there is no {kind} {text[:40]!r}")
    return text


def known_ref(job_id: str, image_id: str) -> ImageRef:
    """Return the reference of an image, if both ids have the format of ids.

    Raises:
        NotFoundError: as `known_id`.
    """
    return ImageRef(known_id("job", job_id), known_id("image", image_id))


def cursor(name: str) -> str | None:
    """Return the cursor in the query parameter `name`, if any.

    Raises:
        BadRequest: it is no id.
    """
    text = request.args.get(name)
    if text is not None and not is_id(text):
        raise BadRequest(f"{name}={text[:40]!r} is not an id; take it from the page before")
    return text


def whole_number(name: str, *, default: int, maximum: int) -> int:
    """Return the query parameter `name`, from 1 to `maximum`.

    Raises:
        BadRequest: it is something else.
    """
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):
        raise BadRequest(f"{name}={text[:40]!r} is not a whole number from 1 to {maximum}")
    return int(text)


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
