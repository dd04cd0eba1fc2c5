"""The temporary database of this process: items of tables, and contents of objects but for the newest large ones.

So memory grows little with the number of images. SQLite keeps the database in its cache, and from `CACHE_KIB` on in a
file without a name, which ends with the process (https://www.sqlite.org/inmemorydb.html#temp_db). Nothing in it is
durable: a state has records of its own.
"""

import functools
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Final

CACHE_KIB: Final = 8_192
"""Size of SQLite's cache in KiB, which is what the database takes of the memory."""

PIECE_BYTES: Final = 256 * 1024 * 1024
"""Largest content in bytes of one row; SQLite refuses a row of more than 1,000,000,000."""

RECENT_BYTES: Final = 128 * 1024 * 1024
"""Size of the large contents that stay in memory; to write and read one of 3 MB takes 9 ms of CPU."""

LARGE_BYTES: Final = 32 * 1024
"""Size from which a content is large, as photos are and results are not."""

_SCHEMA: Final = f"""
PRAGMA page_size = 16384;
PRAGMA cache_size = -{CACHE_KIB};
PRAGMA temp_store = FILE;
PRAGMA journal_mode = MEMORY;
CREATE TABLE contents (
    number INTEGER NOT NULL, piece INTEGER NOT NULL, content BLOB NOT NULL, PRIMARY KEY (number, piece)
) WITHOUT ROWID;
CREATE TABLE items (
    owner INTEGER NOT NULL, partition BLOB NOT NULL, sort BLOB NOT NULL, attributes BLOB NOT NULL,
    PRIMARY KEY (owner, partition, sort)
) WITHOUT ROWID;
"""


class TemporaryDatabase:
    """A database that ends with its process; threads may share it, but not a process that was forked.

    Attributes:
        on_failure: called with the error if the disk is full or fails, before it is raised.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._connection.executescript(_SCHEMA)
        self._later = deque[tuple[str, tuple[Any, ...]]]()
        self.on_failure: Callable[[Exception], object] = lambda _error: None
        self._numbers = count()

    def new_number(self) -> int:
        """Return a number that names rows, and that no earlier call has returned."""
        return next(self._numbers)

    def execute(self, statement: str, *values: Any) -> list[Any]:
        """Execute a statement and return its rows."""
        with self._lock, self._failures():
            while self._later:
                self._connection.execute(*self._later.popleft())
            return self._connection.execute(statement, values).fetchall()

    def execute_later(self, statement: str, *values: Any) -> None:
        """Execute a statement before the next one; for destructors, which may run in the middle of any call."""
        self._later.append((statement, values))

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Yield the rows of a statement; other threads wait until the iterator has ended or is closed."""
        with self._lock, self._failures():
            yield from self._connection.execute(statement, values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self.on_failure(error)
            raise


class Contents:
    """Contents of objects by their number: the newest large ones in memory, since most are read and deleted soon."""

    def __init__(self, database: TemporaryDatabase) -> None:
        self._database, self._lock = database, threading.Lock()
        self._recent, self._recent_bytes = dict[int, bytes](), 0
        self._forgotten = deque[int]()

    def add(self, content: bytes) -> int:
        """Store a content and return its number."""
        number = self._database.new_number()
        with self._lock:
            while self._forgotten:
                self._delete(self._forgotten.popleft())
            if len(content) < LARGE_BYTES:
                self._write(number, content)
                return number
            self._recent[number] = content
            self._recent_bytes += len(content)
            while self._recent_bytes > RECENT_BYTES:
                oldest = next(iter(self._recent))
                self._write(oldest, self._recent[oldest])
                self._recent_bytes -= len(self._recent.pop(oldest))
        return number

    def read(self, number: int) -> bytes:
        """Return a content."""
        with self._lock:
            recent = self._recent.get(number)
        if recent is not None:
            return recent
        pieces = self._database.execute("SELECT content FROM contents WHERE number = ? ORDER BY piece", number)
        return b"".join(piece for (piece,) in pieces)

    def forget(self, number: int) -> None:
        """Delete a content when the next one is added; for destructors, which may run in the middle of any call."""
        self._forgotten.append(number)

    def _write(self, number: int, content: bytes) -> None:
        for piece, start in enumerate(range(0, max(1, len(content)), PIECE_BYTES)):
            part = content[start : start + PIECE_BYTES]
            self._database.execute("INSERT INTO contents VALUES (?, ?, ?)", number, piece, part)

    def _delete(self, number: int) -> None:
        if (recent := self._recent.pop(number, None)) is None:
            self._database.execute("DELETE FROM contents WHERE number = ?", number)
        else:
            self._recent_bytes -= len(recent)


@functools.cache
def database() -> TemporaryDatabase:
    """Return the database of this process, created at the first call: after the server has forked."""
    return TemporaryDatabase()


@functools.cache
def contents() -> Contents:
    """Return the contents of this process, as `database`."""
    return Contents(database())


class StoredContent:
    """Bytes outside of the objects of moto; they are deleted with the last reference to this object."""

    __slots__ = ("_number",)

    def __init__(self, content: bytes) -> None:
        self._number = contents().add(content)

    def read(self) -> bytes:
        """Return the bytes."""
        return contents().read(self._number)

    def __deepcopy__(self, _memo: Any) -> "StoredContent":
        """Return this object, which never changes."""
        return self

    def __del__(self) -> None:
        """Delete the bytes."""
        contents().forget(self._number)
