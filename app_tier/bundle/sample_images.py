"""Images to measure a bundle on: a folder of the user's own, or drawn ones where there is none."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from app_tier.bundle.errors import BundleBuildError
from app_tier.demo.signs import samples

DRAWN_IMAGES: Final = 200
"""Drawn images in a measurement without a folder, half of them signs and half noise."""

DRAWN: Final = f"{DRAWN_IMAGES} drawn signs and noise, for want of a folder of images (--images)"

SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class Labelled:
    """An encoded image, with its true label where one is known."""

    data: bytes
    label: str | None


def images_for(folder: Path | None) -> Iterator[Labelled]:
    """Yield the images of `folder` at any depth, each labelled by its own folder's name; drawn ones without one.

    Raises:
        BundleBuildError: there is no such folder.
    """
    if folder is None:
        yield from islice(_drawn(), DRAWN_IMAGES)
        return
    if not folder.is_dir():
        raise BundleBuildError(f"no folder {folder}: give the folder of images to measure on with --images")
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield Labelled(path.read_bytes(), path.parent.name)


def source_of(folder: Path | None) -> str:
    """Say which images a measurement used, in words that name no machine's folders."""
    return DRAWN if folder is None else f"folder {folder.resolve().name}"


def _drawn() -> Iterator[Labelled]:
    """A sign, which a network that knows signs is sure of, and noise, which none is, in turns and without end."""
    random = np.random.default_rng(7)
    for sample in samples(None, seed=7):
        yield Labelled(sample.data, sample.label)
        yield Labelled(_noise(random), None)


def _noise(random: np.random.Generator) -> bytes:
    """Soft blotches of colour, 64 x 64 pixels, as PNG."""
    blotches = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
    buffer = BytesIO()
    blotches.resize((64, 64), Image.Resampling.BICUBIC).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
