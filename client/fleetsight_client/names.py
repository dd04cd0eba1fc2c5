"""The names under which files are shown: as the server stores them, so that files of results by all ways in agree.

The server has the same function (`web_tier/http/parameters.py`), because neither package imports the other. A test
compares them.
"""

import re
import unicodedata
from typing import Final

MAX_FILENAME_BYTES: Final = 700

_DRIVE: Final = re.compile(r"[A-Za-z]:")
_DROPPED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def shown_name(raw: str) -> str:
    """Return the name to show for a file at the path `raw`.

    It has no control characters, overrides of the direction, white space at the ends of parts, or backslashes. Of an
    absolute path, and of one with `..`, the last part is left. Of a long path, the last 700 bytes are left.
    """
    parts = [printable(part) for part in raw.replace("\\", "/").split("/")]
    if not parts[-1]:
        return "unnamed"
    if parts[0] == "" or ".." in parts or (len(parts) > 1 and _DRIVE.fullmatch(parts[0])):
        parts = parts[-1:]
    path = "/".join(part for part in parts if part not in {"", ".", ".."})
    if len(path.encode()) > MAX_FILENAME_BYTES:
        path = path.encode()[-MAX_FILENAME_BYTES:].decode(errors="ignore").lstrip("/. ")
    return path or "unnamed"


def matched_name(path: str) -> str:
    """Return the form in which paths of files and of true labels are compared: macOS may store ä as two characters.

    An absolute path stays absolute, so that it does not match a file of another folder.
    """
    return unicodedata.normalize("NFC", path if path.startswith("/") else shown_name(path))


def printable(raw: str) -> str:
    """Return a text without control characters, overrides of the direction, and white space at its ends."""
    return _DROPPED.sub("", raw).strip()
