"""Reads a state of format 1, of Fleetsight 0.x before SQLite; to be removed with the next version.

Such a state has the file `MARKER`, and in the folder `log` a snapshot and log files. A file has frames: a head with
the length and the checksum of the payload, and records. Only the last frame of the last file may be incomplete.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from localcloud.state.store import CorruptedStateError, Record

MARKER: Final = "fleetsight-state.json"
"""File that made a folder a state."""

_LOG: Final = "log"
_MAGIC: Final = b"FSJ1"
_HEAD: Final = struct.Struct(">4sIII")  # magic, length of the payload, its checksum, the checksum of the three
_RECORD: Final = struct.Struct(">III")  # lengths of key, value and body
_REMOVED: Final = 0xFFFF_FFFF  # length of the value of a record that removes its key
_FILE: Final = re.compile(r"(\d{8})\.(log|snapshot)")


def is_snapshot(file: Path) -> bool:
    """Return True if a file is a snapshot of format 1."""
    with file.open("rb") as opened:
        return opened.read(len(_MAGIC)) == _MAGIC


def read_state(folder: Path) -> dict[bytes, Record]:
    """Return the last record of each key.

    Raises:
        CorruptedStateError: a file is damaged elsewhere than in the last frame of the log, or is missing.
    """
    names = [match for path in (folder / _LOG).iterdir() if (match := _FILE.fullmatch(path.name))]
    base = max((int(match[1]) for match in names if match[2] == "snapshot"), default=None)
    last = max((int(match[1]) for match in names), default=0)
    files = [] if base is None else [folder / _LOG / f"{base:08d}.snapshot"]
    files += [folder / _LOG / f"{number:08d}.log" for number in range((base or 0) + 1, last + 1)]
    return _joined(_records(path, may_be_torn=path == files[-1] and path.suffix == ".log") for path in files)


def read_snapshot(file: Path) -> dict[bytes, Record]:
    """Return the record of each key of a snapshot.

    Raises:
        CorruptedStateError: the file is not a whole snapshot.
    """
    return _joined([_records(file, may_be_torn=False)])


def remove(folder: Path) -> None:
    """Remove the files of format 1, if there are any."""
    (folder / MARKER).unlink(missing_ok=True)
    if (folder / _LOG).exists():
        for path in (folder / _LOG).iterdir():
            if _FILE.fullmatch(path.name) or path.suffix == ".partial":
                path.unlink()
        with suppress(OSError):  # it has files that are not ours
            (folder / _LOG).rmdir()


def _joined(files: Iterable[Iterable[Record]]) -> dict[bytes, Record]:
    found = {record.key: record for file in files for record in file}
    return {key: record for key, record in found.items() if record.value is not None}


def _records(path: Path, *, may_be_torn: bool) -> Iterator[Record]:
    """Yield the records of a file, and check it."""
    if not path.exists():
        raise CorruptedStateError(path, "is missing")
    content, at, count, ended = path.read_bytes(), 0, 0, None
    while at < len(content):
        payload = _payload(content, at)
        if payload is None:
            # A later frame was written only when the disk had this one.
            later = (match.start() for match in re.finditer(_MAGIC, content) if match.start() > at)
            if may_be_torn and all(_payload(content, each) is None for each in later):
                return
            raise CorruptedStateError(path, f"has a damaged frame at byte {at:,}")
        at += _HEAD.size + len(payload)
        for record in _records_of(payload):
            if record.key == b"end":
                ended = record.value
            elif record.key != b"start":
                count += 1
                yield record
    if path.suffix != ".log" and ended != str(count).encode():
        raise CorruptedStateError(path, "is incomplete")


def _payload(content: bytes, at: int) -> bytes | None:
    """Return the payload of the frame at a byte, or None if it is damaged or incomplete."""
    if len(content) - at < _HEAD.size:
        return None
    magic, length, checksum, of_head = _HEAD.unpack_from(content, at)
    payload = content[at + _HEAD.size : at + _HEAD.size + length]
    is_whole = magic == _MAGIC and of_head == zlib.crc32(content[at : at + _HEAD.size - 4])
    return payload if is_whole and len(payload) == length and zlib.crc32(payload) == checksum else None


def _records_of(payload: bytes) -> Iterator[Record]:
    at = 0
    while at < len(payload):
        key_length, value_length, body_length = _RECORD.unpack_from(payload, at)
        value_at = at + _RECORD.size + key_length
        body_at = value_at + (0 if value_length == _REMOVED else value_length)
        value = None if value_length == _REMOVED else payload[value_at:body_at]
        yield Record(payload[at + _RECORD.size : value_at], value, payload[body_at : body_at + body_length])
        at = body_at + body_length
