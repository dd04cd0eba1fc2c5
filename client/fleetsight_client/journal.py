"""The journal of one classification: what was found, what was sent under which key, and what the server answered.

A slice is recorded with its idempotency key before it is sent, and its outcome after the answer. So a killed command
can send each slice whose outcome is unknown again under the same key, and the server adds no image twice.

A watch lasts for weeks, so its journal is bounded: a file is forgotten when its row is in the file of results. Its
path, size, times and digest stay as long as it is in the folders, so that it is not taken for a new file. They also
stay of the last `MAX_REMEMBERED` files that were removed.

The journal is an SQLite file in the user's state folder, never in a folder that is classified. One command at a time
has it. Nothing of it is kept in memory but a slice.
"""

import hashlib
import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import FleetsightClientError, RejectedFile
from fleetsight_client.folders import FoundFile, shown_prefixes
from fleetsight_client.names import shown_name
from fleetsight_client.systems import SEPARATORS, shown_separators, state_home

VERSION: Final = "2"
CHANGED: Final = "changed"
UNFINISHED: Final = "unfinished"
"""Codes of files that are not sent as they were listed: they changed since, or are still being written."""

JOB_KEY_SECONDS: Final = 20 * 3600
"""Time for which the key of a job is used; the server forgets it after 24 hours."""

INSERTED: Final = 500
"""Files that are written together."""

MAX_POSITION: Final = 9_999_999
"""The highest position of an image in a job."""

MAX_UNFINISHED: Final = 100_000
"""Files of a watch without a row in the file of results; more are taken when some have one."""

MAX_REMEMBERED: Final = 100_000
"""Files of a watch that were removed from the folders; one that comes back unchanged is not sent again."""

JOB_IMAGES: Final = 10_000
"""Images of a job of a watch, after which it begins another one."""

MAX_JOBS: Final = 10
"""Jobs of a watch that have images without a result; with so many, the last one takes all further images."""

_KNOWN: Final = """
CREATE TABLE known (
  root INTEGER, path BLOB, size INTEGER, mtime INTEGER, ctime INTEGER, position INTEGER, digest BLOB,
  PRIMARY KEY (root, path)
) WITHOUT ROWID;
CREATE INDEX known_by_position ON known (position);
"""

_TABLES: Final = """
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

`files.state` is `listed`, `sent` (in a slice whose outcome is unknown), `accepted` or `rejected`. A file that was
replaced has several versions there. `jobs.first` is the first position that was free when the job was begun.
"""

_HERE: Final = """
CREATE TEMP TABLE here (
  root INTEGER, path BLOB, size INTEGER, mtime INTEGER, ctime INTEGER, is_stable INTEGER, search INTEGER,
  PRIMARY KEY (root, path)
) WITHOUT ROWID
"""
"""What the last search has found; `is_stable` if the one before it has found it with the same size and time."""

_FROM_VERSION_1: Final = """
DROP TABLE found;
DROP TABLE before;
DROP INDEX files_by_path;
ALTER TABLE jobs ADD COLUMN first INTEGER DEFAULT 0;
INSERT INTO known SELECT root, path, size, mtime, NULL, position, NULL FROM files;
INSERT INTO facts SELECT 'next position', coalesce(max(position), -1) + 1 FROM files;
INSERT INTO facts SELECT 'watched', '1' FROM facts WHERE name = 'written';
DELETE FROM files WHERE state IN ('accepted', 'rejected')
  AND position <= (SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'written');
DELETE FROM facts WHERE name IN ('written', 'truth sent');
UPDATE facts SET value = '2' WHERE name = 'version';
"""
"""Version 1 kept all files. It wrote the results of a watch in the order of the files, up to the one at `written`."""


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


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of the classification.

    Attributes:
        position: its place among the images of the classification, from 0.
        path: where it is.
        name: its shown name, a relative path.
        tries: how often the server could not store it.
        is_renamed: whether its own name cannot be shown as it is.
    """

    position: int
    path: Path
    name: str
    size: int
    mtime_ns: int
    tries: int = 0
    is_renamed: bool = field(default=False, compare=False)

    @property
    def job_position(self) -> int:
        """Its position in its job; a watch may take more files than one job has positions."""
        return self.position % (MAX_POSITION + 1)


@dataclass(frozen=True, slots=True)
class Slice:
    """Files that are sent together, under one idempotency key; one that `is_repeated` may have been sent before."""

    number: int
    key: str
    job_id: str
    files: Sequence[ListedFile]
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: `image_id` and `job_id` if it was accepted, else the rejection."""

    file: ListedFile
    job_id: str = ""
    image_id: str = ""
    rejected: RejectedFile | None = None


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of journals: `fleetsight` in `$XDG_STATE_HOME`, `~/.local/state` or `%LOCALAPPDATA%`."""
    return state_home(environment, Path.home()) / "fleetsight"


def journal_file(url: str, folders: Sequence[Path], state: Path) -> Path:
    """Return the journal of these folders, absolute, and this server."""
    identity = json.dumps([url, *(os.fsencode(folder).hex() for folder in folders)])
    return state / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.journal"


class Journal:
    """The journal in a file, which is created if it does not exist; of one thread.

    Args:
        file: the journal.
        folders: that are classified, absolute.

    Raises:
        JournalError: another command has it, or it cannot be written or read.
    """

    def __init__(self, file: Path, folders: Sequence[Path]) -> None:
        self.file = file
        self._folders = [os.fsencode(folder).rstrip(SEPARATORS) for folder in folders]
        self._prefixes = shown_prefixes(folders)
        # Counting all files after each slice would take longer than to send them.
        self._counts: dict[str, int] | None = None
        self._searches = 0
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._base = sqlite3.connect(file, timeout=1.0, isolation_level=None)
            self._base.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            self._base.execute(_HERE)
            self._base.execute("BEGIN IMMEDIATE")
            if not self._base.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone():
                self._execute_all(_KNOWN)
                self._execute_all(_TABLES)
                self.set_fact("version", VERSION)
            elif self.fact("version") == "1":
                self._execute_all(_KNOWN)
                self._execute_all(_FROM_VERSION_1)
            self._base.execute("COMMIT")
            known = self.fact("version")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise JournalError("another command classifies these folders: wait for it, or stop it") from error
            raise JournalError(f"the journal {file} cannot be used: {error}") from error
        except (sqlite3.DatabaseError, OSError) as error:
            raise JournalError(f"the journal {file} cannot be used: {error}") from error
        if known != VERSION:
            raise JournalError(f"the journal {file} is of another version of this command: remove it")

    def close(self) -> None:
        """Close the journal, unless it is closed; it stays if a job was begun."""
        try:
            is_started = self.is_started
        except sqlite3.ProgrammingError:
            return
        if is_started:
            self._base.close()
        else:
            self.remove()

    def remove(self) -> None:
        """Close and remove the journal."""
        self._base.close()
        for suffix in ("", "-wal", "-shm"):
            self.file.with_name(self.file.name + suffix).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget everything."""
        self._counts = None
        with self._transaction():
            for statement in _CLEAR:
                self._base.execute(statement)

    def _execute_all(self, statements: str) -> None:
        for statement in statements.split(";\n"):
            self._base.execute(statement)

    def _move(self, state: str, to: str | None, count: int) -> None:
        """Correct the counts after `count` files have another state, or None if they are forgotten."""
        if self._counts is not None:
            self._counts[state] -= count
            if to is not None:
                self._counts[to] += count

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    # Facts

    def fact(self, name: str) -> str | None:
        """Return a fact, or None."""
        row = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        """Store a fact."""
        self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def set_facts(self, facts: Mapping[str, str]) -> None:
        """Store facts, all or none."""
        with self._transaction():
            for name, value in facts.items():
                self.set_fact(name, value)

    def facts(self, start: str) -> dict[str, str]:
        """Return the facts with names that begin with `start`, by the rest of the name."""
        rows = self._base.execute(
            "SELECT name, value FROM facts WHERE substr(name, 1, ?) = ?", (len(start), start)
        ).fetchall()
        return {str(name).removeprefix(start): str(value) for name, value in rows}

    @property
    def is_started(self) -> bool:
        """Whether an earlier command has listed all files and begun a job, so that it may have sent some."""
        return self._base.execute("SELECT 1 FROM jobs").fetchone() is not None

    # Files

    def list_files(self, found: Iterable[FoundFile]) -> None:
        """List all files that a search finds, by name."""
        self._note_search(found)
        with self._transaction():
            self._list(only_changes=False)

    @property
    def is_watched(self) -> bool:
        """Whether the journal is of a watch."""
        return self.fact("watched") is not None

    def begin_watch(self) -> None:
        """Make this the journal of a watch; the files of an earlier command that did not watch are no new ones."""
        if not self.is_watched:
            with self._transaction():
                self._base.execute(
                    "INSERT OR IGNORE INTO known SELECT root, path, size, mtime, NULL, position, NULL FROM files"
                )
                self.set_fact("watched", "1")

    def list_stable_files(self, found: Iterable[FoundFile]) -> tuple[int, int]:
        """List the files that are new or replaced, and are as they were when this was called before.

        Return how many are new, and how many replaced. A file that is still being written is listed by a later call,
        as are those above `MAX_UNFINISHED`.
        """
        self._note_search(found)
        room = max(0, MAX_UNFINISHED - sum(self.counts().values()))
        with self._transaction():
            first = self._list(only_changes=True, limit=room)
            listed = self.next_position - first
            if listed:
                replaced = self._base.execute(
                    "SELECT count(*) FROM files JOIN known USING (root, path) WHERE files.position >= ?", (first,)
                ).fetchone()[0]
                self._base.execute(
                    "INSERT OR REPLACE INTO known SELECT root, path, size, mtime, ctime, position, NULL "
                    "FROM (SELECT root, path, position FROM files WHERE position >= ?) JOIN here USING (root, path)",
                    (first,),
                )
            self._forget_removed()
        return (listed - replaced, replaced) if listed else (0, 0)

    def _note_search(self, found: Iterable[FoundFile]) -> None:
        """Store what a search finds, and whether the one before it has found the same."""
        self._searches += 1
        rows = iter((each.root, each.path, each.size, each.mtime_ns, each.ctime_ns, self._searches) for each in found)
        while some := list(islice(rows, INSERTED)):
            # Only a temporary table is written: a watch finds the same files every two seconds.
            with self._transaction():
                self._base.executemany(
                    "INSERT INTO here VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT (root, path) DO UPDATE SET "
                    "is_stable = size = excluded.size AND mtime = excluded.mtime AND search < excluded.search, "
                    "size = excluded.size, mtime = excluded.mtime, ctime = excluded.ctime, search = excluded.search",
                    some,
                )
        self._base.execute("DELETE FROM here WHERE search < ?", (self._searches,))

    def _list(self, *, only_changes: bool, limit: int = -1) -> int:
        """List what was found by name, at most `limit` files (-1: all); return the position of the first."""
        first = self.next_position
        listed = self._base.execute(
            "INSERT INTO files (position, root, path, size, mtime) "
            "SELECT ?1 - 1 + row_number() OVER (ORDER BY root, path), root, path, here.size, here.mtime "
            "FROM here LEFT JOIN known USING (root, path) "
            "WHERE NOT ?2 OR (is_stable AND (here.size IS NOT known.size OR here.mtime IS NOT known.mtime)) "
            "ORDER BY root, path LIMIT ?3",
            (first, only_changes, limit),
        ).rowcount
        if listed:
            self._counts = None
            self.set_fact("next position", str(first + listed))
        return first

    def _forget_removed(self) -> None:
        """Forget the files that are no longer in the folders, except for the last ones."""
        if self._base.execute("SELECT count(*) FROM known").fetchone()[0] > MAX_REMEMBERED:
            self._base.execute(
                "DELETE FROM known WHERE position IN (SELECT position FROM known LEFT JOIN here USING (root, path) "
                "WHERE here.root IS NULL ORDER BY position DESC LIMIT -1 OFFSET ?)",
                (MAX_REMEMBERED,),
            )

    def doubtful_files(self) -> list[tuple[ListedFile, bytes | None]]:
        """Return some files whose inode has changed, but neither size nor time, with the digest of what was sent.

        Its content may be another one, or it was only linked or renamed: `confirm` records which.
        """
        rows = self._base.execute(
            "SELECT known.position, here.root, here.path, here.size, here.mtime, 0, digest FROM here JOIN known "
            "USING (root, path) LEFT JOIN files ON files.position = known.position AND state IN ('listed', 'sent') "
            "WHERE is_stable AND here.size = known.size AND here.mtime = known.mtime "
            "AND here.ctime IS NOT known.ctime AND known.ctime IS NOT NULL AND files.position IS NULL LIMIT 100"
        )
        return [(self._file(row[:6]), row[6]) for row in rows.fetchall()]

    def confirm(self, file: ListedFile, *, is_same: bool) -> None:
        """Record whether a doubtful file has the content that was sent; if not, it is replaced at the next search."""
        self._base.execute(
            "UPDATE known SET mtime = CASE WHEN ? THEN mtime END, ctime = "
            "(SELECT ctime FROM here WHERE (here.root, here.path) = (known.root, known.path)) WHERE position = ?",
            (is_same, file.position),
        )

    @property
    def next_position(self) -> int:
        """The position of the next file that is listed."""
        return int(self.fact("next position") or 0)

    def counts(self) -> dict[str, int]:
        """Return the number of files by state."""
        if self._counts is None:
            rows = self._base.execute("SELECT state, count(*) FROM files GROUP BY state").fetchall()
            counted = {str(state): int(count) for state, count in rows}
            self._counts = {"listed": 0, "sent": 0, "accepted": 0, "rejected": 0} | counted
        return dict(self._counts)

    def rejections(self) -> dict[str, int]:
        """Return the number of rejected files by code."""
        rows = self._base.execute("SELECT code, count(*) FROM files WHERE state = 'rejected' GROUP BY code")
        return {str(code): int(count) for code, count in rows}

    def outcomes(self, after: int = -1, *, state: str | None = None, job_id: str | None = None) -> Iterator[Outcome]:
        """Yield the files at positions beyond `after` in order, with what became of their upload.

        With `state` or `job_id`, only those in this state or accepted by this job.
        """
        while rows := self._base.execute(
            "SELECT position, root, path, size, mtime, tries, jobs.job_id, image_id, code, message FROM files "
            "LEFT JOIN jobs ON jobs.job = files.job WHERE position > ?1 AND (?2 IS NULL OR state = ?2) "
            "AND (?3 IS NULL OR job_id = ?3) ORDER BY position LIMIT ?4",
            (after, state, job_id, INSERTED),
        ).fetchall():
            after = rows[-1][0]
            for row in rows:
                rejected = RejectedFile(row[8], row[9]) if row[8] is not None else None
                yield Outcome(self._file(row[:6]), row[6] or "", row[7] or "", rejected)

    def names(self) -> Iterator[str]:
        """Yield the shown names of all files that are listed or known."""
        for root, path in self._base.execute("SELECT root, path FROM files UNION SELECT root, path FROM known"):
            yield shown_name(self._prefixes[root] + path.decode(errors="replace"))

    def finish(self, files: Iterable[ListedFile], facts: Mapping[str, str]) -> None:
        """Forget files whose rows are written and store facts about the file of results, all or none."""
        with self._transaction():
            self._base.executemany("DELETE FROM files WHERE position = ?", [(file.position,) for file in files])
            for name, value in facts.items():
                self.set_fact(name, value)
            self._base.execute("DELETE FROM slices WHERE slice NOT IN (SELECT slice FROM files WHERE state = 'sent')")
            self._base.execute(
                "DELETE FROM jobs WHERE job < (SELECT max(job) FROM jobs) AND job NOT IN (SELECT job FROM slices) "
                "AND job NOT IN (SELECT job FROM files WHERE job IS NOT NULL)"
            )
        self._counts = None

    def _file(self, row: Sequence[Any]) -> ListedFile:
        position, root, path, size, mtime, tries = row
        # A name that is no UTF-8 is shown with replacement characters.
        name = shown_name(self._prefixes[root] + path.decode(errors="replace"))
        is_renamed = name != self._prefixes[root] + shown_separators(os.fsdecode(path))
        whole = Path(os.fsdecode(self._folders[root] + os.fsencode(os.sep) + path))
        return ListedFile(position, whole, name, size, mtime, tries, is_renamed=is_renamed)

    # Jobs and slices

    def job(self) -> tuple[int, str | None, str] | None:
        """Return number, id (if the server has answered) and idempotency key of the present job, if there is one."""
        row = self._base.execute("SELECT job, job_id, key, made FROM jobs ORDER BY job DESC LIMIT 1").fetchone()
        if row is None or (row[1] is None and time.time() - row[3] > JOB_KEY_SECONDS):
            return None
        return row[0], row[1], row[2]

    def begin_job(self) -> tuple[int, None, str]:
        """Record a new job, before it is created; return as `job`."""
        key = str(uuid.uuid4())
        number = self._base.execute(
            "INSERT INTO jobs (key, made, first) VALUES (?, ?, ?)", (key, time.time(), self.next_position)
        ).lastrowid
        return int(number or 0), None, key

    def set_job_id(self, number: int, job_id: str) -> None:
        """Record the id of a job."""
        self._base.execute("UPDATE jobs SET job_id = ? WHERE job = ?", (job_id, number))

    def forget_job(self, number: int) -> None:
        """Forget a job that the server refused to create."""
        self._base.execute("DELETE FROM jobs WHERE job = ? AND job_id IS NULL", (number,))

    def jobs(self) -> list[tuple[str, int]]:
        """Return the ids of the jobs in order, each with the number of its accepted images."""
        rows = self._base.execute(
            "SELECT job_id, coalesce(images, 0) FROM jobs LEFT JOIN (SELECT job, count(*) AS images FROM files "
            "WHERE state = 'accepted' GROUP BY job) USING (job) WHERE job_id IS NOT NULL ORDER BY job"
        )
        return [(str(job_id), int(count)) for job_id, count in rows]

    @property
    def is_job_full(self) -> bool:
        """Whether the next image of a watch begins another job."""
        row = self._base.execute("SELECT count(*), max(first) FROM jobs").fetchone()
        most = JOB_IMAGES if row[0] < MAX_JOBS else MAX_POSITION // 2
        return row[0] > 0 and self.next_position - int(row[1]) > most

    def begin_slice(self, job: int, job_id: str, max_files: int, max_bytes: int) -> Slice | None:
        """Record a new slice of files that are to be sent, at most so many and so large; None if there are none."""
        rows = self._base.execute(
            "SELECT position, root, path, size, mtime, tries FROM files WHERE state = 'listed' "
            "ORDER BY position LIMIT ?",
            (max_files,),
        ).fetchall()
        files, total = list[ListedFile](), 0
        for row in rows:
            total += row[3]
            if files and total > max_bytes:
                break
            files.append(self._file(row))
        return self._record_slice(job, job_id, files) if files else None

    def _record_slice(self, job: int, job_id: str, files: Sequence[ListedFile], *, is_halved: bool = False) -> Slice:
        key = str(uuid.uuid4())
        with self._transaction():
            number = self._base.execute("INSERT INTO slices (key, job) VALUES (?, ?)", (key, job)).lastrowid
            self._base.executemany(
                "UPDATE files SET state = 'sent', slice = ? WHERE position = ?",
                [(number, file.position) for file in files],
            )
        if not is_halved:
            self._move("listed", "sent", len(files))
        return Slice(int(number or 0), key, job_id, files)

    def halve(self, whole: Slice) -> list[Slice]:
        """Replace a slice that the server refused for its size by two; nothing of it was accepted."""
        job = int(self._base.execute("SELECT job FROM slices WHERE slice = ?", (whole.number,)).fetchone()[0])
        middle = len(whole.files) // 2
        parts = (whole.files[:middle], whole.files[middle:])
        return [self._record_slice(job, whole.job_id, part, is_halved=True) for part in parts]

    def unknown_slices(self) -> list[int]:
        """Return the numbers of the slices whose outcome is unknown; few, since few are sent at a time."""
        rows = self._base.execute("SELECT DISTINCT slice FROM files WHERE state = 'sent' ORDER BY slice")
        return [int(row[0]) for row in rows]

    def slice(self, number: int) -> Slice:
        """Return a slice with those of its files whose outcome is unknown."""
        key, job_id = self._base.execute(
            "SELECT slices.key, jobs.job_id FROM slices JOIN jobs USING (job) WHERE slice = ?", (number,)
        ).fetchone()
        rows = self._base.execute(
            "SELECT position, root, path, size, mtime, tries FROM files WHERE state = 'sent' AND slice = ? "
            "ORDER BY position",
            (number,),
        ).fetchall()
        return Slice(number, str(key), str(job_id), [self._file(row) for row in rows], is_repeated=True)

    def settle(
        self,
        settled: Slice,
        outcome: Mapping[int, str | RejectedFile],
        again: Iterable[int] = (),
        digests: Mapping[int, bytes] | None = None,
        *,
        relist: bool,
    ) -> int:
        """Record the outcome of a slice by position: image ids and rejections, and the files to send `again`.

        With `relist`, a file that changed since it was listed, or is still being written, is forgotten, so that it is
        found again if it is still there. Return how many had changed. `digests` are of the contents that were sent.
        """
        job = int(self._base.execute("SELECT job FROM slices WHERE slice = ?", (settled.number,)).fetchone()[0])
        accepted = [(job, result, at) for at, result in outcome.items() if isinstance(result, str)]
        rejected = [(each.code, each.message, at) for at, each in outcome.items() if isinstance(each, RejectedFile)]
        codes = [code for code, _, _ in rejected if relist]
        forgotten = [(at,) for code, _, at in rejected if relist and code in {CHANGED, UNFINISHED}]
        rejected = [row for row in rejected if not (relist and row[0] in {CHANGED, UNFINISHED})]
        waiting = [(position,) for position in again]
        with self._transaction():
            self._base.executemany(
                "UPDATE files SET state = 'accepted', job = ?, image_id = ? WHERE position = ?", accepted
            )
            self._base.executemany(
                "UPDATE files SET state = 'rejected', code = ?, message = ? WHERE position = ?", rejected
            )
            self._base.executemany("DELETE FROM files WHERE position = ?", forgotten)
            self._base.executemany("DELETE FROM known WHERE position = ?", forgotten)
            self._base.executemany(
                "UPDATE known SET digest = ? WHERE position = ?",
                [(digest, position) for position, digest in (digests or {}).items()],
            )
            self._base.executemany(
                "UPDATE files SET state = 'listed', slice = NULL, tries = tries + 1 WHERE position = ?", waiting
            )
        for to, count in (("accepted", accepted), ("rejected", rejected), (None, forgotten), ("listed", waiting)):
            self._move("sent", to, len(count))
        return codes.count(CHANGED)

    def release_unknown(self, job_id: str) -> None:
        """List the files of a job's unknown slices to be sent again: the job takes no more images.

        The slices of other jobs keep their keys, since the server may have accepted their files.
        """
        self._base.execute(
            "UPDATE files SET state = 'listed', slice = NULL WHERE state = 'sent' "
            "AND slice IN (SELECT slice FROM slices JOIN jobs USING (job) WHERE job_id = ?)",
            (job_id,),
        )
        self._counts = None

    # True labels

    def set_truths(self, truths: Iterable[tuple[str, str]]) -> None:
        """Store true labels by the path of a file; an earlier one of the same path stays."""
        with self._transaction():
            self._base.execute("DELETE FROM truths")
        rows = iter(truths)
        while some := list(islice(rows, INSERTED)):
            with self._transaction():
                self._base.executemany("INSERT OR IGNORE INTO truths (name, label) VALUES (?, ?)", some)

    def count_truth_uses(self, candidates: Iterable[Sequence[str]]) -> None:
        """Count for each stored path the files that it may mean; each file has its candidates, longest first."""
        paths = iter(candidates)
        while some := list(islice(paths, INSERTED)):
            with self._transaction():
                for names in some:
                    found = self._truth(names)
                    if found is not None:
                        self._base.execute("UPDATE truths SET uses = uses + 1 WHERE name = ?", (found[0],))

    def unused_truths(self, shown: int) -> Iterator[tuple[str, int, list[str]]]:
        """Yield why stored paths set no label, how many they are, and up to `shown` of them."""
        for reason, is_used in (("match no image", False), ("may mean several images", True)):
            rows = self._base.execute(
                "SELECT name, count(*) OVER () FROM truths WHERE uses != 1 AND (uses > 1) = ? ORDER BY name LIMIT ?",
                (is_used, shown),
            ).fetchall()
            if rows:
                yield reason, int(rows[0][1]), [str(name) for name, _ in rows]

    def truth(self, names: Sequence[str]) -> str | None:
        """Return the true label of the first of `names` that has one, unless that path may mean several files."""
        found = self._truth(names)
        return None if found is None or found[2] > 1 else found[1]

    def _truth(self, names: Sequence[str]) -> tuple[str, str, int] | None:
        for name in names:
            row = self._base.execute("SELECT name, label, uses FROM truths WHERE name = ?", (name,)).fetchone()
            if row is not None:
                return str(row[0]), str(row[1]), int(row[2])
        return None
