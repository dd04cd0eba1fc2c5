"""The temporary files of this process: a database of items, objects and small contents, and a file of large contents.

So memory does not grow with the number of images: what is read again soon is in the system's page cache. The files
have no name and end with the process (https://www.sqlite.org/inmemorydb.html#temp_db). Nothing in them is durable: a
state has records of its own.
"""

import ctypes
import functools
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count
from tempfile import TemporaryFile
from typing import Any, Final
from weakref import WeakValueDictionary

log = logging.getLogger(__name__)

LOG_SECONDS: Final = 60.0
"""Shortest time in seconds from a line of the log about failed files to the next: clients repeat their calls."""

PIECE_BYTES: Final = 1024 * 1024 * 1024
"""Most bytes that one call reads or writes; Linux transfers at most 2 GiB."""

LARGE_BYTES: Final = 32 * 1024
"""Size from which a content is large: to write a photo of 3 MB takes SQLite 8 ms of CPU, and the file less than 1."""

BLOCK_BYTES: Final = 4_096
"""Large contents begin at multiples of this, so that the file system can free their blocks."""

LAST: Final = b"\xff"
"""Sorts after every key: no text in UTF-8 has this byte."""

NEXT: Final = b"\0"
"""At the end of a key it makes the first key that sorts after it."""

# SQLite's cache of 8,192 KiB is what the database takes of the memory.
_SCHEMA: Final = """
PRAGMA page_size = 16384;
PRAGMA cache_size = -8192;
PRAGMA temp_store = FILE;
PRAGMA journal_mode = MEMORY;
PRAGMA recursive_triggers = ON;  -- a row that is replaced is deleted, too
CREATE TABLE contents (number INTEGER PRIMARY KEY, content BLOB, start INTEGER, size INTEGER);
CREATE TABLE items (
    owner INTEGER NOT NULL, partition BLOB NOT NULL, sort BLOB NOT NULL, attributes BLOB NOT NULL,
    PRIMARY KEY (owner, partition, sort)
) WITHOUT ROWID;
CREATE TABLE objects (
    owner INTEGER NOT NULL, name BLOB NOT NULL, content INTEGER NOT NULL, attributes BLOB NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;
CREATE TRIGGER object_deleted AFTER DELETE ON objects BEGIN
    DELETE FROM contents WHERE number = old.content AND has_no_reader(old.content);
END;
CREATE TRIGGER content_deleted AFTER DELETE ON contents WHEN old.size IS NOT NULL BEGIN
    SELECT free(old.start, old.size);
END;
"""

_FREE_BLOCKS: Final = 3
"""Mode of fallocate: FALLOC_FL_PUNCH_HOLE with FALLOC_FL_KEEP_SIZE."""


def folder() -> str:
    """Return the folder of the temporary files, as SQLite chooses its own (https://www.sqlite.org/tempfiles.html)."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108  # nosec B108 (the files have no names)
    return next((each for each in named if each and os.access(each, os.W_OK | os.X_OK)), ".")


class TemporaryStorageError(Exception):
    """Raised when a temporary file cannot be written or read: its disk is full or fails."""


class TemporaryDatabase:
    """A database that ends with its process; threads may share it, but not a process that was forked.

    Attributes:
        lock: held by each statement; a caller may hold it for several.
        on_failure: called with the error if the disk is full or fails, before it is raised.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._file = TemporaryFile(dir=folder(), buffering=0)  # noqa: SIM115 (it ends with the process)
        self._end = 0
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.create_function("free", 2, self._free)
        self._connection.create_function("has_no_reader", 1, has_no_reader)
        self._connection.executescript(_SCHEMA)
        self._later = deque[tuple[str, tuple[Any, ...]]]()
        self.on_failure: Callable[[Exception], object] = lambda _error: None
        self._numbers, self._log_at = count(), 0.0

    def new_number(self) -> int:
        """Return a number that names rows, and that no earlier call has returned."""
        return next(self._numbers)

    def execute(self, statement: str, *values: Any) -> list[Any]:
        """Execute a statement and return its rows."""
        with self.lock:
            try:
                while self._later:
                    self._connection.execute(*self._later.popleft())
                return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def execute_later(self, statement: str, *values: Any) -> None:
        """Execute a statement before the next one; for destructors, which may run in the middle of any call."""
        self._later.append((statement, values))

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Yield the rows of a statement; other threads wait until the iterator has ended or is closed."""
        with self.lock:
            try:
                yield from self._connection.execute(statement, values)
            except sqlite3.Error as error:
                raise self._failure(error) from error

    def add_content(self, content: bytes) -> int:
        """Store a content and return its number."""
        number, size = self.new_number(), len(content)
        if size < LARGE_BYTES:
            self.execute("INSERT INTO contents VALUES (?, ?, NULL, NULL)", number, content)
            return number
        with self.lock:
            start = self._end
            self._end += -(-size // BLOCK_BYTES) * BLOCK_BYTES
        left, at = memoryview(content), start
        try:
            while left:
                written = os.pwrite(self._file.fileno(), left[:PIECE_BYTES], at)
                left, at = left[written:], at + written
        except OSError as error:
            self._free(start, size)
            raise self._failure(error) from error
        self.execute("INSERT INTO contents VALUES (?, NULL, ?, ?)", number, start, size)
        return number

    def content(self, number: int) -> bytes:
        """Return a content."""
        [(content, start, size)] = self.execute("SELECT content, start, size FROM contents WHERE number = ?", number)
        if start is None:
            return bytes(content)
        starts = range(start, start + size, PIECE_BYTES)
        try:
            pieces = [os.pread(self._file.fileno(), min(PIECE_BYTES, start + size - at), at) for at in starts]
        except OSError as error:
            raise self._failure(error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _free(self, start: int, size: int) -> None:
        """Return blocks of the file to the file system; those of one that cannot are lost until the process ends."""
        blocks = -(-size // BLOCK_BYTES) * BLOCK_BYTES
        _library().fallocate(self._file.fileno(), _FREE_BLOCKS, ctypes.c_int64(start), ctypes.c_int64(blocks))

    def _failure(self, error: Exception) -> TemporaryStorageError:
        self.on_failure(error)
        failure = TemporaryStorageError(
            f"the temporary files in {folder()} cannot be written or read ({error}): free space there, or name "
            "another folder in TMPDIR and start again"
        )
        if time.monotonic() >= self._log_at:
            log.critical("%s", failure)
            self._log_at = time.monotonic() + LOG_SECONDS
        return failure


@functools.cache
def _library() -> Any:
    return ctypes.CDLL(None)


@functools.cache
def database() -> TemporaryDatabase:
    """Return the database of this process, which its first use creates."""
    return TemporaryDatabase()


class StoredContent:
    """Bytes outside of the objects of moto.

    They are deleted with the last reference to this object, or with their row of the table `objects`, whichever is
    later: a reader of a replaced or deleted object still gets its content.
    """

    __slots__ = ("__weakref__", "has_row", "number")

    def __init__(self, number: int, *, has_row: bool) -> None:
        self.number, self.has_row = number, has_row
        _readers[number] = self

    @classmethod
    def create(cls, content: bytes) -> "StoredContent":
        """Store bytes."""
        return cls(database().add_content(content), has_row=False)

    @classmethod
    def of_row(cls, number: int) -> "StoredContent":
        """Return the content of a row; the caller has held the lock since it read the row."""
        return _readers.get(number) or cls(number, has_row=True)

    def read(self) -> bytes:
        """Return the bytes."""
        return database().content(self.number)

    def __deepcopy__(self, _memo: Any) -> "StoredContent":
        """Return this object: its bytes never change."""
        return self

    def __del__(self) -> None:
        """Delete the bytes, unless a row has them."""
        if not self.has_row:
            database().execute_later("DELETE FROM contents WHERE number = ?", self.number)


class JoinedContent:
    """Contents one after the other as one, which need not be in memory as a whole."""

    def __init__(self, parts: Sequence[tuple[StoredContent, int]]) -> None:
        """Join contents, each with its size in bytes."""
        self._parts = parts

    def __len__(self) -> int:
        """Return the size in bytes."""
        return sum(size for _, size in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes of each content."""
        return (part.read() for part, _ in self._parts)

    def __bytes__(self) -> bytes:
        """Return all bytes."""
        return b"".join(self)

    def __deepcopy__(self, _memo: Any) -> "JoinedContent":
        """Return this object: its bytes never change."""
        return self


Body = bytes | JoinedContent
"""What is sent or written of a content."""


def body_of(content: StoredContent | JoinedContent) -> Body:
    """Return the bytes of a content; if it has parts, itself, which reads them one after the other."""
    return content if isinstance(content, JoinedContent) else content.read()


def pieces_of(body: Body) -> Iterable[bytes]:
    """Return the bytes of a body in pieces; those of parts are read one after the other."""
    return (body,) if isinstance(body, bytes) else body


_readers: WeakValueDictionary[int, StoredContent] = WeakValueDictionary()


def has_no_reader(number: int) -> bool:
    """Return whether no `StoredContent` reads the content of a deleted row; one that does deletes it later."""
    if (reader := _readers.get(number)) is None:
        return True
    reader.has_row = False
    return False
