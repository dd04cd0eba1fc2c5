"""Values that clients send: parses ids, cursors and numbers in URLs, and cleans text.

Text from users is only shown, and never part of a key, a path or a command.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath

from flask import request
from werkzeug.exceptions import BadRequest

from core.fleet.models import MAX_REASON_CHARACTERS
from core.format import short_date
from core.ids import ImageRef, is_id
from services.errors import NotFoundError

MAX_FILENAME_BYTES = 700
"""Bytes of a filename in UTF-8: the manifest of an upload with the longest ones fits into an item."""

_MAX_PATH_CHARACTERS = 4_096
"""Maximum characters of a path that are read, as many as Linux allows: each folder takes a function call."""

MAX_JOB_NAME = 100

MAX_LABEL = 200
"""Characters of a label in a query, and of a true label that a user sets."""

_DRIVE = re.compile(r"[A-Za-z]:")

_DROPPED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\u2028\u2029]")
"""Control characters (NUL, line ends), halves of surrogate pairs, and characters that reorder or break the text.

Single left-to-right and right-to-left marks stay.
"""


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


def cursor_of_page(name: str) -> str | None:
    """Return the cursor in the query parameter `name` of a page's address, or None, also if it is no id.

    A person with a damaged address sees the first page.
    """
    text = request.args.get(name, "")
    return text if is_id(text) else None


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
    """Return the name to show for a file that was sent as `raw`: its path within a folder or zip, if it has one.

    An absolute path, or one with `..`, is not inside a folder that the client has sent: only its last part is shown.
    Of a name that is too long, the end is kept.

    The client has the same function (`client/fleetsight_client/names.py`); a test compares them.
    """
    parts = [printable(part) for part in raw[-_MAX_PATH_CHARACTERS:].replace("\\", "/").split("/")]
    if not parts[-1]:
        return "unnamed"
    if parts[0] == "" or ".." in parts or (len(parts) > 1 and _DRIVE.fullmatch(parts[0])):
        parts = parts[-1:]
    path = "/".join(part for part in parts if part not in {"", ".", ".."})
    if len(path.encode()) > MAX_FILENAME_BYTES:
        # The rest of a part may be `.` or `..`.
        path = path.encode()[-MAX_FILENAME_BYTES:].decode(errors="ignore").lstrip("/. ")
    return path or "unnamed"


def clean_job_name(raw: str, default: str) -> str:
    """Return the name to show for a job, at most 100 characters; `default` if the user gave none."""
    return (printable(raw) or default)[:MAX_JOB_NAME]


def job_name_of_files(filenames: Sequence[str], at: datetime) -> str:
    """Return the default name of a job: the folder of all files, the only file, or their number and the time."""
    folders = {filename.partition("/")[0] if "/" in filename else "" for filename in filenames}
    if len(folders) == 1 and (folder := folders.pop()):
        return folder
    if len(filenames) > 1:
        return f"{len(filenames):,} images, {short_date(at)}"
    return PurePosixPath(filenames[0]).stem[:60]


def job_name_of_time(at: datetime) -> str:
    """Return the default name of a job that was created `at` a time, without files."""
    return f"{at.astimezone(UTC):%-d %B %Y, %H:%M} UTC"


def clean_search(raw: str) -> str:
    """Return the text to search for among the names of jobs, at most 100 characters, or an empty string."""
    return printable(raw)[:MAX_JOB_NAME]


def clean_reason(raw: str) -> str:
    """Return the reason to show for a pause, at most 200 characters, or an empty string."""
    return printable(raw)[:MAX_REASON_CHARACTERS]


def printable(raw: str) -> str:
    """Return a text without control characters and overrides of the direction, and without space at its ends."""
    return _DROPPED.sub("", raw).strip()
