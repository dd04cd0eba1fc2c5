"""True labels of files, from a CSV or from folders' names, and how the model's labels compare with them."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fleetsight_client.journal import Journal, ListedFile
from fleetsight_client.names import matched_name
from fleetsight_client.rows import ResultRow, same_label
from fleetsight_client.tables import FILE_COLUMNS, TableError, place_of, read_table

MAX_PART_LINES: Final = 10_000
MAX_PART_BYTES: Final = 2**20
"""Lines and bytes of true labels that are sent to the job at a time."""

MAX_CONFUSIONS: Final = 10_000
"""Pairs of labels that are counted."""

SHOWN_CONFUSIONS: Final = 5
SHOWN_LINES: Final = 5
"""Lines of a file that are named if they set no label."""

_LABEL_COLUMNS: Final = ("truth", "true label", "ground truth", "label", "class", "category")
"""As on the server (`web_tier/features/review/truth.py`)."""


@dataclass
class Truth:
    """The true labels of listed files.

    Attributes:
        folders: that are classified, absolute.
        file: CSV with true labels; None takes the name of each file's folder.
        unused: which of its lines set no label, in words.
    """

    journal: Journal
    folders: Sequence[Path]
    file: Path | None = None
    unused: Sequence[str] = ()

    def load(self) -> None:
        """Read the file; call it after the files have been listed.

        Raises:
            TableError: it is not such a file.
        """
        if self.file is not None:
            self.journal.set_truths(read_truths(self.file))
            self.journal.count_truth_uses(self._candidates(name) for name in self.journal.names())
            self.unused = [
                f"Lines of {self.file.name} that {reason}: {count:,} "
                f"({', '.join(names)}{', …' if count > len(names) else ''})."
                for reason, count, names in self.journal.unused_truths(SHOWN_LINES)
            ]

    def label(self, file: ListedFile) -> str | None:
        """Return the true label of a file, or None."""
        if self.file is None:
            return file.path.parent.name or None
        return self.journal.truth(self._candidates(file.name))

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
        if label:
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
    unknown: int = 0
    """Images with a label and without a true label."""
    confusions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Wrong labels by true label and label."""

    def add(self, row: ResultRow) -> None:
        """Count a row, if it has a label."""
        if row.label is None:
            return
        if row.truth is None:
            self.unknown += 1
        elif same_label(row.label, row.truth):
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
        if self.unknown:
            yield f"Without a true label: {self.unknown:,}."
        for (truth, label), count in self.confusions.most_common(SHOWN_CONFUSIONS):
            yield f"{truth} was classified as {label}: {count:,}."
        yield from self.truth.unused
