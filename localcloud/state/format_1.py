"""Reads a state of format 1, of Fleetsight 0.x before SQLite; to be removed with the next version.

Such a state has the file `MARKER`, and in the folder `log` a snapshot and log files. A file has frames: a head with
the length and the checksum of the payload, and records. Only the last frame of the last file may be incomplete.
"""

import json
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from localcloud.state.store import CorruptedStateError, Record, StateError

MARKER: Final = "fleetsight-state.json"
"""File that made a folder a state."""

_LOG: Final = "log"
_MAGIC: Final = b"FSJ1"
_HEAD: Final = struct.Struct(">4sIII")  # magic, length of the payload, its checksum, the checksum of the three
_RECORD: Final = struct.Struct(">III")  # lengths of key, value and body
_REMOVED: Final = 0xFFFF_FFFF  # length of the value of a record that removes its key
_FILE: Final = re.compile(r"(\d{8})\.(log|snapshot)")


def is_state(folder: Path) -> bool:
    """Return True if a folder is a state of format 1.

    Raises:
        StateError: the marker is damaged, or of a format that never was.
    """
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        raise StateError(f"{folder / MARKER} cannot be read ({error})") from error
    if found != {"format": 1}:
        raise StateError(f"{folder / MARKER} cannot be read: it says {found}")
    return True


def is_snapshot(file: Path) -> bool:
    """Return True if a file is a snapshot of format 1."""
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def read_state(folder: Path) -> list[Record]:
    """Return the last record of each key.

    Raises:
        CorruptedStateError: a file is damaged elsewhere than in the last frame of the log, or is missing.
    """
    found = [match for path in (folder / _LOG).iterdir() if (match := _FILE.fullmatch(path.name))]
    base = max((int(match[1]) for match in found if match[2] == "snapshot"), default=0)
    numbers = sorted(int(match[1]) for match in found if match[2] == "log" and int(match[1]) > base)
    files = [folder / _LOG / f"{base:08d}.snapshot"] if any(match[2] == "snapshot" for match in found) else []
    for expected, number in enumerate(numbers, base + 1):
        files.append(folder / _LOG / f"{expected:08d}.log")
        if number != expected:
            raise CorruptedStateError(files[-1], "is missing")
    records: dict[bytes, Record] = {}
    for path in files:
        for record in _records(path, may_be_torn=path == files[-1] and path.suffix == ".log"):
            records[record.key] = record
    return [record for record in records.values() if record.value is not None]


def read_snapshot(file: Path) -> list[Record]:
    """Return the records of a snapshot, the private files with the key `["file", NAME]` among them.

    Raises:
        CorruptedStateError: the file is not a whole snapshot.
    """
    return list(_records(file, may_be_torn=False))


def remove(folder: Path) -> None:
    """Remove the files of format 1, if there are any."""
    (folder / MARKER).unlink(missing_ok=True)
    if (folder / _LOG).exists():
        for path in (folder / _LOG).iterdir():
            if _FILE.fullmatch(path.name) or path.suffix == ".partial":
                path.unlink()
        with suppress(OSError):  # it has files that are not ours
            (folder / _LOG).rmdir()


def _records(path: Path, *, may_be_torn: bool) -> Iterator[Record]:
    """Yield the records of a file, and check it."""
    content, at, count, ended = path.read_bytes(), 0, 0, None
    while at < len(content):
        payload = _payload(content, at)
        if payload is None:
            if may_be_torn and _is_last(content, at):
                return
            raise CorruptedStateError(path, f"has a damaged frame at byte {at:,}")
        at += _HEAD.size + len(payload)
        for record in _records_of(payload):
            if record.key == b"start":
                continue
            if record.key == b"end":
                ended = record.value
                continue
            count += 1
            yield record
    if not may_be_torn and path.suffix != ".log" and ended != str(count).encode():
        raise CorruptedStateError(path, "is incomplete")


def _payload(content: bytes, at: int) -> bytes | None:
    """Return the payload of the frame at a byte, or None if it is damaged or incomplete."""
    length = _length(content, at)
    if length is None:
        return None
    payload = content[at + _HEAD.size : at + _HEAD.size + length]
    whole = len(payload) == length and zlib.crc32(payload) == _HEAD.unpack_from(content, at)[2]
    return payload if whole else None


def _length(content: bytes, at: int) -> int | None:
    """Return the length of the payload of the frame at a byte, or None if its head is damaged."""
    if len(content) - at < _HEAD.size:
        return None
    magic, length, _, checksum = _HEAD.unpack_from(content, at)
    is_whole = magic == _MAGIC and zlib.crc32(content[at : at + _HEAD.size - 4]) == checksum
    return int(length) if is_whole else None


def _is_last(content: bytes, at: int) -> bool:
    """Return True if nothing can follow the incomplete frame at a byte: no call was answered for it."""
    length = _length(content, at)
    if length is not None:
        return at + _HEAD.size + length >= len(content)
    later = content.find(_MAGIC, at + 1)
    while later >= 0:
        if _payload(content, later) is not None:
            return False
        later = content.find(_MAGIC, later + 1)
    return True


def _records_of(payload: bytes) -> Iterator[Record]:
    at = 0
    while at < len(payload):
        key_length, value_length, body_length = _RECORD.unpack_from(payload, at)
        value_at = at + _RECORD.size + key_length
        body_at = value_at + (0 if value_length == _REMOVED else value_length)
        value = None if value_length == _REMOVED else payload[value_at:body_at]
        yield Record(payload[at + _RECORD.size : value_at], value, payload[body_at : body_at + body_length])
        at = body_at + body_length
