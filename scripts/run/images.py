"""The images of a run: drawn samples with known labels, or a folder of the user's."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.ids import new_id
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


def draw_signs(
    folder: Path, count: int, seed: int, side: int | None = None, drawn: Callable[[int], None] = lambda _number: None
) -> dict[str, str]:
    """Return the labels of `count` signs in `folder`, by filename; draw them if they do not exist yet.

    Args:
        folder: of these signs alone.
        count: number of signs.
        seed: the same seed draws the same signs.
        side: width and height in pixels; None draws signs of all sizes.
        drawn: receives the number of signs that are drawn so far.
    """
    labels = folder / "labels.csv"
    if not labels.exists():
        from scripts.demo_model.signs import SAMPLE_SIZES, samples

        folder.mkdir(parents=True, exist_ok=True)
        sizes = SAMPLE_SIZES if side is None else (((side, side), 1.0),)
        # Other processes may draw the same signs: each file is replaced at once, and labels.csv is written last.
        partial = folder / f"{new_id()}.partial"
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["filename", "label"])
        for number, sample in enumerate(samples(count, seed, sizes), start=1):
            partial.write_bytes(sample.data)
            partial.rename(folder / sample.filename)
            writer.writerow([sample.filename, sample.label])
            drawn(number)
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")
        partial.rename(labels)
    with labels.open(newline="", encoding="utf-8") as rows:
        return {row["filename"]: row["label"] for row in csv.DictReader(rows)}


def sample_images(folder: Path) -> ImageSet:
    """Return the hundred samples; draw them into `folder` if they do not exist yet."""
    truth = draw_signs(folder, SAMPLES, SEED)
    return ImageSet("sample-signs", [folder / name for name in truth], truth)


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
