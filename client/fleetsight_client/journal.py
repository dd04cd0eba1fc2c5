"""The journal of one classification: what was found, what was sent under which key, and what the server answered.

A slice is recorded with its idempotency key before it is sent, and its outcome after the answer. So a killed command
can send each slice whose outcome is unknown again under the same key, and the server adds no image twice.

A watch lasts for weeks, so its journal is bounded: a file is forgotten when its row is in the file of results. Its
path, size, times and digest stay as long as it is in the folders, so that it is not taken for a new file. They also
stay of the last `MAX_REMEMBERED` files that were removed.

Nothing of it is kept in memory but a slice.
"""

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import RejectedFile
from fleetsight_client.folders import FoundFile, shown_prefixes
from fleetsight_client.journal_file import JournalFile
from fleetsight_client.known_files import INSERTED, KnownFiles
from fleetsight_client.names import shown_name
from fleetsight_client.systems import SEPARATORS, shown_separators

CHANGED: Final = "changed"
UNFINISHED: Final = "unfinished"
"""Codes of files that are not sent as they were listed: they changed since, or are still being written."""

JOB_KEY_SECONDS: Final = 20 * 3600
"""Time for which the key of a job is used; the server forgets it after 24 hours."""

MAX_POSITION: Final = 9_999_999
"""The highest position of an image in a job."""

MAX_UNFINISHED: Final = 100_000
"""Files of a watch without a row in the file of results; more are taken when some have one."""

JOB_IMAGES: Final = 10_000
"""Images of a job of a watch, after which it begins another one."""

MAX_JOBS: Final = 10
"""Jobs of a watch that have images without a result; with so many, the last one takes all further images."""


DIRECT: Final = "direct-"
"""Start of the keys of slices that go straight into the bucket."""


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
    """Files that are sent together, under one idempotency key; one that `is_repeated` may have been sent before.

    The key says whether it goes straight into the bucket: a repeat must go the same way, or its images come twice.
    """

    number: int
    key: str
    job_id: str
    files: Sequence[ListedFile]
    is_repeated: bool = False

    @property
    def is_direct(self) -> bool:
        """Whether it goes straight into the bucket."""
        return self.key.startswith(DIRECT)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file: `image_id` and `job_id` if it was accepted, else the rejection."""

    file: ListedFile
    job_id: str = ""
    image_id: str = ""
    rejected: RejectedFile | None = None


class Journal(JournalFile):
    """The journal of a classification of `folders`, which are absolute.

    Attributes:
        known: the files that a watch knows.
    """

    def __init__(self, file: Path, folders: Sequence[Path]) -> None:
        super().__init__(file)
        self._folders = [os.fsencode(folder).rstrip(SEPARATORS) for folder in folders]
        self._prefixes = shown_prefixes(folders)
        # Counting all files after each slice would take longer than to send them.
        self._counts: dict[str, int] | None = None
        self.known = KnownFiles(self)

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._counts = None

    def _move(self, state: str, to: str | None, count: int) -> None:
        """Correct the counts after `count` files have another state, or None if they are forgotten."""
        if self._counts is not None:
            self._counts[state] -= count
            if to is not None:
                self._counts[to] += count

    # Files

    def list_files(self, found: Iterable[FoundFile]) -> None:
        """List all files that a search finds, by name."""
        self.known.note_search(found)
        with self.transaction():
            self._list(only_changes=False)

    @property
    def is_watched(self) -> bool:
        """Whether the journal is of a watch."""
        return self.fact("watched") is not None

    def begin_watch(self) -> None:
        """Make this the journal of a watch; the files of an earlier command that did not watch are no new ones."""
        if not self.is_watched:
            with self.transaction():
                self.known.take_over()
                self.set_fact("watched", "1")

    def list_stable_files(self, found: Iterable[FoundFile]) -> tuple[int, int]:
        """List the files that are new or replaced, and are as they were when this was called before.

        Return how many are new, and how many replaced. A file that is still being written is listed by a later call,
        as are those above `MAX_UNFINISHED`.
        """
        self.known.note_search(found)
        room = max(0, MAX_UNFINISHED - sum(self.counts().values()))
        with self.transaction():
            first = self._list(only_changes=True, limit=room)
            listed = self.next_position - first
            replaced = self.known.remember(first) if listed else 0
            self.known.forget_removed()
        return listed - replaced, replaced

    def _list(self, *, only_changes: bool, limit: int = -1) -> int:
        """List what was found by name, at most `limit` files (-1: all); return the position of the first."""
        first = self.next_position
        listed = self.base.execute(
            "INSERT INTO files (position, root, path, size, mtime) "
            "SELECT :first - 1 + row_number() OVER (ORDER BY root, path), root, path, here.size, here.mtime "
            "FROM here LEFT JOIN known USING (root, path) "
            "WHERE NOT :only_changes "
            "OR (is_stable AND (here.size IS NOT known.size OR here.mtime IS NOT known.mtime)) "
            "ORDER BY root, path LIMIT :limit",
            {"first": first, "only_changes": only_changes, "limit": limit},
        ).rowcount
        if listed:
            self._counts = None
            self.set_fact("next position", str(first + listed))
        return first

    def doubtful_files(self) -> list[tuple[ListedFile, bytes | None]]:
        """Return the files of `KnownFiles.doubtful`, with the digest of what was sent."""
        return [(self._file(row[:6]), row[6]) for row in self.known.doubtful()]

    @property
    def next_position(self) -> int:
        """The position of the next file that is listed."""
        return int(self.fact("next position") or 0)

    def counts(self) -> dict[str, int]:
        """Return the number of files by state."""
        if self._counts is None:
            rows = self.base.execute("SELECT state, count(*) FROM files GROUP BY state").fetchall()
            counted = {str(state): int(count) for state, count in rows}
            self._counts = {"listed": 0, "sent": 0, "accepted": 0, "rejected": 0} | counted
        return dict(self._counts)

    def rejections(self) -> dict[str, int]:
        """Return the number of rejected files by code."""
        rows = self.base.execute("SELECT code, count(*) FROM files WHERE state = 'rejected' GROUP BY code")
        return {str(code): int(count) for code, count in rows}

    def outcomes(self, after: int = -1, *, state: str | None = None, job_id: str | None = None) -> Iterator[Outcome]:
        """Yield the files at positions beyond `after` in order, with what became of their upload.

        With `state` or `job_id`, only those in this state or accepted by this job.
        """
        while rows := self.base.execute(
            "SELECT position, root, path, size, mtime, tries, jobs.job_id, image_id, code, message FROM files "
            "LEFT JOIN jobs ON jobs.job = files.job WHERE position > :after AND (:state IS NULL OR state = :state) "
            "AND (:job_id IS NULL OR job_id = :job_id) ORDER BY position LIMIT :limit",
            {"after": after, "state": state, "job_id": job_id, "limit": INSERTED},
        ).fetchall():
            after = rows[-1][0]
            for row in rows:
                rejected = RejectedFile(row[8], row[9]) if row[8] is not None else None
                yield Outcome(self._file(row[:6]), row[6] or "", row[7] or "", rejected)

    def names(self) -> Iterator[str]:
        """Yield the shown names of all files that are listed or known."""
        for root, path in self.base.execute("SELECT root, path FROM files UNION SELECT root, path FROM known"):
            yield shown_name(self._prefixes[root] + path.decode(errors="replace"))

    def finish(self, files: Iterable[ListedFile], facts: Mapping[str, str]) -> None:
        """Forget files whose rows are written and store facts about the file of results, all or none."""
        with self.transaction():
            self.base.executemany("DELETE FROM files WHERE position = ?", [(file.position,) for file in files])
            for name, value in facts.items():
                self.set_fact(name, value)
            self.base.execute("DELETE FROM slices WHERE slice NOT IN (SELECT slice FROM files WHERE state = 'sent')")
            self.base.execute(
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
        row = self.base.execute("SELECT job, job_id, key, made FROM jobs ORDER BY job DESC LIMIT 1").fetchone()
        if row is None or (row[1] is None and time.time() - row[3] > JOB_KEY_SECONDS):
            return None
        return row[0], row[1], row[2]

    def begin_job(self) -> tuple[int, None, str]:
        """Record a new job, before it is created; return as `job`."""
        key = str(uuid.uuid4())
        number = self.base.execute(
            "INSERT INTO jobs (key, made, first) VALUES (?, ?, ?)", (key, time.time(), self.next_position)
        ).lastrowid
        return int(number or 0), None, key

    def set_job_id(self, number: int, job_id: str) -> None:
        """Record the id of a job."""
        self.base.execute("UPDATE jobs SET job_id = ? WHERE job = ?", (job_id, number))

    def forget_job(self, number: int) -> None:
        """Forget a job that the server refused to create."""
        self.base.execute("DELETE FROM jobs WHERE job = ? AND job_id IS NULL", (number,))

    def jobs(self) -> list[tuple[str, int]]:
        """Return the ids of the jobs in order, each with the number of its accepted images."""
        rows = self.base.execute(
            "SELECT job_id, coalesce(images, 0) FROM jobs LEFT JOIN (SELECT job, count(*) AS images FROM files "
            "WHERE state = 'accepted' GROUP BY job) USING (job) WHERE job_id IS NOT NULL ORDER BY job"
        )
        return [(str(job_id), int(count)) for job_id, count in rows]

    @property
    def is_job_full(self) -> bool:
        """Whether the next image of a watch begins another job."""
        row = self.base.execute("SELECT count(*), max(first) FROM jobs").fetchone()
        most = JOB_IMAGES if row[0] < MAX_JOBS else MAX_POSITION // 2
        return row[0] > 0 and self.next_position - int(row[1]) > most

    def begin_slice(
        self, job: int, job_id: str, max_files: int, max_bytes: int, *, is_direct: bool = False
    ) -> Slice | None:
        """Record a new slice of files that are to be sent, at most so many and so large; None if there are none."""
        rows = self.base.execute(
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
        prefix = DIRECT if is_direct else ""
        return self._record_slice(job, job_id, files, f"{prefix}{uuid.uuid4()}") if files else None

    def _record_slice(
        self, job: int, job_id: str, files: Sequence[ListedFile], key: str, *, is_halved: bool = False
    ) -> Slice:
        with self.transaction():
            number = self.base.execute("INSERT INTO slices (key, job) VALUES (?, ?)", (key, job)).lastrowid
            self.base.executemany(
                "UPDATE files SET state = 'sent', slice = ? WHERE position = ?",
                [(number, file.position) for file in files],
            )
        if not is_halved:
            self._move("listed", "sent", len(files))
        return Slice(int(number or 0), key, job_id, files)

    def halve(self, whole: Slice) -> list[Slice]:
        """Replace a slice that the server refused for its size by two; nothing of it was accepted."""
        job = int(self.base.execute("SELECT job FROM slices WHERE slice = ?", (whole.number,)).fetchone()[0])
        middle = len(whole.files) // 2
        parts = (whole.files[:middle], whole.files[middle:])
        return [self._record_slice(job, whole.job_id, part, str(uuid.uuid4()), is_halved=True) for part in parts]

    def unknown_slices(self) -> list[int]:
        """Return the numbers of the slices whose outcome is unknown; few, since few are sent at a time."""
        rows = self.base.execute("SELECT DISTINCT slice FROM files WHERE state = 'sent' ORDER BY slice")
        return [int(row[0]) for row in rows]

    def slice(self, number: int) -> Slice:
        """Return a slice with those of its files whose outcome is unknown."""
        key, job_id = self.base.execute(
            "SELECT slices.key, jobs.job_id FROM slices JOIN jobs USING (job) WHERE slice = ?", (number,)
        ).fetchone()
        rows = self.base.execute(
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
        job = int(self.base.execute("SELECT job FROM slices WHERE slice = ?", (settled.number,)).fetchone()[0])
        accepted = [(job, result, at) for at, result in outcome.items() if isinstance(result, str)]
        rejected = [(each.code, each.message, at) for at, each in outcome.items() if isinstance(each, RejectedFile)]
        codes = [code for code, _, _ in rejected if relist]
        forgotten = [(at,) for code, _, at in rejected if relist and code in {CHANGED, UNFINISHED}]
        rejected = [row for row in rejected if not (relist and row[0] in {CHANGED, UNFINISHED})]
        waiting = [(position,) for position in again]
        with self.transaction():
            self.base.executemany(
                "UPDATE files SET state = 'accepted', job = ?, image_id = ? WHERE position = ?", accepted
            )
            self.base.executemany(
                "UPDATE files SET state = 'rejected', code = ?, message = ? WHERE position = ?", rejected
            )
            self.base.executemany("DELETE FROM files WHERE position = ?", forgotten)
            self.base.executemany("DELETE FROM known WHERE position = ?", forgotten)
            self.base.executemany(
                "UPDATE known SET digest = ? WHERE position = ?",
                [(digest, position) for position, digest in (digests or {}).items()],
            )
            self.base.executemany(
                "UPDATE files SET state = 'listed', slice = NULL, tries = tries + 1 WHERE position = ?", waiting
            )
        for to, count in (("accepted", accepted), ("rejected", rejected), (None, forgotten), ("listed", waiting)):
            self._move("sent", to, len(count))
        return codes.count(CHANGED)

    def release_unknown(self, job_id: str) -> None:
        """List the files of a job's unknown slices to be sent again: the job takes no more images.

        The slices of other jobs keep their keys, since the server may have accepted their files.
        """
        self.base.execute(
            "UPDATE files SET state = 'listed', slice = NULL WHERE state = 'sent' "
            "AND slice IN (SELECT slice FROM slices JOIN jobs USING (job) WHERE job_id = ?)",
            (job_id,),
        )
        self._counts = None
