"""What the demo network learns from: CIFAR-10 and drawn signs, every image through the worker's own preprocessing."""

import zipfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import Preprocess
from app_tier.preprocess import load_square
from scripts.demo_model.signs import SAMPLE_SIZES, SIGN_LABELS, SizeShares, samples

CIFAR_LABELS: Final = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
DEMO_LABELS: Final = CIFAR_LABELS + SIGN_LABELS
"""The demo network's thirty classes, in order."""

DEMO_PREPROCESS: Final = Preprocess(resize=32, crop=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))

FRESH_SIGNS: Final = 10_000
"""Signs drawn to measure the trained network."""

FRESH_SEED: Final = 1_000_003
"""Another seed than any training uses by default: signs that the network has not seen."""

TRAINING_SIZES: Final[SizeShares] = (
    ((64, 64), 0.35),
    ((96, 96), 0.2),
    ((128, 96), 0.2),
    ((150, 200), 0.1),
    ((320, 240), 0.12),
    ((640, 480), 0.03),
)
"""Mostly small signs, since they are quick to draw; the network sees 32 x 32 of each."""

_CHUNK: Final = 500


@dataclass(frozen=True)
class Images:
    """Images as the network's input before normalisation: uint8 [N, 32, 32, 3], with labels int64 [N]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.labels)


def cifar_from_zip(path: Path, part: str) -> Images:
    """Read `part` ("train" or "test") of a zip that holds ``part/label/name.jpg``."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith(f"{part}/") and not n.endswith("/"))
        return _stack((archive.read(name), name.split("/")[1]) for name in names)


def cifar_from_torchvision(folder: Path, part: str) -> Images:
    """Download CIFAR-10 into `folder` by torchvision, which checks its digest."""
    from scripts.model.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10

    dataset = CIFAR10(str(folder), train=part == "train", download=True)
    return Images(np.asarray(dataset.data, np.uint8), np.asarray(dataset.targets, np.int64))


def drawn_signs(count: int, seed: int, sizes: SizeShares = SAMPLE_SIZES, processes: int = 2) -> Images:
    """Draw, encode and decode `count` signs, spread over processes; the result does not depend on how many."""
    chunks = [(min(_CHUNK, count - start), seed, sizes, start) for start in range(0, count, _CHUNK)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(_draw_chunk, chunks))
    return Images(np.concatenate([p.pixels for p in parts]), np.concatenate([p.labels for p in parts]))


def _draw_chunk(chunk: tuple[int, int, SizeShares, int]) -> Images:
    count, seed, sizes, start = chunk
    return _stack((sample.data, sample.label) for sample in samples(count, seed, sizes, start))


def _stack(encoded: Iterable[tuple[bytes, str]]) -> Images:
    pixels, labels = [], []
    for data, label in encoded:
        pixels.append(load_square(data, DEMO_PREPROCESS))
        labels.append(DEMO_LABELS.index(label))
    return Images(np.stack(pixels), np.asarray(labels, np.int64))
