"""The file of a journal: its tables and their versions, facts, and transactions.

It is an SQLite file in the user's state folder, never in a folder that is classified. One command at a time has it.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from fleetsight_client.api import FleetsightClientError
from fleetsight_client.systems import state_home

VERSION: Final = "2"

_TABLES: Final = """
CREATE TABLE known (
  root INTEGER, path BLOB, size INTEGER, mtime INTEGER, ctime INTEGER, position INTEGER, digest BLOB,
  PRIMARY KEY (root, path)
) WITHOUT ROWID;
CREATE INDEX known_by_position ON known (position);
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE jobs (job INTEGER PRIMARY KEY, key TEXT, made REAL, job_id TEXT, first INTEGER DEFAULT 0);
CREATE TABLE slices (slice INTEGER PRIMARY KEY, key TEXT, job INTEGER);
CREATE TABLE files (
  position INTEGER PRIMARY KEY, root INTEGER, path BLOB, size INTEGER, mtime INTEGER,
  state TEXT DEFAULT 'listed', slice INTEGER, tries INTEGER DEFAULT 0,
  job INTEGER, image_id TEXT, code TEXT, message TEXT
);
CREATE INDEX files_to_send ON files (position) WHERE state = 'listed';
CREATE INDEX files_by_slice ON files (slice) WHERE state = 'sent';
CREATE TABLE truths (name TEXT PRIMARY KEY, label TEXT, uses INTEGER DEFAULT 0) WITHOUT ROWID;
"""
"""`known` has the last version of each file that a watch has taken, with the digest of what was sent.

`files.state` is `listed`, `sent` (in a slice with an unknown outcome), `accepted` or `rejected`. A file that was
replaced has several versions there. `jobs.first` is the first position that was free when the job was begun.
"""

_HERE: Final = """
CREATE TEMP TABLE here (
  root INTEGER, path BLOB, size INTEGER, mtime INTEGER, ctime INTEGER, is_stable INTEGER, search INTEGER,
  PRIMARY KEY (root, path)
) WITHOUT ROWID
"""
"""What the last search has found; `is_stable` if the one before it has found it with the same size and time."""

_CLEAR: Final = (
    "DELETE FROM known",
    "DELETE FROM jobs",
    "DELETE FROM slices",
    "DELETE FROM files",
    "DELETE FROM truths",
    "DELETE FROM facts WHERE name != 'version'",
)


class JournalError(FleetsightClientError):
    """Raised when a journal cannot be used; the message says what to do."""


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of journals: `fleetsight` in `$XDG_STATE_HOME`, `~/.local/state` or `%LOCALAPPDATA%`."""
    return state_home(environment, Path.home()) / "fleetsight"


def journal_file(url: str, folders: Sequence[Path], state: Path) -> Path:
    """Return the journal of these folders, absolute, and this server."""
    identity = json.dumps([url, *(os.fsencode(folder).hex() for folder in folders)])
    return state / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.journal"


class JournalFile:
    """A journal's file, which is created if it does not exist; of one thread.

    Raises:
        JournalError: another command has it, or it cannot be written or read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.base = sqlite3.connect(file, timeout=1.0, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self.base.close()
                raise
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError("another command classifies these folders: wait for it, or stop it") from error
            raise JournalError(f"the journal {file} cannot be used: {error}") from error
        except (sqlite3.DatabaseError, OSError) as error:
            raise JournalError(f"the journal {file} cannot be used: {error}") from error

    def _prepare(self) -> None:
        self.base.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.base.execute("PRAGMA journal_mode = WAL")
        self.base.execute("PRAGMA synchronous = FULL")
        self.base.execute(_HERE)
        self.base.execute("BEGIN IMMEDIATE")
        if not self.base.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
            for statement in _TABLES.split(";\n"):
                self.base.execute(statement)
            self.set_fact("version", VERSION)
        self.base.execute("COMMIT")
        if self.fact("version") != VERSION:
            raise JournalError(f"the journal {self.file} is of another version of this command: remove it")

    def close(self) -> None:
        """Close the journal, unless it is closed; it stays if a job was begun."""
        try:
            is_started = self.is_started
        except sqlite3.ProgrammingError:
            return
        if is_started:
            self.base.close()
        else:
            self.remove()

    def remove(self) -> None:
        """Close and remove the journal."""
        self.base.close()
        for suffix in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything."""
        with self.transaction():
            for statement in _CLEAR:
                self.base.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes meanwhile, or none."""
        self.base.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.base.execute("ROLLBACK")
            raise
        self.base.execute("COMMIT")

    # Facts

    def fact(self, name: str) -> str | None:
        """Return a fact, or None."""
        row = self.base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Store a fact."""
        self.base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def set_facts(self, facts: Mapping[str, str]) -> None:
        """Store facts, all or none."""
        with self.transaction():
            for name, value in facts.items():
                self.set_fact(name, value)

    def facts(self, start: str) -> dict[str, str]:
        """Return the facts with names that begin with `start`, by the rest of the name."""
        rows = self.base.execute(
            "SELECT name, value FROM facts WHERE substr(name, 1, ?) = ?", (len(start), start)
        ).fetchall()
        return {str(name).removeprefix(start): str(value) for name, value in rows}

    @property
    def is_started(self) -> bool:
        """Whether an earlier command has listed all files and begun a job, so that it may have sent some."""
        return self.base.execute("SELECT 1 FROM jobs").fetchone() is not None
