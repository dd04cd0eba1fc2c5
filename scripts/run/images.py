"""The images of a run: drawn samples with known labels, or a folder of the user's."""

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.ids import new_id
from core.images import SUFFIXES
from core.label_names import ClassNames
from services.errors import FleetsightError

SAMPLES = 100
SEED = 2026


class NoImagesError(FleetsightError):
    """Raised when the given folder contains no images."""


@dataclass(frozen=True)
class ImageSet:
    """Files to classify, and their true labels by name where they are known.

    Attributes:
        root: folder to which names are relative, with slashes; None: names are filenames.
        truth_source: where the labels come from, such as `folder names`.
    """

    title: str
    files: Sequence[Path]
    truth: Mapping[str, str]
    root: Path | None = None
    truth_source: str = ""

    def name_of(self, file: Path) -> str:
        """Return the name under which a file is sent."""
        return file.name if self.root is None else file.relative_to(self.root).as_posix()


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


def sample_images(folder: Path, classes: Collection[str] | None = None) -> ImageSet:
    """Return the hundred samples; draw them into `folder` if they do not exist yet.

    A model that lacks one of their labels among its `classes` cannot be right, so they have no truth for it.
    """
    truth = draw_signs(folder, SAMPLES, SEED)
    is_known = classes is None or set(truth.values()) <= set(classes)
    return ImageSet("sample-signs", [folder / name for name in truth], truth if is_known else {})


def images_in(folder: Path, classes: Collection[str] = ()) -> ImageSet:
    """Return the image files in `folder` and below, by their suffix; the web tier checks their content.

    If each file lies in a sub-folder, those with the name of one of the model's `classes` are the truth.

    Raises:
        NoImagesError: the folder does not exist or contains no images.
    """
    if not folder.is_dir():
        raise NoImagesError(f"--images {folder}: there is no such folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise NoImagesError(f"--images {folder}: no image in it; known suffixes are {', '.join(sorted(SUFFIXES))}")
    truth: dict[str, str] = {}
    if all(file.parent != folder for file in files):
        names = ClassNames([*classes])
        found = {file.relative_to(folder).as_posix(): names.find(file.parent.name) for file in files}
        truth = {name: label for name, label in found.items() if label is not None}
    return ImageSet(folder.resolve().name, files, truth, folder, "folder names" if truth else "")
