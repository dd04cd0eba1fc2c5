"""Images to calibrate and to measure a bundle on: a folder of the user's own, or drawn ones where there is none."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app_tier.bundle import BundleBuildError
from app_tier.preprocess import load_pixels
from core.bundle_manifest import Manifest
from core.images import SUFFIXES, ImageRejectedError
from core.label_names import ClassNames
from scripts.demo_model.signs import encode, samples

DRAWN_IMAGES: Final = 200
"""Drawn images in a measurement without a folder, half of them signs and half noise."""

CALIBRATION_IMAGES: Final = 100
"""Images that int8 is calibrated on, where there are as many; 300 made it no better."""

FEW: Final = 40
"""A folder with fewer images than these is not divided: all calibrate and all are measured."""

DRAWN: Final = f"{DRAWN_IMAGES} drawn signs and noise, for want of a folder of images (--images)"
UNKNOWN: Final = -1
"""Stands for an unknown label of an image."""

_SEED: Final = 7


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
        yield from islice(_drawn(_SEED), DRAWN_IMAGES)
    else:
        yield from _read(_files(folder))


def split_images(folder: Path | None) -> tuple[Iterator[Labelled], Iterator[Labelled]]:
    """Return images to calibrate int8 on, and others to measure on.

    `folder` is divided, at random but always alike, with at most half of it and `CALIBRATION_IMAGES` to calibrate on.

    Raises:
        BundleBuildError: there is no such folder.
    """
    if folder is None:
        return islice(_drawn(_SEED + 1), CALIBRATION_IMAGES), images_for(None)
    files = _shuffled(_files(folder))
    if len(files) < FEW:
        return _read(files), _read(files)
    count = min(CALIBRATION_IMAGES, len(files) // 2)
    return _read(files[:count]), _read(files[count:])


def decoded(images: Iterable[Labelled], manifest: Manifest) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield pixels, float32 [3, H, W], and the label's index of each image that can be classified.

    The others would not reach a network either.
    """
    index, names = {label: position for position, label in enumerate(manifest.labels)}, ClassNames(manifest.labels)
    for image in images:
        try:
            pixels = load_pixels(image.data, manifest.preprocess)
        except ImageRejectedError:
            continue
        yield pixels, index.get(names.respelled(image.label or ""), UNKNOWN)


def source_of(folder: Path | None) -> str:
    """Say which images a measurement used, in words that name no machine's folders."""
    return DRAWN if folder is None else f"folder {folder.resolve().name}"


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise BundleBuildError(f"no folder {folder}: give a folder of images with --images")
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _read(files: Iterable[Path]) -> Iterator[Labelled]:
    return (Labelled(path.read_bytes(), path.parent.name) for path in files)


def _shuffled(files: Sequence[Path]) -> list[Path]:
    return Random(_SEED).sample(files, len(files))  # nosec B311 # noqa: S311 - a fair choice, not a secret


def _drawn(seed: int) -> Iterator[Labelled]:
    """A sign, which a network that knows signs is sure of, and noise, which none is, in turns and without end."""
    random = np.random.default_rng(seed)
    for sample in samples(None, seed=seed):
        yield Labelled(sample.data, sample.label)
        # Soft blotches of colour, 64 x 64 pixels.
        blotches = Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        yield Labelled(encode(blotches.resize((64, 64), Image.Resampling.BICUBIC), "PNG"), None)
