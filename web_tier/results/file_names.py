"""Names of files and folders that leave the system: safe on Windows, macOS and Linux.

Names of files, jobs and labels come from users and from bundles.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import quote

MAX_NAME_BYTES: Final = 120
"""Maximum length of a name in UTF-8. File systems allow 255 bytes or UTF-16 units, Windows 260 for a whole path."""

MAX_EXTENSION_BYTES: Final = 16
"""Maximum length of an extension that a shortened name keeps."""

_FORBIDDEN: Final = re.compile(r'[<>:"/\\|?*\ufffd]')
"""Characters that Windows does not allow in a name, among them both separators of paths.

https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
"""

_JOINERS: Final = "\u200c\u200d"
"""Invisible characters that scripts and emoji need."""

_DEVICES: Final = re.compile(
    r"con|prn|aux|nul|conin\$|conout\$|clock\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]", re.IGNORECASE
)
"""Names that Windows reserves, also with an extension."""

_WORDS: Final = re.compile(r"[^\w.()+-]+")


def safe_name(text: str) -> str:
    """Return `text` as the name of one file or folder, or `_` if nothing is left of it.

    The name has no separator, no control or invisible character, no dot or space at its ends, and is not reserved.
    """
    normal = unicodedata.normalize("NFC", text.encode(errors="ignore").decode())
    kept = "".join(each for each in normal if each in _JOINERS or unicodedata.category(each)[0] != "C")
    plain = " ".join(_FORBIDDEN.sub("_", kept).split()).strip(". ")
    # One byte is left for the underscore of a reserved name.
    short = _shortened(plain, MAX_NAME_BYTES - 1)
    return f"_{short}" if not short or _DEVICES.fullmatch(short.partition(".")[0].rstrip()) else short


def _shortened(name: str, max_bytes: int) -> str:
    """Return `name` with at most `max_bytes` in UTF-8, and with its extension."""
    if len(name.encode()) <= max_bytes:
        return name
    stem, extension = split_extension(name)
    return _cut(stem, max_bytes - len(extension.encode())).rstrip(". ") + extension


def split_extension(name: str) -> tuple[str, str]:
    """Return a name in two parts; the extension has its dot, and is empty if it is too long to be one."""
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension.encode()) >= MAX_EXTENSION_BYTES:
        return name, ""
    return stem, dot + extension


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


class UniqueNames:
    """Gives each name of a folder once: a repeated one gets a number, as in `IMG_0001 (2).jpg`.

    Names that differ in case or in compatible characters count as equal, since file systems may not distinguish them.
    """

    def __init__(self, *reserved: str) -> None:
        self._used = {_folded(name) for name in reserved}
        self._last: dict[str, int] = {}

    def add(self, name: str) -> str:
        """Return `name`, with a number if it is in use; `name` must be safe."""
        unique = name
        while _folded(unique) in self._used:
            number = self._last[_folded(name)] = self._last.get(_folded(name), 1) + 1
            stem, extension = split_extension(name)
            suffix = f" ({number}){extension}"
            unique = _cut(stem, MAX_NAME_BYTES - len(suffix.encode())).rstrip(". ") + suffix
        self._used.add(_folded(unique))
        return unique


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def attachment(name: str, fallback: str, extension: str) -> dict[str, str]:
    """Return the parameters of a Content-Disposition for a file named after `name`, such as `holiday-photos.csv`.

    Clients that do not read `filename*` get the name in ASCII, or `fallback` if it has no ASCII letter or digit
    (RFC 6266).
    """
    whole = _slug(name) or fallback
    plain = _slug(unicodedata.normalize("NFKD", whole).encode("ascii", "ignore").decode())
    names = {"filename": f"{plain or fallback}.{extension}"}
    if names["filename"] != f"{whole}.{extension}":
        names["filename*"] = f"UTF-8''{quote(f'{whole}.{extension}', safe='')}"
    return names


def _slug(text: str) -> str:
    words = _WORDS.sub("-", safe_name(text)).strip("-.")
    return words if any(each.isalnum() for each in words) else ""
