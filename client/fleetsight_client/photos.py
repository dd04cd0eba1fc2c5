"""Columns from a photo's own data (EXIF 2.32): when it was taken, by which camera, where, and its size.

They are read on this machine from the start of each file, and written to the file of results only.
"""

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.journal import ListedFile
from fleetsight_client.names import printable

PHOTO_COLUMNS: Final[Mapping[str, Mapping[str, type]]] = {
    "taken_at": {"taken_at": str},
    "camera": {"camera": str},
    "gps": {"latitude": float, "longitude": float},
    "width": {"width": int},
    "height": {"height": int},
}
"""What can be asked for, with the names and types of its columns."""

MAX_TEXT_CHARACTERS: Final = 200

OLDEST_YEAR: Final = 2001
"""A camera without a set clock begins in 1970, 1980 or 2000."""

MAX_DOUBTFUL_FOLDERS: Final = 10_000
SHOWN_FOLDERS: Final = 5

_ORIENTATION, _MAKE, _MODEL, _EXIF, _GPS = 0x0112, 0x010F, 0x0110, 0x8769, 0x8825
_TIMES: Final = ((0x9003, 0x9011), (0x9004, 0x9012))
"""Tags of the time when a photo was taken, or else digitized, and of its zone. An editor changes tag 0x0132."""

_SERIAL: Final = 0xA431
_TURNED: Final = frozenset({5, 6, 7, 8})
_CROP: Final = b"\0\0\0\x28clap"
"""Size and kind of the box that crops a picture (ISO/IEC 14496-12, section 12.1.4)."""

_TIME: Final = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")
_ZONE: Final = re.compile(r"[+-]\d\d:\d\d|Z")


class PhotoError(FleetsightClientError):
    """Raised when the data of photos cannot be read; the message says what to do."""


def photo_columns(wanted: str) -> dict[str, type]:
    """Return the names and types of the columns of a list such as `taken_at,gps`.

    Raises:
        PhotoError: a name is unknown, or a package is missing.
    """
    columns = dict[str, type]()
    for name in filter(None, (each.strip() for each in wanted.split(","))):
        if name not in PHOTO_COLUMNS:
            raise PhotoError(f"--columns {name} is unknown: choose from {', '.join(PHOTO_COLUMNS)}")
        columns |= PHOTO_COLUMNS[name]
    if columns:
        pillow("--columns")
    return columns


@dataclass
class PhotoReader:
    """Reads the columns `wanted` of photos, and counts dates that cannot be right.

    Attributes:
        now: dates after it are in the future.
        doubtful: by folder, images with such a date, and the first and last of these dates.
        without_size: images of which Pillow does not know the size.
    """

    wanted: Iterable[str]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    doubtful: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    without_size: int = 0

    def read(self, file: ListedFile) -> dict[str, Any]:
        """Return the columns of a file; those that it does not have, or all of a file that has changed, are None."""
        found = dict[str, Any]()
        with suppress(OSError):
            now = file.path.stat()
            if (now.st_size, now.st_mtime_ns) == (file.size, file.mtime_ns):
                found = read_photo(file.path)
        self._check_date(file, found.get("taken_at"))
        sides = {"width", "height"}.intersection(self.wanted)
        self.without_size += any(found.get(side, 0) is None for side in sides)
        return {name: found.get(name) for name in self.wanted}

    def _check_date(self, file: ListedFile, taken_at: str | None) -> None:
        if taken_at is None or not is_doubtful(taken_at, self.now):
            return
        folder, _, _ = file.name.rpartition("/")
        if folder in self.doubtful or len(self.doubtful) < MAX_DOUBTFUL_FOLDERS:
            count, first, last = self.doubtful.get(folder, (0, taken_at, taken_at))
            self.doubtful[folder] = count + 1, min(first, taken_at), max(last, taken_at)

    def sentences(self) -> Iterable[str]:
        """Yield in words how many images have no size, and the folders with impossible dates, the largest first."""
        if self.without_size:
            yield f"Without width and height, since Pillow does not crop AVIF images: {self.without_size:,}."
        largest = sorted(self.doubtful.items(), key=lambda each: -each[1][0])
        for folder, (count, first, last) in largest[:SHOWN_FOLDERS]:
            dates = first[:10] if first[:10] == last[:10] else f"{first[:10]} to {last[:10]}"
            yield f"Dates of {folder or 'the folder'} cannot be right: {count:,} of {dates}. Check its clock."
        if len(largest) > SHOWN_FOLDERS:
            yield f"and dates of {len(largest) - SHOWN_FOLDERS:,} more folders"


def is_doubtful(taken_at: str, now: datetime) -> bool:
    """Return whether a camera with a right clock cannot have written this time.

    A time without a zone may be ahead of UTC by 14 hours.
    """
    latest = now.replace(tzinfo=None) + timedelta(hours=14)
    return int(taken_at[:4]) < OLDEST_YEAR or datetime.fromisoformat(taken_at[:19]) > latest


def read_photo(file: Path) -> dict[str, Any]:
    """Return all columns that a file has, without the size of a cropped AVIF; none if it is damaged or no image."""
    image_module = pillow("--columns")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nothing is decoded: neither its size nor a damaged tag matters
            with image_module.open(file) as image:
                # Of the base class: that of a PNG decodes the whole image to look behind it.
                exif, (width, height) = image_module.Image.getexif(image), image.size
                details, place = exif.get_ifd(_EXIF), exif.get_ifd(_GPS)
                if image.format == "AVIF" and _CROP in file.read_bytes():  # which Pillow does not crop
                    width = height = None
                elif exif.get(_ORIENTATION) in _TURNED:
                    width, height = height, width
                return {
                    "width": width,
                    "height": height,
                    "taken_at": _taken_at(details),
                    "camera": _camera(exif, details),
                    **_position(place),
                }
    except Exception:  # noqa: BLE001 (of a damaged file, Pillow raises what its parsers raise)
        return {}


def _taken_at(details: Mapping[int, Any]) -> str | None:
    """Return the local time of a photo, with its zone only if the photo says it."""
    for time_tag, zone_tag in _TIMES:
        found = _TIME.match(_text(details.get(time_tag)))
        if found is None:
            continue
        year, month, day, hour, minute, second = found.groups()
        zone = _ZONE.fullmatch(_text(details.get(zone_tag)))
        text = f"{year}-{month}-{day} {hour}:{minute}:{second}{zone[0] if zone else ''}"
        with suppress(ValueError):
            datetime.fromisoformat(text)
            return text
    return None


def _camera(exif: Mapping[int, Any], details: Mapping[int, Any]) -> str | None:
    """Return maker, model and serial number, without saying the maker twice."""
    make, model, serial = _text(exif.get(_MAKE)), _text(exif.get(_MODEL)), _text(details.get(_SERIAL))
    if model.casefold().startswith(make.casefold()):
        make = ""
    return " ".join(filter(None, (make, model, serial))) or None


def _position(place: Mapping[int, Any]) -> dict[str, float]:
    """Return latitude and longitude in degrees, north and east positive; nothing of a void or damaged position."""
    north, east = _degrees(place.get(2), place.get(1), "NS", 90), _degrees(place.get(4), place.get(3), "EW", 180)
    if north is None or east is None or _text(place.get(9)) == "V":
        return {}
    return {"latitude": north, "longitude": east}


def _degrees(parts: object, reference: object, signs: str, most: int) -> float | None:
    sign = _text(reference).upper()
    if not isinstance(parts, Sequence) or len(parts) != 3 or sign not in signs or not sign:
        return None
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(value) or not 0 <= value <= most:
        return None
    return round(-value if sign == signs[1] else value, 6)


def _text(value: object) -> str:
    """Return a text of EXIF without what must not be shown; empty if it is none."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
    return printable(text.partition("\0")[0])[:MAX_TEXT_CHARACTERS]


def pillow(option: str) -> Any:
    """Return the module that opens images, for an option of a command.

    Raises:
        PhotoError: it is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise PhotoError(
            f"{option} needs the package Pillow: pip install 'fleetsight-client[photos]', or leave {option} out"
        ) from error
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return Image
