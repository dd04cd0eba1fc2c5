"""Ask a bundle's network about the same images in fp32 and in low precision."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import LowPrecision, NumberType
from app_tier.engines import Engine, OpenVinoEngine
from scripts.model.sample_images import Labelled, decoded

_BATCH: Final = 8

Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """What both precisions said about the same images.

    Attributes:
        fp32: probabilities, [N, classes].
        low: the same, in low precision.
        truth: index of the right label, `UNKNOWN` where it is not known, int64 [N].
        fp32_seconds: spent in the fp32 network.
        low_seconds: spent in the other.
    """

    fp32: Probabilities
    low: Probabilities
    truth: NDArray[np.int64]
    fp32_seconds: float
    low_seconds: float


def compare(
    bundle: Bundle,
    images: Iterable[Labelled],
    lows: Sequence[LowPrecision],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[LowPrecision, Compared]:
    """Ask OpenVINO in fp32 and in each of `lows` about every image that can be decoded.

    Raises:
        BundleBuildError: none can be.
    """
    kinds: tuple[NumberType, ...] = ("fp32", *lows)
    threads = len(os.sched_getaffinity(0))
    asked = {kind: _Timed(OpenVinoEngine(bundle, threads, kind), clock) for kind in kinds}
    truth: list[int] = []
    for pixels, labels in _batches(bundle, images):
        for engine in asked.values():
            engine.ask(pixels)
        truth += labels
    if not truth:
        raise BundleBuildError("none of the images can be classified: give a folder of JPEG or PNG files")
    labels_of, fp32 = np.asarray(truth, np.int64), asked["fp32"]
    return {
        low: Compared(fp32.told(), asked[low].told(), labels_of, fp32.seconds, asked[low].seconds) for low in lows
    }


class _Timed:
    """An engine that keeps answers and counts seconds; the first batch is asked twice to warm up."""

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
    pairs = decoded(images, bundle.manifest)
    while part := list(islice(pairs, _BATCH)):
        yield np.stack([pixels for pixels, _ in part]), [label for _, label in part]
