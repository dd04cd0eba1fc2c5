"""The database of a state: what a local cloud has acknowledged, in one SQLite file, restored after any kill.

A record sets the value of a key: JSON, and the content of an object. The last record of a key counts; a record
without a value removes the key. `Store.append` collects records. `Store.commit` writes those of all threads in one
transaction, and returns when the disk has it (group commit). SQLite copies its write-ahead log into the database in
the commit that makes the log longer than `LOG_PAGES`, so the log has at most that and one more transaction.

SQLite has no checksums of content, and its log ends silently at the first damaged frame
(https://www.sqlite.org/fileformat2.html#wal_file_format). So each row has a checksum, and the file `ACKNOWLEDGED` has
the number of the last commit that calls may have been answered for: a database with fewer commits has lost some.
"""

import json
import os
import sqlite3
import threading
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

from localcloud.temporary import Body, pieces_of

APPLICATION_ID: Final = 0x466C7374
"""Mark of a database of ours, in the header of its file: "Flst"."""

FORMAT: Final = 2
"""Version of the format of a state."""

ACKNOWLEDGED: Final = "-acknowledged"
"""What the name of the file with the number of commits has after that of the database."""

PIECE_BYTES: Final = 256 * 1024 * 1024
"""Largest content in bytes of one row; SQLite refuses a row of more than 1,000,000,000."""

LOG_PAGES: Final = 4_000
"""Length in pages of 4,096 bytes from which the write-ahead log is copied; SQLite's 1,000 takes more syncs."""

MAX_LOG_BYTES: Final = 16 * 1024 * 1024
"""Size in bytes to which the write-ahead log shrinks again after a transaction with a large object."""

REMEDY: Final = "Restore a snapshot (fleetsight state restore FILE DIR), or begin again (fleetsight state reset DIR)"

_SCHEMA: Final = """
CREATE TABLE records (
    key BLOB NOT NULL, piece INTEGER NOT NULL, value BLOB NOT NULL, body BLOB NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (key, piece)
);
CREATE TABLE commits (number INTEGER NOT NULL);
INSERT INTO commits VALUES (0);
"""

_SETTINGS: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",  # each commit waits for the disk
    f"wal_autocheckpoint = {LOG_PAGES}",
    f"journal_size_limit = {MAX_LOG_BYTES}",
    "secure_delete = OFF",  # no zeros over what is removed
)

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""SQLite's codes for a damaged file. The last one is that of a table which is missing: all statements are ours."""


class StateError(Exception):
    """Raised when a state or a file cannot be used as asked; the message names it and says what to do."""


class CorruptedStateError(StateError):
    """Raised when a file of a state is damaged; the message names the file and the remedy."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"the state is damaged: {path} {problem}. Nothing was changed. {REMEDY}")


class Record(NamedTuple):
    """A key with its value, None to remove the key, and the content of an object."""

    key: bytes
    value: bytes | None
    body: Body = b""


Row = tuple[bytes, int, bytes, bytes, int]
"""Key, number of the piece of the body, value, the piece, and checksum. Only the first piece has the value."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection to a database that exists, without transactions of its own."""
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rw'}"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Raise errors of the disk in the block as `StateError`, or as `CorruptedStateError` if the file is damaged."""
    try:
        yield
    except (sqlite3.Error, OSError, TypeError, ValueError) as error:
        # A damaged page has values of other types, or no text.
        if isinstance(error, TypeError | ValueError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise CorruptedStateError(path, f"cannot be read ({error})") from error
        remedy = "free space on its disk, check its rights, or name another"
        raise StateError(f"{path} cannot be used ({error}): {remedy}") from error


def create(path: Path, records: Iterable[Record] = ()) -> None:
    """Create a database with records, in the place of an existing one; a kill leaves that or the new one.

    Raises:
        StateError: the disk is full or fails.
    """
    partial = path.with_name(f"{path.name}.partial")
    with named_errors(path):
        partial.unlink(missing_ok=True)
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            with closing(connect(partial)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.executescript(_SCHEMA)
                connection.execute("BEGIN")
                connection.executemany(_INSERT, (row for record in records for row in _rows_of(record, PIECE_BYTES)))
                connection.execute("COMMIT")
            synchronize(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        synchronize(path.absolute().parent)


def synchronize(path: Path) -> None:
    """Wait until the disk has a file, or of a folder the names of its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, kind: str | None = None) -> Iterator[Record]:
    """Yield the records of a database without changing a file, and check it; or those of a kind, and check these.

    Each piece is a record of its own; only the first has a value. The pieces of a record follow each other.

    Raises:
        StateError: the file is of something else or of another version, or it cannot be read.
        CorruptedStateError: the file is damaged, or acknowledged commits are missing.
    """
    with named_errors(path), closing(connect(path, read_only=True)) as connection:
        if kind is None:
            _check(connection, path)
            rows = connection.execute("SELECT * FROM records ORDER BY rowid")
        else:
            begin = json.dumps([kind]).encode()[:-1]  # of the JSON that a key is
            span = "SELECT * FROM records WHERE key >= ? AND key < ? ORDER BY key, piece"
            rows = connection.execute(span, (begin, begin + b"\xff"))
        for key, piece, value, body, checksum in rows:
            if _checksum(key, piece, value, body) != checksum:
                raise CorruptedStateError(path, f"has a damaged record of {key!r}")
            yield Record(key, value, body)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Check all of a database but its records."""
    if _value_of(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StateError(f"{path} is not a state of Fleetsight: name another folder. Nothing was changed")
    if (version := _value_of(connection, "PRAGMA user_version")) != FORMAT:
        raise StateError(
            f"{path} has format {version}, and this version of Fleetsight reads format {FORMAT}: use the version "
            "that wrote it, or another folder"
        )
    if (problem := _value_of(connection, "PRAGMA integrity_check(1)")) != "ok":
        raise CorruptedStateError(path, f"cannot be read ({problem})")
    commits, acknowledged = _value_of(connection, "SELECT number FROM commits"), _acknowledged(path)
    if commits < acknowledged:
        lacking = acknowledged - commits
        raise CorruptedStateError(
            path, f"lacks its last {lacking:,} commits (without {_beside(path).name} it is read)"
        )


def whole_records(path: Path, kind: str | None = None) -> Iterator[Record]:
    """Yield the whole record of each key, or of those of a kind; raises as `read` does."""
    for _, pieces in groupby(read(path, kind), attrgetter("key")):
        first, *others = pieces
        yield first._replace(body=b"".join(bytes(each.body) for each in (first, *others))) if others else first


def load(path: Path) -> dict[bytes, Record]:
    """Return the whole record of each key; raises as `read` does."""
    return {record.key: record for record in whole_records(path)}


def tally(path: Path) -> Counter[str]:
    """Return the number of records of each kind; raises as `read` does."""
    return Counter(json.loads(record.key)[0] for record in read(path) if record.value)


class Store:
    """The open database of a state, which was checked. Threads may share it; one process at a time may open it.

    Raises:
        StateError: as `read` does.
    """

    def __init__(self, path: Path, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._piece_bytes = piece_bytes
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: list[Record] = []
        self._appended = self._durable = 0
        self.path = path
        for _ in read(path):
            pass
        with named_errors(path):
            self._connection = connect(path)
            for setting in _SETTINGS:
                self._connection.execute(f"PRAGMA {setting}")
            self._commits: int = _value_of(self._connection, "SELECT number FROM commits")
            self._acknowledged = os.open(_beside(path), os.O_WRONLY | os.O_CREAT, 0o600)

    def records(self, kind: str | None = None) -> Iterator[Record]:
        """Yield what the database has, or what it has of a kind, one record after the other: all may be too much."""
        return whole_records(self.path, kind)

    def append(self, records: Iterable[Record]) -> None:
        """Add records, which are written together: after a kill, all of them are there or none."""
        added = list(records)
        if added:
            with self._lock:
                self._pending.extend(added)
                self._appended += 1

    def commit(self) -> None:
        """Return when every record that was added before is durable.

        Raises:
            sqlite3.Error, OSError: the disk is full or fails. The process must end: what is on the disk is unknown.
        """
        wanted = self._appended
        if self._durable >= wanted:
            return
        with self._writing:
            if self._durable >= wanted:
                return  # another thread has written them
            with self._lock:
                batch, self._pending, upto = self._pending, [], self._appended
            self._write({record.key: record for record in batch}.values())
            self._durable = upto

    def close(self) -> None:
        """Commit, and close the files."""
        self.commit()
        self._connection.close()
        os.close(self._acknowledged)

    def _write(self, records: Iterable[Record]) -> None:
        execute, executemany = self._connection.execute, self._connection.executemany
        execute("BEGIN IMMEDIATE")
        executemany("DELETE FROM records WHERE key = ?", [(record.key,) for record in records])
        executemany(_INSERT, (row for record in records for row in _rows_of(record, self._piece_bytes)))
        execute("UPDATE commits SET number = number + 1")
        execute("COMMIT")
        self._commits += 1
        os.pwrite(self._acknowledged, b"%020d" % self._commits, 0)  # never before the disk has the commit


_INSERT: Final = "INSERT INTO records VALUES (?, ?, ?, ?, ?)"


def _rows_of(record: Record, piece_bytes: int) -> Iterator[Row]:
    """Yield the rows of a record: none if it removes its key."""
    value = record.value
    if value is None:
        return
    bodies = (
        part[start : start + piece_bytes]
        for part in pieces_of(record.body)
        for start in range(0, max(1, len(part)), piece_bytes)
    )
    for piece, body in enumerate(bodies):
        yield record.key, piece, value, body, _checksum(record.key, piece, value, body)
        value = b""


def _checksum(key: bytes, piece: int, value: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(value, zlib.crc32(key, piece)))


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ACKNOWLEDGED)


def _acknowledged(path: Path) -> int:
    """Return the number of commits that were acknowledged; 0 if there is no such file or the disk never had it."""
    try:
        text = _beside(path).read_bytes()
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() else 0


def _value_of(connection: sqlite3.Connection, question: str) -> Any:
    return connection.execute(question).fetchone()[0]
