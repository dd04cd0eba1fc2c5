"""What a load test sends, and what it expects as answers."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from services.errors import FleetsightError


class ExpectationError(FleetsightError):
    """Raised when the expected labels cannot be read, or lack an image; the message says which."""


@dataclass(frozen=True)
class Pictures:
    """Images to send: `count` of `files`, over and over again where they are fewer; labels by filename, if known."""

    files: Sequence[Path]
    count: int
    expected: Mapping[str, str]

    def __iter__(self) -> Iterator[Path]:
        """Yield the file of each image to send."""
        return islice(cycle(self.files), self.count)


def read_expected(path: Path, files: Sequence[Path]) -> dict[str, str]:
    """Return the label of each of `files` by its name, from a CSV file with the columns `filename` and `label`.

    Raises:
        ExpectationError: when it cannot be read or lacks one of them.
    """
    try:
        with path.open(newline="", encoding="utf-8") as rows:
            labels = {row["filename"]: row["label"] for row in csv.DictReader(rows)}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise ExpectationError(f"--expected {path}: no CSV with columns filename and label ({error!r})") from error
    missing = [file.name for file in files if file.name not in labels]
    if missing:
        raise ExpectationError(f"--expected {path}: no label for {len(missing)} images, such as {missing[0]!r}")
    return labels


def drawn_signs(folder: Path, count: int, seed: int, side: int, drawn: Callable[[int], None]) -> Pictures:
    """Return `count` road signs and their labels, drawn into `folder` unless they are there.

    Args:
        folder: where sets of signs lie, each in a folder of its own.
        count: how many.
        seed: the same seed draws the same signs.
        side: their width and height in pixels.
        drawn: is told how many there are while they are drawn.
    """
    here = folder / f"signs-{seed}-{side}-{count}"
    labels = here / "labels.csv"
    if not labels.exists():
        _draw(here, labels, count, seed, side, drawn)
    with labels.open(newline="", encoding="utf-8") as rows:
        expected = {row["filename"]: row["label"] for row in csv.DictReader(rows)}
    return Pictures([here / name for name in expected], count, expected)


def _draw(here: Path, labels: Path, count: int, seed: int, side: int, drawn: Callable[[int], None]) -> None:
    from scripts.demo_model.signs import samples

    here.mkdir(parents=True, exist_ok=True)
    # Written last and by a rename: a labels.csv that exists says that every sign does.
    partial = labels.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as rows:
        writer = csv.writer(rows)
        writer.writerow(["filename", "label"])
        for number, sample in enumerate(samples(count, seed, (((side, side), 1.0),)), start=1):
            (here / sample.filename).write_bytes(sample.data)
            writer.writerow([sample.filename, sample.label])
            drawn(number)
    partial.rename(labels)
