"""The files that a watch knows: what its last search has found, and what it has taken before."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

from fleetsight_client.folders import FoundFile
from fleetsight_client.journal_file import JournalFile

INSERTED: Final = 500
"""Files that are written together."""

MAX_REMEMBERED: Final = 100_000
"""Files of a watch that were removed from the folders; one that comes back unchanged is not sent again."""


class KnownFiles:
    """The tables `here` and `known` of a journal."""

    def __init__(self, journal: JournalFile) -> None:
        self._journal = journal
        self._searches = 0

    def take_over(self) -> None:
        """Know all listed files: those of an earlier command that did not watch are no new ones."""
        self._journal.base.execute(
            "INSERT OR IGNORE INTO known SELECT root, path, size, mtime, NULL, position, NULL FROM files"
        )

    def remember(self, first: int) -> int:
        """Know the files that were listed at `first` and beyond; return how many of them replace a known one."""
        replaced = self._journal.base.execute(
            "SELECT count(*) FROM files JOIN known USING (root, path) WHERE files.position >= ?", (first,)
        ).fetchone()[0]
        self._journal.base.execute(
            "INSERT OR REPLACE INTO known SELECT root, path, size, mtime, ctime, position, NULL "
            "FROM (SELECT root, path, position FROM files WHERE position >= ?) JOIN here USING (root, path)",
            (first,),
        )
        return int(replaced)

    def note_search(self, found: Iterable[FoundFile]) -> None:
        """Store what a search finds, and whether the one before it has found the same."""
        self._searches += 1
        rows = iter((each.root, each.path, each.size, each.mtime_ns, each.ctime_ns, self._searches) for each in found)
        while some := list(islice(rows, INSERTED)):
            # Only a temporary table is written: a watch finds the same files every two seconds.
            with self._journal.transaction():
                self._journal.base.executemany(
                    "INSERT INTO here VALUES (?, ?, ?, ?, ?, 0, ?) ON CONFLICT (root, path) DO UPDATE SET "
                    "is_stable = size = excluded.size AND mtime = excluded.mtime AND search < excluded.search, "
                    "size = excluded.size, mtime = excluded.mtime, ctime = excluded.ctime, search = excluded.search",
                    some,
                )
        self._journal.base.execute("DELETE FROM here WHERE search < ?", (self._searches,))

    def forget_removed(self) -> None:
        """Forget the files that are no longer in the folders, except for the last ones."""
        if self._journal.base.execute("SELECT count(*) FROM known").fetchone()[0] > MAX_REMEMBERED:
            self._journal.base.execute(
                "DELETE FROM known WHERE position IN (SELECT position FROM known LEFT JOIN here USING (root, path) "
                "WHERE here.root IS NULL ORDER BY position DESC LIMIT -1 OFFSET ?)",
                (MAX_REMEMBERED,),
            )

    def doubtful(self) -> list[tuple[Any, ...]]:
        """Return some files with a changed inode, but the same size and time, and the digest of what was sent.

        Its content may be another one, or it was only linked or renamed: `confirm` records which.
        """
        rows = self._journal.base.execute(
            "SELECT known.position, here.root, here.path, here.size, here.mtime, 0, digest FROM here JOIN known "
            "USING (root, path) LEFT JOIN files ON files.position = known.position AND state IN ('listed', 'sent') "
            "WHERE is_stable AND here.size = known.size AND here.mtime = known.mtime "
            "AND here.ctime IS NOT known.ctime AND known.ctime IS NOT NULL AND files.position IS NULL LIMIT 100"
        )
        return rows.fetchall()

    def confirm(self, position: int, *, is_same: bool) -> None:
        """Record whether a doubtful file has the content that was sent; if not, it is replaced at the next search."""
        self._journal.base.execute(
            "UPDATE known SET mtime = CASE WHEN ? THEN mtime END, ctime = "
            "(SELECT ctime FROM here WHERE (here.root, here.path) = (known.root, known.path)) WHERE position = ?",
            (is_same, position),
        )
