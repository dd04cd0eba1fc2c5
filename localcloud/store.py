"""The data of the local cloud: one SQLite database, and a file for each large content.

With a state, database and files are in its folder, and what calls have changed is durable once `commit` returns.
Without one they are temporary, and nothing is durable. Memory does not grow with the number of images in either case:
what is read again soon is in the system's page cache.

A content's file is on the disk before a row that names it, and is removed after the row: a kill or a power failure
leaves at most files without a row, which the next start removes. SQLite ends its log silently at the first damaged
frame (https://www.sqlite.org/fileformat2.html#wal_file_format), so the file `ACKNOWLEDGED` has the number of the last
commit that calls may have been answered for: a database with fewer commits has lost some.
"""

import fcntl
import functools
import logging
import os
import shutil
import sqlite3
import tempfile
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple
from weakref import WeakValueDictionary

log = logging.getLogger(__name__)

DATABASE: Final = "state.sqlite"
"""File of the database."""

PARTIAL: Final = f"{DATABASE}.partial"
"""File of a database that is being created."""

ACKNOWLEDGED: Final = f"{DATABASE}-acknowledged"
"""File with the number of commits."""

CONTENTS: Final = "contents"
"""Folder of the files of large contents; the name of each is its number."""

APPLICATION_ID: Final = 0x466C7374
"""Mark of a database of ours, in the header of its file: "Flst"."""

FORMAT: Final = 3
"""Version of the format of a state."""

LARGE_BYTES: Final = 32 * 1024
"""Size from which a content is a file: to write a photo of 3 MB takes SQLite 8 ms of CPU, and a file less than 1."""

PAGE_BYTES: Final = 2_048
"""Size of a page of a state's database: a commit writes each page that it changes, twice. A row of an item fits."""

LOG_PAGES: Final = 8_000
"""Length in pages from which the write-ahead log is copied into the database; SQLite's 1,000 takes more syncs."""

MAX_LOG_BYTES: Final = 16 * 1024 * 1024
"""Size in bytes to which the write-ahead log shrinks again after a large transaction."""

CACHE_KILOBYTES: Final = 16_384
"""Memory in KiB that SQLite takes for pages."""

NOT_WRITTEN: Final = 5
"""Exit status of a process that cannot write its state."""

LOG_SECONDS: Final = 60.0
"""Shortest time in seconds from a line of the log about a full disk to the next: clients repeat their calls."""

UNUSED_SECONDS: Final = 60.0
"""Age in seconds from which a temporary folder that no process has locked is of a process that was killed."""

REMEDY: Final = "Use a copy of the folder from before, or begin again with an empty one"

LAST: Final = b"\xff"
"""Sorts after every key: no text in UTF-8 has this byte."""

NEXT: Final = b"\0"
"""At the end of a key it makes the first key that sorts after it."""

# A content has a row while an object names it. Of a message, `place` is 2 in a standard queue; in a FIFO queue it is
# 1 for the first of a group, 0 for the others. `due` is when it becomes visible, or became so, and `hidden` the
# seconds for which it was hidden until then. Checksums are of what a client gets: see `checksum`.
_SCHEMA: Final = """
CREATE TABLE commits (number INTEGER NOT NULL);
INSERT INTO commits VALUES (0);
CREATE TABLE resources (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, account TEXT NOT NULL, region TEXT NOT NULL,
    name TEXT NOT NULL, value TEXT NOT NULL, checksum INTEGER NOT NULL DEFAULT 0, UNIQUE (kind, account, region, name)
);
CREATE TRIGGER resource_described AFTER UPDATE OF value ON resources BEGIN
    UPDATE resources SET checksum = row_checksum(number, kind, account, region, name, value)
    WHERE number = new.number;
END;
CREATE TABLE contents (
    number INTEGER PRIMARY KEY, size INTEGER NOT NULL, checksum INTEGER NOT NULL, content BLOB
);
CREATE INDEX content_files ON contents (number) WHERE content IS NULL;
CREATE TABLE objects (
    bucket INTEGER NOT NULL, name BLOB NOT NULL, contents TEXT NOT NULL, attributes TEXT NOT NULL,
    checksum INTEGER NOT NULL, PRIMARY KEY (bucket, name)
) WITHOUT ROWID;
CREATE TABLE items (
    owner INTEGER NOT NULL, hash_key BLOB NOT NULL, range_key BLOB NOT NULL, size INTEGER NOT NULL,
    item TEXT NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (owner, hash_key, range_key)
) WITHOUT ROWID;
CREATE TABLE messages (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, place INTEGER NOT NULL, due REAL NOT NULL,
    hidden REAL NOT NULL, receives INTEGER NOT NULL, message_group TEXT, id TEXT NOT NULL, body TEXT NOT NULL,
    sent REAL NOT NULL, first_received REAL, receipt TEXT, checksum INTEGER NOT NULL
);
CREATE INDEX messages_due ON messages (queue, place, due);
CREATE INDEX messages_fair ON messages (queue, message_group, due) WHERE place = 2;
CREATE INDEX messages_fifo ON messages (queue, message_group) WHERE place < 2;
CREATE TABLE duplicates (
    queue INTEGER NOT NULL, key TEXT NOT NULL, ends REAL NOT NULL, id TEXT NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE INDEX duplicates_ends ON duplicates (queue, ends);
"""

_RESOURCES: Final = "SELECT checksum, number, kind, account, region, name, value FROM resources WHERE value != ''"

_NUMBER: Final = "SELECT number FROM resources WHERE kind = ? AND account = ? AND region = ? AND name = ?"

_NUMBERS_OF_FILES: Final = "SELECT number FROM contents WHERE content IS NULL"

_OWNED: Final = (("objects", "bucket"), ("items", "owner"), ("messages", "queue"), ("duplicates", "queue"))
"""Tables with rows of resources, and the columns with the number of the resource."""

_FAILURES: Final = (sqlite3.DatabaseError, OSError)

_OF_STATEMENT: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
"""Errors of a statement or its values, and not of the disk."""

_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""SQLite's codes for a damaged file. The last one is that of a table which is missing: all statements are ours."""

_PREFIX: Final = "localcloud-data-"


class StateError(Exception):
    """Raised when a state or a file cannot be used as asked; the message names it and says what to do."""


class EarlierStateError(StateError):
    """Raised when a state has a format that an earlier version has written."""


class CorruptedStateError(StateError):
    """Raised when a file of a state is damaged; the message names the file and the remedy."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"the state is damaged: {path} {problem}. Nothing was changed. {REMEDY}")


class StorageError(Exception):
    """Raised when the disk of a cloud without a state is full or fails; the call has changed nothing."""


class Content(NamedTuple):
    """A stored content, as the row of an object names it: its number, its size in bytes, and its checksum."""

    number: int
    size: int
    checksum: int

    @property
    def is_large(self) -> bool:
        """Whether the content is a file, and not in its row."""
        return self.size >= LARGE_BYTES


def checksum(*parts: str | bytes | int) -> int:
    """Return the CRC-32 of the parts of a row."""
    found = 0
    for part in parts:
        found = zlib.crc32(part if type(part) is bytes else str(part).encode("utf-8", "surrogatepass"), found)
    return found


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


def create(folder: Path) -> None:
    """Create an empty state in a folder; a kill leaves one or none.

    Raises:
        StateError: the disk is full or fails.
    """
    path, partial = folder / DATABASE, folder / PARTIAL
    with named_errors(path):
        partial.unlink(missing_ok=True)
        new_file(partial).close()
        try:
            with closing(connect(partial)) as connection:
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {FORMAT}")
                connection.executescript(_SCHEMA)
            synchronize(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        synchronize(folder.absolute())


def new_file(path: Path) -> BinaryIO:
    """Create a file that only its owner may read, and open it; raises `FileExistsError` if it exists."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def synchronize(path: Path) -> None:
    """Wait until the disk has a file, or of a folder the names of its files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_head(connection: sqlite3.Connection, path: Path) -> int:
    """Check all of a database that takes the same time for every size; return the number of its commits.

    Raises:
        StateError: it is of something else, or of another version.
        EarlierStateError: it is of an earlier version.
        CorruptedStateError: acknowledged commits are missing, or the schema or a resource is damaged.
    """
    if _value_of(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise StateError(f"{path} is not a state of Fleetsight: name another folder. Nothing was changed")
    if (version := _value_of(connection, "PRAGMA user_version")) != FORMAT:
        raise (EarlierStateError if version < FORMAT else StateError)(
            f"{path} has format {version}, and this version of Fleetsight reads format {FORMAT}: use the version "
            "that wrote it, or another folder"
        )
    commits, file = int(_value_of(connection, "SELECT number FROM commits")), path.with_name(ACKNOWLEDGED)
    text = file.read_bytes() if file.exists() else b""  # the disk may never have had it
    if text.isdigit() and commits < int(text):
        lacking = int(text) - commits
        raise CorruptedStateError(path, f"lacks its last {lacking:,} commits (without {ACKNOWLEDGED} it is read)")
    if _schema_of(connection) != _schema():
        raise CorruptedStateError(path, "has a damaged schema")
    for right, *parts in connection.execute(_RESOURCES):
        if checksum(*parts) != right:
            raise CorruptedStateError(path, f"has a damaged resource: {parts[1]} {parts[-2]}")
    return commits


@functools.cache
def _schema() -> list[Any]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_SCHEMA)
        return _schema_of(connection)


def _schema_of(connection: sqlite3.Connection) -> list[Any]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


def _value_of(connection: sqlite3.Connection, question: str) -> Any:
    return connection.execute(question).fetchone()[0]


def connect(path: Path, *, mode: str = "rw") -> sqlite3.Connection:
    """Return a connection to a database that exists, without transactions of its own."""
    address = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(address, uri=True, isolation_level=None, check_same_thread=False)


class Store:
    """The open database. Threads share it; what one changes within `change`, or holding `lock`, is one change.

    A failure of the disk raises `StorageError`; with a state it ends the process, since only reading shows what the
    disk has, which the next process does.

    Attributes:
        is_durable: whether it is of a state.
        readers: by number, what reads a content now; see `s3.contents`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the state in a folder, which `create` has made; without a folder begin with nothing.

        Raises:
            StateError: the folder's database is of something else, or of another version.
            CorruptedStateError: it is damaged, or acknowledged commits are missing. Rows are not read.
        """
        self.lock, self.is_durable = threading.RLock(), folder is not None
        self.readers = WeakValueDictionary[int, Any]()
        self.folder = _temporary_folder() if folder is None else folder
        self._files = self.folder / CONTENTS
        self._changes = self._durable = self._commits = self._depth = 0
        self._written, self._unread = list[Path](), deque[Path]()
        self._when_done = list[Callable[[], object]]()
        self._log_at = 0.0
        if folder is None:
            self._files.mkdir(mode=0o700)
            self._finalize = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._configure("temp_store = FILE", "journal_mode = MEMORY")
            self._connection.executescript(_SCHEMA)
        else:
            with named_errors(folder / DATABASE):
                self._open(folder)
        self._content_numbers = count((_value_of(self._connection, "SELECT max(number) FROM contents") or 0) + 1)

    def _open(self, folder: Path) -> None:
        with closing(connect(folder / DATABASE, mode="ro")) as connection:
            self._commits = check_head(connection, folder / DATABASE)
        self._files.mkdir(mode=0o700, exist_ok=True)
        self._acknowledged = os.open(folder / ACKNOWLEDGED, os.O_WRONLY | os.O_CREAT, 0o600)
        synchronize(folder)
        self._connection = connect(folder / DATABASE)
        self._configure(
            "journal_mode = WAL",
            "synchronous = FULL",  # each commit waits for the disk
            f"wal_autocheckpoint = {LOG_PAGES}",
            f"journal_size_limit = {MAX_LOG_BYTES}",
        )
        self._remove_unfinished()
        named = {number for (number,) in self._connection.execute(_NUMBERS_OF_FILES)}
        with os.scandir(self._files) as files:
            for file in files:
                if not file.name.isdigit() or int(file.name) not in named:
                    Path(file).unlink()

    def _remove_unfinished(self) -> None:
        """Remove resources without a value, and what they hold: their creation was never acknowledged."""
        for (number,) in self.read("SELECT number FROM resources WHERE value = ''"):
            self.write(
                "DELETE FROM contents WHERE number IN (SELECT json_extract(named.value, '$[0]') "
                "FROM objects, json_each(objects.contents) AS named WHERE bucket = ?)",
                number,
            )
            for table, owner in (*_OWNED, ("resources", "number")):
                self.write(f"DELETE FROM {table} WHERE {owner} = ?", number)  # noqa: S608  # nosec B608 (names of tables)
        self.commit()

    def _configure(self, *settings: str) -> None:
        """Give the connection the function of the schema's trigger, its cache, and further settings."""
        self._connection.create_function("row_checksum", -1, checksum, deterministic=True)
        for setting in (f"cache_size = -{CACHE_KILOBYTES}", *settings):
            self._connection.execute(f"PRAGMA {setting}")

    def close(self) -> None:
        """Make everything durable, or remove it."""
        self.commit()
        with self.lock:
            self._connection.close()
        if self.is_durable:
            os.close(self._acknowledged)
        else:
            self._finalize()

    def read(self, statement: str, *values: Any) -> list[Any]:
        """Return the rows of a statement that changes nothing."""
        with self.lock:
            try:
                return self._connection.execute(statement, values).fetchall()
            except _FAILURES as error:
                raise self._failure(error) from error

    def rows(self, statement: str, *values: Any) -> Iterator[Any]:
        """Yield the rows of a statement; other threads wait until the iterator has ended or is closed."""
        with self.lock:
            try:
                yield from self._connection.execute(statement, values)
            except _FAILURES as error:
                raise self._failure(error) from error

    def write(self, statement: str, *values: Any) -> sqlite3.Cursor:
        """Execute a statement that changes rows, and return its cursor; the caller fetches all that it returns."""
        with self.lock:
            try:
                self._begin()
                self._changes += 1
                return self._connection.execute(statement, values)
            except _FAILURES as error:
                raise self._failure(error) from error

    def _begin(self) -> None:
        if self.is_durable and not self._connection.in_transaction:
            self._connection.execute("BEGIN IMMEDIATE")

    @contextmanager
    def change(self) -> Iterator[None]:
        """Make what the block changes as one: if it raises, nothing changes; a kill leaves all of it or nothing."""
        with self.lock:
            changes, done = self._changes, len(self._when_done)
            self.write("SAVEPOINT change")
            self._changes = changes
            self._depth += 1
            try:
                yield
                self._end_change("RELEASE change")
            except BaseException:
                self._changes = changes
                del self._when_done[done:]
                if self._connection.in_transaction:  # a full disk may have ended it
                    self._end_change("ROLLBACK TO change", "RELEASE change")
                raise
            finally:
                self._depth -= 1
            if not self._depth:
                functions, self._when_done = self._when_done, []
                for function in functions:
                    function()

    def _end_change(self, *statements: str) -> None:
        try:
            for statement in statements:
                self._connection.execute(statement)
        except _FAILURES as error:
            raise self._failure(error) from error

    def when_done(self, function: Callable[[], object]) -> None:
        """Call a function once the present change is complete; never if it is undone. The caller holds `lock`."""
        if self._depth:
            self._when_done.append(function)
        else:
            function()

    def commit(self) -> None:
        """Return when everything that calls could see so far is durable; without a state at once."""
        wanted = self._changes
        if not self.is_durable or self._durable >= wanted:
            return
        try:
            synchronized = list(self._written)  # others go on meanwhile
            for path in synchronized:
                with suppress(FileNotFoundError):  # another thread has committed, and removed it
                    synchronize(path)
            with self.lock:
                # A change that was undone meanwhile may have left nothing to commit.
                if self._durable < wanted and self._connection.in_transaction:
                    self._commit(set(synchronized))
        except _FAILURES as error:
            raise self._failure(error) from error

    def _commit(self, synchronized: set[Path]) -> None:
        for path in self._written:
            if path not in synchronized:
                synchronize(path)
        if self._written:
            synchronize(self._files)
        self._connection.execute("UPDATE commits SET number = number + 1")
        self._connection.execute("COMMIT")
        self._commits += 1
        os.pwrite(self._acknowledged, b"%020d" % self._commits, 0)  # never before the disk has the commit
        self._durable, self._written = self._changes, []
        while self._unread:
            self._unread.popleft().unlink(missing_ok=True)

    def new_content(self, content: bytes) -> Content:
        """Return a new content, of which a large one is a file now; it needs a row, or `remove_file`."""
        number = next(self._content_numbers)
        stored = Content(number, len(content), checksum(number, content))
        if stored.is_large:
            path = self._files / str(number)
            try:
                with new_file(path) as file:
                    file.write(content)
            except OSError as error:
                path.unlink(missing_ok=True)
                raise self._failure(error) from error
        return stored

    def add_content(self, stored: Content, small: bytes | None) -> None:
        """Add the row of a content, with its bytes unless they are a file."""
        with self.lock:
            if stored.is_large and self.is_durable:
                self._written.append(self._files / str(stored.number))
            self.write("INSERT INTO contents VALUES (?, ?, ?, ?)", *stored, small)

    def content(self, stored: Content) -> bytes:
        """Return the bytes of a content that has a row or a file."""
        number, size, right = stored
        try:
            if stored.is_large:
                content = (self._files / str(number)).read_bytes()
            else:
                found = self.read("SELECT content FROM contents WHERE number = ?", number)
                content = bytes(found[0][0]) if found else b""
        except OSError as error:
            raise self.damaged(f"content {number} ({error})") from error
        if (len(content), checksum(number, content)) != (size, right):
            raise self.damaged(f"content {number}")
        return content

    def drop_content(self, number: int) -> bytes | None:
        """Remove the row of a content; return its bytes, or None if they are a file, which `remove_file` removes."""
        with self.lock:
            [(small,)] = self.write("DELETE FROM contents WHERE number = ? RETURNING content", number).fetchall()
        return None if small is None else bytes(small)

    def remove_file(self, number: int) -> None:
        """Remove the file of a content without a row; with a state after the commit that removed the row."""
        path = self._files / str(number)
        if self.is_durable:
            self._unread.append(path)  # without the lock: for destructors
        else:
            path.unlink(missing_ok=True)

    def resource_number(self, kind: str, account: str, region: str, name: str) -> int:
        """Return the number of a bucket, table, queue or instance; a new one has no value yet.

        A start removes what still has none: its creation was never acknowledged.
        """
        names = (kind, account, region, name)
        with self.lock:
            found = self.read(_NUMBER, *names)
            if found:
                return int(found[0][0])
            return self.write("INSERT INTO resources VALUES (NULL, ?, ?, ?, ?, '', 0)", *names).lastrowid or 0

    def drop_resource(self, number: int) -> None:
        """Remove the row of a resource; the caller removes what it holds."""
        self.write("DELETE FROM resources WHERE number = ?", number)

    def damaged(self, what: str) -> Exception:
        """Return the failure of a row or content that has another checksum than was written."""
        return self._failure(ValueError(f"{what} is damaged"))

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, _OF_STATEMENT):
            return error
        if self.is_durable:
            end_process(error)
        failure = StorageError(
            f"the temporary files in {self.folder.parent} cannot be written or read ({error}): free space there, or "
            "name another folder in TMPDIR and start again"
        )
        if time.monotonic() >= self._log_at:
            log.critical("%s", failure)
            self._log_at = time.monotonic() + LOG_SECONDS
        return failure


def end_process(error: Exception) -> None:
    """End this process, since the disk of the state is full or fails, or what it has is damaged."""
    if isinstance(error, ValueError) or getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        log.critical("the state is damaged (%s), so no call is answered. %s", error, REMEDY)
    else:
        log.critical("the state cannot be written (%s), so no call is answered: free space on its disk", error)
    os._exit(NOT_WRITTEN)


def _temporary_folder() -> Path:
    """Return a new folder that this process has locked; remove those of processes that were killed."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108  # nosec B108 (only for a folder of its own)
    parent = Path(next((each for each in named if each and os.access(each, os.W_OK | os.X_OK)), "."))
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # in use, just made, removed meanwhile, or of another user
            if time.time() - folder.stat().st_mtime > UNUSED_SECONDS:
                os.close(_locked(folder))
                shutil.rmtree(folder)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    _locked(folder)  # until this process ends
    return folder


def _locked(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


_opened = list[Store]()
_opening = threading.Lock()


def data() -> Store:
    """Return the store of this process; its first use makes one without a state, unless `use` has been called."""
    if not _opened:
        with _opening:
            _opened.extend([] if _opened else [Store()])
    return _opened[0]


def use(store: Store) -> None:
    """Let a store be that of this process."""
    _opened[:] = [store]
