"""True labels of files, from a CSV or from folders' names, and how the model's labels compare with them."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from fleetsight_client.journal import Journal, ListedFile
from fleetsight_client.journal_file import JournalFile
from fleetsight_client.known_files import INSERTED
from fleetsight_client.names import matched_name, printable
from fleetsight_client.rows import ResultRow, plain_label
from fleetsight_client.tables import FILE_COLUMNS, TableError, place_of, read_table

MAX_PART_LINES: Final = 10_000
MAX_PART_BYTES: Final = 2**20
"""Lines and bytes of true labels that are sent to the job at a time."""

MAX_LABEL_CHARACTERS: Final = 200
"""Characters of a true label that the server stores."""

MAX_CONFUSIONS: Final = 10_000
"""Pairs of labels that are counted."""

SHOWN_CONFUSIONS: Final = 5
SHOWN_LINES: Final = 5
"""Lines of a file that are named if they set no label."""

_LABEL_COLUMNS: Final = ("truth", "true label", "ground truth", "label", "class", "category")
"""As on the server (`web_tier/features/review/truth.py`)."""


class TruthTable:
    """The table `truths` of a journal: true labels by the path of a file."""

    def __init__(self, journal: JournalFile) -> None:
        self._journal = journal

    def replace(self, truths: Iterable[tuple[str, str]]) -> None:
        """Store true labels by the path of a file; an earlier one of the same path stays."""
        with self._journal.transaction():
            self._journal.base.execute("DELETE FROM truths")
        rows = iter(truths)
        while some := list(islice(rows, INSERTED)):
            with self._journal.transaction():
                self._journal.base.executemany("INSERT OR IGNORE INTO truths (name, label) VALUES (?, ?)", some)

    def count_uses(self, candidates: Iterable[Sequence[str]]) -> None:
        """Count for each stored path the files that it may mean; each file has its candidates, longest first."""
        paths = iter(candidates)
        while some := list(islice(paths, INSERTED)):
            with self._journal.transaction():
                for names in some:
                    found = self._find(names)
                    if found is not None:
                        self._journal.base.execute("UPDATE truths SET uses = uses + 1 WHERE name = ?", (found[0],))

    def unused(self, shown: int) -> Iterator[tuple[str, int, list[str]]]:
        """Yield why stored paths set no label, how many they are, and up to `shown` of them."""
        for reason, is_used in (("match no image", False), ("may mean several images", True)):
            rows = self._journal.base.execute(
                "SELECT name, count(*) OVER () FROM truths WHERE uses != 1 AND (uses > 1) = ? ORDER BY name LIMIT ?",
                (is_used, shown),
            ).fetchall()
            if rows:
                yield reason, int(rows[0][1]), [str(name) for name, _ in rows]

    def label(self, names: Sequence[str]) -> str | None:
        """Return the true label of the first of `names` that has one, unless that path may mean several files."""
        found = self._find(names)
        return None if found is None or found[2] > 1 else found[1]

    def _find(self, names: Sequence[str]) -> tuple[str, str, int] | None:
        for name in names:
            row = self._journal.base.execute(
                "SELECT name, label, uses FROM truths WHERE name = ?", (name,)
            ).fetchone()
            if row is not None:
                return str(row[0]), str(row[1]), int(row[2])
        return None


@dataclass
class Truth:
    """The true labels of listed files.

    Attributes:
        folders: that are classified, absolute.
        file: CSV with true labels; None takes the last folder in the path of each file, as results have it.
        unused: which of its lines set no label, in words.
        unknown: true labels that are no class of the model, by `plain_label`, of the files that the server knows.
    """

    journal: Journal
    folders: Sequence[Path]
    file: Path | None = None
    unused: Sequence[str] = ()
    unknown: set[str] = field(default_factory=set)

    def load(self) -> None:
        """Read the file; call it after the files have been listed.

        Raises:
            TableError: it is not such a file.
        """
        if self.file is not None:
            table = TruthTable(self.journal)
            table.replace(read_truths(self.file))
            table.count_uses(self._candidates(name) for name in self.journal.names())
            self.unused = [
                f"Lines of {self.file.name} that {reason}: {count:,} "
                f"({', '.join(names)}{', …' if count > len(names) else ''})."
                for reason, count, names in table.unused(SHOWN_LINES)
            ]

    def label(self, file: ListedFile) -> str | None:
        """Return the true label of a file, or None."""
        if self.file is None:
            return file.name.rpartition("/")[0].rpartition("/")[2][:MAX_LABEL_CHARACTERS] or None
        return TruthTable(self.journal).label(self._candidates(file.name))

    def _candidates(self, shown: str) -> list[str]:
        """Return the paths that may name a file: with the folder's name, as it is shown, and each end of it."""
        parts = matched_name(shown).split("/")
        ends = ["/".join(parts[at:]) for at in range(len(parts))]
        return [matched_name(f"{self.folders[0].name}/{shown}"), *ends] if len(self.folders) == 1 else ends


def read_truths(file: Path) -> Iterator[tuple[str, str]]:
    """Yield paths, by `matched_name`, and true labels of a CSV.

    A header names its columns; without one they are the first two.

    Raises:
        TableError: it cannot be read, is no UTF-8 or UTF-16, or has fewer than two columns.
    """
    columns: tuple[int, int] | None = None
    for number, cells in read_table(file):
        if columns is None:
            places = place_of(cells, FILE_COLUMNS), place_of(cells, _LABEL_COLUMNS)
            if places[0] is not None and places[1] is not None and places[0] != places[1]:
                columns = places[0], places[1]
                continue
            columns = (0, 1)
        if len(cells) < 2:
            raise TableError(f"{file}, line {number}: write a filename and its label")
        name, label = (cells[at] if at < len(cells) else "" for at in columns)
        if label := printable(label)[:MAX_LABEL_CHARACTERS]:
            yield matched_name(name), label


def truth_parts(rows: Iterator[tuple[str, str]]) -> Iterator[bytes]:
    """Yield CSV files with image ids and true labels, each small enough for a request."""
    text, lines = io.StringIO(), 0
    writer = csv.writer(text)
    for image_id, label in rows:
        if not lines:
            writer.writerow(("image_id", "truth"))
        writer.writerow((image_id, label))
        lines += 1
        if lines == MAX_PART_LINES or text.tell() > MAX_PART_BYTES:
            yield text.getvalue().encode()
            text, lines = io.StringIO(), 0
            writer = csv.writer(text)
    if lines:
        yield text.getvalue().encode()


@dataclass
class Accuracy:
    """Counts of labels that were compared with those of `truth`."""

    truth: Truth
    right: int = 0
    wrong: int = 0
    without: int = 0
    """Images with a label and without a true label."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Images by true label that is no class of the model, which cannot give it: they are neither right nor wrong."""
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Wrong labels by true label and label."""

    def add(self, row: ResultRow) -> None:
        """Count a row, if it has a label."""
        if row.label is None:
            return
        if row.truth is None:
            self.without += 1
        elif plain_label(row.truth) in self.truth.unknown:
            self.unknown[row.truth] += 1
        elif row.correct:
            self.right += 1
        else:
            self.wrong += 1
            pair = (row.truth, row.label)
            if pair in self.confusions or len(self.confusions) < MAX_CONFUSIONS:
                self.confusions[pair] += 1

    def sentences(self) -> Iterator[str]:
        """Yield the accuracy, the worst confusions, and the lines that set no label, in words."""
        total = self.right + self.wrong
        if total:
            yield f"Accuracy: {100 * self.right / total:.1f}% ({self.right:,} of {total:,} right)."
        else:
            yield "Accuracy: no image has both a label and a true label."
        if self.without:
            yield f"Without a true label: {self.without:,}."
        if self.unknown:
            named = [f"{label} ({count:,})" for label, count in self.unknown.most_common(SHOWN_CONFUSIONS)]
            more = ", …" if len(self.unknown) > len(named) else ""
            count = self.unknown.total()
            yield f"Not counted, since the true label is no class of the model: {count:,}. {', '.join(named)}{more}."
        for (truth, label), count in self.confusions.most_common(SHOWN_CONFUSIONS):
            yield f"{truth} was classified as {label}: {count:,}."
        yield from self.truth.unused
