"""What a run classifies: the drawn samples, with known labels, or a folder of the user's own."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.errors import FleetsightError

SAMPLES = 100
SEED = 2026

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"})


class NoImagesError(FleetsightError):
    """Raised when there is nothing to classify in the folder that was named."""


@dataclass(frozen=True)
class Images:
    """Files to classify, and the true label of each by filename where it is known."""

    title: str
    files: Sequence[Path]
    truth: Mapping[str, str]


def sample_images(folder: Path) -> Images:
    """Return the hundred samples, drawn into `folder` unless they are there."""
    labels = folder / "labels.csv"
    if not labels.exists():
        _draw(folder, labels)
    with labels.open(newline="", encoding="utf-8") as rows:
        truth = {row["filename"]: row["label"] for row in csv.DictReader(rows)}
    return Images("sample-signs", [folder / name for name in truth], truth)


def _draw(folder: Path, labels: Path) -> None:
    from scripts.demo_model.signs import samples

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for sample in samples(SAMPLES, SEED):
        (folder / sample.filename).write_bytes(sample.data)
        drawn.append({"filename": sample.filename, "label": sample.label})
    # Written last and by a rename: a labels.csv that exists says that every sample does.
    partial = labels.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as rows:
        writer = csv.DictWriter(rows, ["filename", "label"])
        writer.writeheader()
        writer.writerows(drawn)
    partial.rename(labels)


def images_in(folder: Path) -> Images:
    """Return the image files in `folder` and below, told by their suffix; the web tier looks at their content.

    Raises:
        NoImagesError: when it is no folder or holds no image.
    """
    if not folder.is_dir():
        raise NoImagesError(f"--images {folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise NoImagesError(f"--images {folder}: no image in it; known suffixes are {', '.join(sorted(_SUFFIXES))}")
    return Images(folder.resolve().name, files, {})
