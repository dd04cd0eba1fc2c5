"""The images of a run: drawn samples with known labels, or a folder of the user's."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.images import SUFFIXES
from services.errors import FleetsightError

SAMPLES = 100
SEED = 2026


class NoImagesError(FleetsightError):
    """Raised when the given folder contains no images."""


@dataclass(frozen=True)
class ImageSet:
    """Files to classify, and their true labels by filename where they are known."""

    title: str
    files: Sequence[Path]
    truth: Mapping[str, str]


def sample_images(folder: Path) -> ImageSet:
    """Return the hundred samples; draw them into `folder` if they do not exist yet."""
    labels = folder / "labels.csv"
    if not labels.exists():
        _draw_samples(folder, labels)
    with labels.open(newline="", encoding="utf-8") as rows:
        truth = {row["filename"]: row["label"] for row in csv.DictReader(rows)}
    return ImageSet("sample-signs", [folder / name for name in truth], truth)


def _draw_samples(folder: Path, labels: Path) -> None:
    from scripts.demo_model.signs import samples

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for sample in samples(SAMPLES, SEED):
        (folder / sample.filename).write_bytes(sample.data)
        drawn.append({"filename": sample.filename, "label": sample.label})
    # Written last and atomically: if labels.csv exists, every sample does.
    partial = labels.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as rows:
        writer = csv.DictWriter(rows, ["filename", "label"])
        writer.writeheader()
        writer.writerows(drawn)
    partial.rename(labels)


def images_in(folder: Path) -> ImageSet:
    """Return the image files in `folder` and below, by their suffix; the web tier checks their content.

    Raises:
        NoImagesError: the folder does not exist or contains no images.
    """
    if not folder.is_dir():
        raise NoImagesError(f"--images {folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise NoImagesError(f"--images {folder}: no image in it; known suffixes are {', '.join(sorted(SUFFIXES))}")
    return ImageSet(folder.resolve().name, files, {})
