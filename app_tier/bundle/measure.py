"""Hold a bundle's precision against fp32 on images, and find the margin that gives ``exact`` fp32's answers."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import Measurement, Precision
from app_tier.bundle.sample_images import Labelled, images_for, source_of
from app_tier.engines import Engine, OpenVinoEngine
from app_tier.exact import top_two_gap
from app_tier.preprocess import load_pixels
from services.image_errors import ImageRejectedError

SAFETY: Final = 2.0
"""How many times the smallest margin with fp32's answer to every measured image the chosen one is."""

_BATCH: Final = 8
_UNKNOWN: Final = -1

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Target:
    """What a bundle should compute in, and the folder of images to measure that on (None: drawn images)."""

    precision: Precision = "fp32"
    images: Path | None = None


@dataclass(frozen=True)
class Compared:
    """What both precisions said about the same images.

    Attributes:
        fp32: probabilities, [N, classes].
        bf16: the same.
        truth: index of the right label, -1 where it is not known, int64 [N].
        fp32_seconds: spent in the fp32 network.
        bf16_seconds: spent in the bf16 network.
    """

    fp32: Probabilities
    bf16: Probabilities
    truth: NDArray[np.int64]
    fp32_seconds: float
    bf16_seconds: float


def measure_precision(bundle: Bundle, target: Target) -> dict[str, Any]:
    """Return the manifest's ``precision``, ``margin`` and ``measured`` for an fp32 bundle that shall be `target`.

    Where this CPU has no bf16 there is nothing to measure on, and the precision stays fp32.

    Raises:
        BundleBuildError: there is no usable image.
    """
    if target.precision == "fp32" or not OpenVinoEngine.has_fast_bf16():
        return {"precision": "fp32"}
    compared = compare(bundle, images_for(target.images))
    margin = choose_margin(compared) if target.precision == "exact" else None
    measured = summarise(compared, margin, source_of(target.images))
    return {"precision": target.precision, "margin": margin, "measured": measured}


def compare(bundle: Bundle, images: Iterable[Labelled], clock: Callable[[], float] = time.perf_counter) -> Compared:
    """Ask OpenVINO in fp32 and in bf16 about every image that can be decoded.

    Raises:
        BundleBuildError: none can be.
    """
    threads = len(os.sched_getaffinity(0))
    fp32, bf16 = (_Timed(OpenVinoEngine(bundle, threads, kind), clock) for kind in ("fp32", "bf16"))
    truth: list[int] = []
    for pixels, labels in _batches(bundle, images):
        fp32.ask(pixels)
        bf16.ask(pixels)
        truth += labels
    if not truth:
        raise BundleBuildError("none of the images can be classified: give a folder of JPEG or PNG files")
    return Compared(fp32.told(), bf16.told(), np.asarray(truth, np.int64), fp32.seconds, bf16.seconds)


def choose_margin(compared: Compared) -> float:
    """Return the gap between two logits below which bf16's answer is not to be trusted.

    It is `SAFETY` times the largest gap at which bf16 answered otherwise than fp32, and at least the most by which
    bf16 moved any image's gap: few images lie where answers change, but every image shows how far bf16 can move one.
    """
    gap = top_two_gap(compared.bf16)
    wrong = compared.bf16.argmax(1) != compared.fp32.argmax(1)
    moved = float(np.abs(gap - _gap_of_the_same_two(compared)).max())
    return float(max(SAFETY * float(gap[wrong].max(initial=0)), moved, 1e-6))


def summarise(compared: Compared, margin: float | None, source: str) -> Measurement:
    """Return the figures of a bundle that answers in bf16, or exactly with this `margin`."""
    again = top_two_gap(compared.bf16) < (margin or 0)
    answers = np.where(again[:, None], compared.fp32, compared.bf16)
    repeated = float(again.mean())
    best = compared.fp32.argmax(1)
    return Measurement(
        images=len(answers),
        source=source,
        bf16_same_top1=float(np.mean(compared.bf16.argmax(1) == best)),
        same_top1=float(np.mean(answers.argmax(1) == best)),
        largest_difference=min(1.0, float(np.abs(answers - compared.fp32).max())),
        repeated=repeated,
        speed=compared.fp32_seconds / (compared.bf16_seconds + repeated * compared.fp32_seconds),
        labelled=int(np.sum(compared.truth != _UNKNOWN)),
        accuracy=_accuracy(answers, compared.truth),
        accuracy_fp32=_accuracy(compared.fp32, compared.truth),
    )


class _Timed:
    """An engine whose answers are kept and whose seconds are counted; the first batch is asked twice to warm up."""

    def __init__(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._engine, self._clock = engine, clock
        self._answers: list[Probabilities] = []
        self.seconds = 0.0

    def ask(self, pixels: NDArray[np.float32]) -> None:
        if not self._answers:
            self._engine.infer(pixels)
        before = self._clock()
        self._answers.append(self._engine.infer(pixels))
        self.seconds += self._clock() - before

    def told(self) -> Probabilities:
        return np.concatenate(self._answers)


def _batches(bundle: Bundle, images: Iterable[Labelled]) -> Iterator[tuple[NDArray[np.float32], list[int]]]:
    decoded = _decoded(bundle, images)
    while part := list(islice(decoded, _BATCH)):
        yield np.stack([pixels for pixels, _ in part]), [label for _, label in part]


def _decoded(bundle: Bundle, images: Iterable[Labelled]) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Yield each image that can be classified; the others would not reach a network either."""
    index = {label: position for position, label in enumerate(bundle.labels)}
    for image in images:
        try:
            pixels = load_pixels(image.data, bundle.manifest.preprocess)
        except ImageRejectedError:
            continue
        yield pixels, index.get(image.label or "", _UNKNOWN)


def _gap_of_the_same_two(compared: Compared) -> NDArray[np.float32]:
    """Return fp32's gap between the two labels that bf16 found best; negative where fp32 has them the other way."""
    second, first = np.argsort(compared.bf16, axis=1)[:, -2:].T
    rows = np.arange(len(first))
    logits = np.log(compared.fp32.clip(min=np.finfo(np.float32).tiny))
    gap: NDArray[np.float32] = logits[rows, first] - logits[rows, second]
    return gap


def _accuracy(answers: Probabilities, truth: NDArray[np.int64]) -> float | None:
    known = truth != _UNKNOWN
    return float(np.mean(answers.argmax(1)[known] == truth[known])) if known.any() else None
