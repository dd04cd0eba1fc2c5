"""An append-only log of records on disk, from which a local cloud is restored after any kill.

A record sets the value of a key: JSON, and the content of an object. The last record of a key counts; a record
without a value removes the key. `Journal.append` collects records. `Journal.commit` writes those of all threads as
one frame, and waits until the disk has it (group commit). The next frame is written only then, so a
kill or a power failure can leave only the last frame incomplete. No reply depends on that frame: it is cut off. Any
other damage is an error.

A file has at most `SEGMENT_BYTES` and one more frame. Older files are merged into a snapshot, with only the last
record of each key, once they have more bytes than the snapshot before. So the disk holds less than three times the
live records and four files. A snapshot is written to another name, synchronized and renamed, then the files that it
replaces are removed; a kill in between leaves both, and the snapshot counts.

SQLite would need as much code around it: its log ends silently at the first damaged frame
(https://www.sqlite.org/fileformat2.html#wal_file_format), also in the middle, and its pages have no checksums.
"""

import logging
import os
import re
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

log = logging.getLogger(__name__)

FORMAT: Final = 1
"""Version of the format of the files."""

SEGMENT_BYTES: Final = 64 * 1024 * 1024
"""Size in bytes from which a log file is followed by another one."""

COPY_BYTES: Final = 1024 * 1024
"""Size in bytes of the frames of a snapshot."""

MERGE_SECONDS: Final = 3600.0
"""Longest time in seconds that a snapshot may take."""

_MAGIC: Final = b"FSJ1"
_HEAD: Final = struct.Struct(">4sII")  # magic, length of the payload, its checksum
_CHECK: Final = struct.Struct(">I")  # checksum of the head
_HEAD_BYTES: Final = _HEAD.size + _CHECK.size
_RECORD: Final = struct.Struct(">III")  # lengths of key, value and body
_REMOVED: Final = 0xFFFF_FFFF  # length of the value of a record that removes its key
_FILE: Final = re.compile(r"(\d{8})\.(log|snapshot)")

_START_KEY: Final = b"start"
_END_KEY: Final = b"end"
"""Keys of the first record of each file and of the last one of a snapshot; all other keys are JSON arrays."""

REMEDY: Final = "Restore a snapshot (fleetsight state restore FILE DIR), or begin again (fleetsight state reset DIR)"


class CorruptedStateError(Exception):
    """Raised when a file of the log is damaged or missing; the message names the file, the place and the remedy."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"the state is damaged: {path} {problem}. Nothing was changed. {REMEDY}")


class Record(NamedTuple):
    """A key with its value, None to remove the key, and the content of an object."""

    key: bytes
    value: bytes | None
    body: bytes = b""


class _Place(NamedTuple):
    """Where a record is: the number of its file in the order of reading, its first byte, and its size in bytes."""

    file: int
    start: int
    size: int


def encoded(record: Record) -> bytes:
    """Return a record as it is in a frame."""
    value = b"" if record.value is None else record.value
    lengths = _RECORD.pack(len(record.key), _REMOVED if record.value is None else len(value), len(record.body))
    return b"".join((lengths, record.key, value, record.body))


def frame_of(payload: bytes) -> bytes:
    """Return a payload with its length and checksums."""
    head = _HEAD.pack(_MAGIC, len(payload), zlib.crc32(payload))
    return b"".join((head, _CHECK.pack(zlib.crc32(head)), payload))


def _head_of(head: bytes) -> tuple[int, int] | None:
    """Return the length and the checksum of a payload from the head of its frame, or None if that is damaged."""
    if len(head) < _HEAD_BYTES or zlib.crc32(head[: _HEAD.size]) != _CHECK.unpack_from(head, _HEAD.size)[0]:
        return None
    magic, length, checksum = _HEAD.unpack_from(head)
    return (length, checksum) if magic == _MAGIC else None


def _records_of(payload: bytes) -> Iterator[tuple[Record, int, int]]:
    """Yield each record of a frame, with its first byte and its size."""
    at = 0
    while at < len(payload):
        key_length, value_length, body_length = _RECORD.unpack_from(payload, at)
        is_removed = value_length == _REMOVED
        key_at = at + _RECORD.size
        value_at = key_at + key_length
        body_at = value_at + (0 if is_removed else value_length)
        end = body_at + body_length
        value = None if is_removed else payload[value_at:body_at]
        yield Record(payload[key_at:value_at], value, payload[body_at:end]), at, end - at
        at = end


def _start_of(kind: str, number: int) -> Record:
    return Record(_START_KEY, f"{FORMAT} {kind} {number}".encode())


class _FileReader:
    """Reads a file of the log and checks it.

    Attributes:
        end: the first byte after the last whole frame, once the records have been read.
        is_torn: whether an incomplete frame follows.
    """

    def __init__(self, path: Path, *, may_be_torn: bool) -> None:
        found = _FILE.fullmatch(path.name)
        self._number, self._kind = (int(found[1]), found[2]) if found else (0, "snapshot")
        self._path, self._may_be_torn = path, may_be_torn
        self.end, self.is_torn = 0, False

    def records(self) -> Iterator[tuple[Record, int, int]]:
        """Yield each record, with its first byte and its size.

        Raises:
            CorruptedStateError: the file is damaged elsewhere than in its last frame, or is of another format.
        """
        count, is_complete = 0, False
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for at, payload in self._frames(file, size):
                for record, start, length in _records_of(payload):
                    if record.key == _START_KEY:
                        self._check_start(record, at)
                    elif record.key == _END_KEY:
                        is_complete = record.value == str(count).encode()
                    else:
                        count += 1
                        yield record, at + _HEAD_BYTES + start, length
        if self._kind == "snapshot" and not is_complete:
            raise CorruptedStateError(self._path, "is incomplete")

    def _frames(self, file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
        while self.end < size:
            head = _head_of(file.read(_HEAD_BYTES))
            payload = b"" if head is None else file.read(head[0])
            if head is None or len(payload) < head[0] or zlib.crc32(payload) != head[1]:
                self._cut(file, size, None if head is None else self.end + _HEAD_BYTES + head[0])
                return
            at, self.end = self.end, self.end + _HEAD_BYTES + len(payload)
            yield at, payload

    def _cut(self, file: BinaryIO, size: int, end: int | None) -> None:
        """Accept that the frame at `self.end`, which ends at `end` if its head is whole, was never completed.

        Raises:
            CorruptedStateError: another frame follows, or the file must be complete.
        """
        is_last = not self._has_frame_behind(file) if end is None else end >= size
        if not (self._may_be_torn and is_last):
            raise CorruptedStateError(self._path, f"has a damaged frame at byte {self.end:,}")
        self.is_torn = True

    def _has_frame_behind(self, file: BinaryIO) -> bool:
        file.seek(self.end)
        rest = file.read()
        at = rest.find(_MAGIC, 1)
        while at >= 0:
            head = _head_of(rest[at : at + _HEAD_BYTES])
            if head is not None:
                payload = rest[at + _HEAD_BYTES : at + _HEAD_BYTES + head[0]]
                if len(payload) == head[0] and zlib.crc32(payload) == head[1]:
                    return True
            at = rest.find(_MAGIC, at + 1)
        return False

    def _check_start(self, record: Record, at: int) -> None:
        version, kind, number = (record.value or b"? ? ?").decode().split(" ")
        if version != str(FORMAT):
            raise CorruptedStateError(
                self._path, f"has format {version}, and this version of Fleetsight reads format {FORMAT}"
            )
        if at or kind != self._kind or (kind == "log" and int(number) != self._number):
            raise CorruptedStateError(self._path, f"is not what its name says, but {kind} {number}")


def log_path(folder: Path, number: int) -> Path:
    """Return the path of a log file."""
    return folder / f"{number:08d}.log"


def snapshot_path(folder: Path, number: int) -> Path:
    """Return the path of the snapshot that replaces the log files up to `number`."""
    return folder / f"{number:08d}.snapshot"


class Files(NamedTuple):
    """The files of a log: its snapshot, if there is one, and the numbers of the log files after it."""

    folder: Path
    snapshot: int | None
    logs: tuple[int, ...]

    @classmethod
    def of(cls, folder: Path) -> "Files":
        """Return the files that count.

        Raises:
            CorruptedStateError: a log file is missing.
        """
        found = [match for path in folder.iterdir() if (match := _FILE.fullmatch(path.name))]
        snapshot = max((int(match[1]) for match in found if match[2] == "snapshot"), default=None)
        first = 1 if snapshot is None else snapshot + 1
        logs = sorted(number for match in found if match[2] == "log" and (number := int(match[1])) >= first)
        for expected, number in enumerate(logs, first):
            if number != expected:
                raise CorruptedStateError(log_path(folder, expected), "is missing")
        return cls(folder, snapshot, tuple(logs))

    def readers(self, upto: int | None = None) -> list[tuple[Path, _FileReader]]:
        """Return a reader of each file, in order; with `upto` without the log files after that number."""
        files = [] if self.snapshot is None else [snapshot_path(self.folder, self.snapshot)]
        files += [log_path(self.folder, number) for number in self.logs if upto is None or number <= upto]
        last = log_path(self.folder, self.logs[-1]) if self.logs else None
        return [(path, _FileReader(path, may_be_torn=path == last)) for path in files]

    def superseded(self) -> list[Path]:
        """Return the files that the snapshot replaces, and snapshots that were never completed."""
        partial = list(self.folder.glob("*.partial"))
        if self.snapshot is None:
            return partial
        found = [(path, match) for path in self.folder.iterdir() if (match := _FILE.fullmatch(path.name))]
        return partial + [
            path
            for path, match in found
            if int(match[1]) < self.snapshot or (match[2] == "log" and int(match[1]) == self.snapshot)
        ]


def load(folder: Path) -> dict[bytes, Record]:
    """Return the last record of each key, without changing a file.

    Raises:
        CorruptedStateError: a file is damaged elsewhere than in the last frame of the log, or is missing.
    """
    records: dict[bytes, Record] = {}
    for _, reader in Files.of(folder).readers():
        for record, _, _ in reader.records():
            if record.value is None:
                records.pop(record.key, None)
            else:
                records[record.key] = record
    return records


def check(folder: Path) -> int:
    """Read every file and return the number of records, without changing a file or keeping a record.

    Raises:
        CorruptedStateError: as `load` does.
    """
    return sum(1 for _, reader in Files.of(folder).readers() for _ in reader.records())


def read_snapshot(path: Path) -> Iterator[Record]:
    """Yield the records of a snapshot.

    Raises:
        CorruptedStateError: the file is not a whole snapshot.
    """
    reader = _FileReader(path, may_be_torn=False)
    for record, _, _ in reader.records():
        yield record


def write_snapshot(folder: Path, target: Path, *, upto: int | None = None, more: Iterable[Record] = ()) -> None:
    """Write the last record of each key, and `more`, to a new file, and synchronize it.

    Two passes over the files keep only the keys in memory.

    Args:
        folder: of the log.
        target: path of the new file, which only its owner may read.
        upto: number of the last log file to read; None reads all.
        more: further records.

    Raises:
        CorruptedStateError: a file is damaged.
    """
    readers = Files.of(folder).readers(upto)
    places: dict[bytes, _Place] = {}
    for number, (_, reader) in enumerate(readers):
        for record, start, size in reader.records():
            if record.value is None:
                places.pop(record.key, None)
            else:
                places[record.key] = _Place(number, start, size)
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(frame_of(encoded(_start_of("snapshot", upto or 0))))
        count = 0
        batch, size = [encoded(record) for record in more], 0
        for number, (path, _) in enumerate(readers):
            with path.open("rb") as source:
                for place in (place for place in places.values() if place.file == number):
                    source.seek(place.start)
                    batch.append(source.read(place.size))
                    size += place.size
                    if size >= COPY_BYTES:
                        file.write(frame_of(b"".join(batch)))
                        count, batch, size = count + len(batch), [], 0
        count += len(batch)
        file.write(frame_of(b"".join([*batch, encoded(Record(_END_KEY, str(count).encode()))])))
        file.flush()
        os.fsync(file.fileno())


def synchronize(path: Path) -> None:
    """Wait until the disk has a file, or of a folder the names of its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def merge_in_process(folder: Path, upto: int, target: Path) -> None:
    """Write a snapshot in a process of its own, at low priority: it would stop all replies of this one.

    Raises:
        subprocess.SubprocessError: the snapshot could not be written.
    """
    command = [sys.executable, "-m", "localcloud", "merge", str(folder), str(upto), str(target)]
    subprocess.run(["nice", *command], check=True, timeout=MERGE_SECONDS, stdin=subprocess.DEVNULL)


class Journal:
    """The open log of a folder. Threads may share it; one process at a time may open it.

    Args:
        folder: of the log files; it must exist.
        segment_bytes: see `SEGMENT_BYTES`.
        sync: waits until the disk has what was written to a file descriptor.
        merge: writes a snapshot of the log files up to a number to a path.

    Attributes:
        restored: the last record of each key when the log was opened; the owner may clear it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        sync: Callable[[int], None] = os.fdatasync,
        merge: Callable[[Path, int, Path], None] = merge_in_process,
    ) -> None:
        self._folder, self._segment_bytes, self._sync, self._merge = folder, segment_bytes, sync, merge
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: list[bytes] = []
        self._appended = self._durable = 0
        self._merging: threading.Thread | None = None
        files = Files.of(folder)
        for path in files.superseded():
            path.unlink()
        self.restored: dict[bytes, Record] = load(folder)
        self._number = files.logs[-1] if files.logs else (files.snapshot or 0) + 1
        self._descriptor, self._size = self._open(self._number)

    def append(self, records: Iterable[Record]) -> None:
        """Add records, which are written together: after a kill, all of them are there or none."""
        written = [encoded(record) for record in records]
        if written:
            with self._lock:
                self._pending.extend(written)
                self._appended += 1

    @property
    def has_pending(self) -> bool:
        """Whether records are not durable yet."""
        return self._durable < self._appended

    def commit(self) -> None:
        """Return when every record that was added before is durable.

        Raises:
            OSError: the disk is full or fails. The process must end: what is on the disk is unknown until it is read.
        """
        wanted = self._appended
        if self._durable >= wanted:
            return
        with self._writing:
            if self._durable >= wanted:
                return  # another thread has written them
            with self._lock:
                batch, self._pending, upto = self._pending, [], self._appended
            frame = frame_of(b"".join(batch))
            _write(self._descriptor, frame)
            self._sync(self._descriptor)
            self._durable, self._size = upto, self._size + len(frame)
            if self._size >= self._segment_bytes:
                self._begin_segment()

    def close(self) -> None:
        """Commit, and close the file; a merge under way ends first."""
        self.commit()
        if self._merging is not None:
            self._merging.join(MERGE_SECONDS)
        os.close(self._descriptor)

    def _open(self, number: int) -> tuple[int, int]:
        """Open a log file behind its last whole frame; return its descriptor and size."""
        path = log_path(self._folder, number)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        reader = _FileReader(path, may_be_torn=True)
        for _ in reader.records():
            continue
        if reader.is_torn:
            log.warning(
                "%s: the last %d bytes were never acknowledged; they are removed",
                path,
                os.fstat(descriptor).st_size - reader.end,
            )
        os.ftruncate(descriptor, reader.end)
        size = reader.end
        if not size:
            size = _write(descriptor, frame_of(encoded(_start_of("log", number))))
        os.fsync(descriptor)
        synchronize(self._folder)
        return descriptor, size

    def _begin_segment(self) -> None:
        os.close(self._descriptor)
        self._number += 1
        self._descriptor, self._size = self._open(self._number)
        if self._merging is not None and self._merging.is_alive():
            return
        files = Files.of(self._folder)
        sealed = sum(log_path(self._folder, number).stat().st_size for number in files.logs if number < self._number)
        snapshot = 0 if files.snapshot is None else snapshot_path(self._folder, files.snapshot).stat().st_size
        if sealed > snapshot:
            self._merging = threading.Thread(
                target=self._merge_upto, args=(self._number - 1,), name="merge", daemon=True
            )
            self._merging.start()

    def _merge_upto(self, number: int) -> None:
        partial = self._folder / f"{number:08d}.partial"
        try:
            self._merge(self._folder, number, partial)
            partial.replace(snapshot_path(self._folder, number))
            synchronize(self._folder)
            for path in Files.of(self._folder).superseded():
                path.unlink()
        except (OSError, subprocess.SubprocessError, CorruptedStateError):
            log.exception("the log files up to %d could not be merged; the next file tries again", number)
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _write(descriptor: int, content: bytes) -> int:
    """Write everything; return the number of bytes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return len(content)
