"""Give a bundle the precision that it shall have: quantise where that takes int8, measure, choose, or refuse.

To quantise, NNCF watches what lies between the network's layers, and picks a scale for each. This is build time: NNCF
needs torch, and a worker runs what was quantised with OpenVINO alone.
"""

import io
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import import_openvino, not_importable
from app_tier.engines import MIN_GAIN, Engine, OpenVinoEngine, top_two_gap
from core.bundle_manifest import (
    INT8_IR_NAME,
    INT8_WEIGHTS_NAME,
    IR_NAME,
    LowPrecision,
    Measurement,
    NumberType,
    Precision,
)
from scripts.model.network_checks import last_line
from scripts.model.sample_images import UNKNOWN, Labelled, decoded, images_for, source_of, split_images

_log = logging.getLogger(__name__)
_BATCH: Final = 8
Probabilities = NDArray[np.float32]
SAFETY: Final = 2.0
"""How many times the smallest margin with fp32's answer to every measured image the chosen one is."""

MAX_ACCURACY_LOST: Final = 0.005
MAX_DISAGREEMENT: Final = 0.02
"""Shares of the images that int8 may answer worse, or otherwise, than fp32."""

_ROUNDING: Final = 1e-9


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
) -> dict[LowPrecision, Compared]:
    """Ask OpenVINO in fp32 and in each of `lows` about every image that can be decoded.

    Raises:
        BundleBuildError: none can be.
    """
    kinds: tuple[NumberType, ...] = ("fp32", *lows)
    threads = len(os.sched_getaffinity(0))
    engines = {kind: _Timed(OpenVinoEngine(bundle, threads, kind)) for kind in kinds}
    truth: list[int] = []
    pairs = decoded(images, bundle.manifest)
    while part := list(islice(pairs, _BATCH)):
        for engine in engines.values():
            engine.infer(np.stack([pixels for pixels, _ in part]))
        truth += [label for _, label in part]
    if not truth:
        raise BundleBuildError("none of the images can be classified: give a folder of JPEG or PNG files")
    labels_of, fp32 = np.asarray(truth, np.int64), engines["fp32"]
    return {
        low: Compared(
            fp32.probabilities(), engines[low].probabilities(), labels_of, fp32.seconds, engines[low].seconds
        )
        for low in lows
    }


class _Timed:
    """An engine that keeps its output and counts seconds; it infers the first batch twice, to warm up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._answers: list[Probabilities] = []
        self.seconds = 0.0

    def infer(self, pixels: NDArray[np.float32]) -> None:
        if not self._answers:
            self._engine.infer(pixels)
        before = time.perf_counter()
        self._answers.append(self._engine.infer(pixels))
        self.seconds += time.perf_counter() - before

    def probabilities(self) -> Probabilities:
        return np.concatenate(self._answers)


@dataclass(frozen=True)
class Target:
    """What a bundle should compute in, and on which images that is found out.

    Attributes:
        precision: of the answers.
        images: folder to measure on; None for drawn images.
    """

    precision: Precision = "fp32"
    images: Path | None = None


@dataclass(frozen=True)
class _Tried:
    """A low precision, with the margin that ``exact`` would need after it, and how the bundle would answer."""

    low: LowPrecision
    margin: float | None
    measured: Measurement


def choose_precision(bundle: Bundle, target: Target) -> dict[str, Any]:
    """Return what the manifest of an fp32 bundle must say, and write the files it needs, to make it `target`.

    ``exact`` asks first the precision that was fastest with all that had to be asked again. Where that is not
    `MIN_GAIN` times as fast as fp32 alone, fp32 answers alone: the bundle is fp32, and its measurement says why.
    Where this CPU is not fast in what is wanted there is nothing to measure on, and the precision stays fp32.

    Raises:
        BundleBuildError: there is no usable image; int8 cannot be had, or loses too much.
    """
    wanted: tuple[LowPrecision, ...] = ()
    if target.precision == "exact":
        wanted = ("bf16", "int8") if can_quantise() else ("bf16",)
    elif target.precision != "fp32":
        wanted = (target.precision,)
    lows = tuple(low for low in wanted if OpenVinoEngine.is_fast_in(low))
    if not lows:
        return {"precision": "fp32"}
    bundle, images, calibrated = _prepared(bundle, lows, target)
    lows = tuple(low for low in lows if low != "int8" or INT8_IR_NAME in bundle.manifest.files)
    compared = compare(bundle, images, lows)
    tried = []
    for low in lows:
        margin = choose_margin(compared[low]) if target.precision == "exact" else None
        source, used = source_of(target.images), calibrated if low == "int8" else 0
        tried.append(_Tried(low, margin, summarise(compared[low], margin, source, used)))
    chosen = max(tried, key=lambda each: each.measured.speed)
    if target.precision == "int8":
        refuse_losses(chosen.measured)
    is_fp32_alone = target.precision == "exact" and chosen.measured.speed < MIN_GAIN
    if chosen.low != "int8" or is_fp32_alone:
        bundle = forget_int8(bundle)
    every = {
        "speeds": {each.low: each.measured.speed for each in tried},
        "shares": {each.low: each.measured.repeated for each in tried},
    }
    if is_fp32_alone:
        measured = in_fp32(chosen.measured).model_copy(update=every)
        return {"files": bundle.manifest.files, "precision": "fp32", "measured": measured}
    return {
        "files": bundle.manifest.files,
        "precision": target.precision,
        "first": chosen.low if target.precision == "exact" else None,
        "margin": chosen.margin,
        "measured": chosen.measured.model_copy(update=every),
    }


def _prepared(
    bundle: Bundle, lows: tuple[LowPrecision, ...], target: Target
) -> tuple[Bundle, Iterable[Labelled], int]:
    """Return the bundle with all networks it can have, the images to measure on, and how many calibrated int8."""
    if "int8" not in lows:
        return bundle, images_for(target.images), 0
    calibration, images = split_images(target.images)
    try:
        bundle, calibrated = quantise(bundle, calibration)
    except BundleBuildError as error:
        if "bf16" not in lows:
            raise
        _log.warning("only bf16 is tried", extra={"reason": str(error)})
        return bundle, images_for(target.images), 0
    return bundle, images, calibrated


def choose_margin(compared: Compared) -> float:
    """Return the gap between two logits below which low precision's answer is not to be trusted.

    It is `SAFETY` times the largest gap at which it answered otherwise than fp32, and at least the most by which it
    moved any image's gap: few images lie where answers change, but every image shows how far it can move one.
    """
    gap = top_two_gap(compared.low)
    wrong = compared.low.argmax(1) != compared.fp32.argmax(1)
    # fp32's gap between the two labels that low precision found best; negative where it has them turned.
    second, first = np.argsort(compared.low, axis=1)[:, -2:].T
    rows = np.arange(len(first))
    logits = np.log(compared.fp32.clip(min=np.finfo(np.float32).tiny))
    moved = float(np.abs(gap - (logits[rows, first] - logits[rows, second])).max())
    return float(max(SAFETY * float(gap[wrong].max(initial=0)), moved, 1e-6))


def summarise(compared: Compared, margin: float | None, source: str, calibrated: int = 0) -> Measurement:
    """Return the figures of a bundle that answers in low precision, or exactly with this `margin`.

    Args:
        compared: what was said about each image.
        margin: of ``exact``; None where low precision answers alone.
        source: which images these were.
        calibrated: how many images int8 was calibrated on.
    """
    again = top_two_gap(compared.low) < (margin or 0)
    answers = np.where(again[:, None], compared.fp32, compared.low)
    repeated = float(again.mean())
    best = compared.fp32.argmax(1)
    return Measurement(
        images=len(answers),
        source=source,
        calibrated=calibrated,
        alone_same_top1=float(np.mean(compared.low.argmax(1) == best)),
        same_top1=float(np.mean(answers.argmax(1) == best)),
        largest_difference=min(1.0, float(np.abs(answers - compared.fp32).max())),
        repeated=repeated,
        speed=compared.fp32_seconds / (compared.low_seconds + repeated * compared.fp32_seconds),
        labelled=int(np.sum(compared.truth != UNKNOWN)),
        accuracy=_accuracy(answers, compared.truth),
        accuracy_fp32=_accuracy(compared.fp32, compared.truth),
    )


def in_fp32(measured: Measurement) -> Measurement:
    """Return the figures of a bundle that answers the same images in fp32 alone."""
    of_fp32 = {
        "calibrated": 0,
        "same_top1": 1.0,
        "largest_difference": 0.0,
        "repeated": 0.0,
        "speed": 1.0,
        "accuracy": measured.accuracy_fp32,
    }
    return measured.model_copy(update=of_fp32)


def refuse_losses(measured: Measurement) -> None:
    """Let int8 through unless it was measured to answer much worse, or much otherwise, than fp32.

    Raises:
        BundleBuildError: it loses more than `MAX_ACCURACY_LOST`, or disagrees on more than `MAX_DISAGREEMENT`.
    """
    is_known = measured.accuracy is not None and measured.accuracy_fp32 is not None
    lost = (measured.accuracy_fp32 or 0.0) - (measured.accuracy or 0.0) if is_known else 0.0
    otherwise = 1 - measured.same_top1
    if lost <= MAX_ACCURACY_LOST + _ROUNDING and otherwise <= MAX_DISAGREEMENT + _ROUNDING:
        return
    accuracy = (
        f"loses {100 * lost:.2f} points of accuracy" if measured.labelled else "loses an unknown share of accuracy"
    )
    raise BundleBuildError(
        f"int8 {accuracy} and answers {otherwise:.2%} of {measured.images} images otherwise than fp32"
        f" ({measured.source}); {100 * MAX_ACCURACY_LOST:g} points and {MAX_DISAGREEMENT:.0%} are allowed:"
        " give more images like those it will be asked about (--images), or take --precision exact"
    )


def _accuracy(answers: Probabilities, truth: NDArray[np.int64]) -> float | None:
    known = truth != UNKNOWN
    return float(np.mean(answers.argmax(1)[known] == truth[known])) if known.any() else None


def can_quantise() -> bool:
    """Whether NNCF is installed."""
    return find_spec("nncf") is not None


def quantise(bundle: Bundle, images: Iterable[Labelled]) -> tuple[Bundle, int]:
    """Write the int8 network of `bundle`, calibrated on `images`, beside the others.

    Returns:
        The bundle with its new files, of which ``bundle.json`` does not know yet, and how many images were used.

    Raises:
        BundleBuildError: NNCF is not installed or finds nothing to quantise, or no image can be decoded.
    """
    pixels = [image[np.newaxis] for image, _ in decoded(images, bundle.manifest)]
    if not pixels:
        raise BundleBuildError(
            "none of the images to calibrate int8 on can be classified: give a folder of JPEG or PNG files"
        )
    openvino = import_openvino()
    plain = openvino.Core().read_model(bundle.path(IR_NAME))
    nncf = _import_nncf()
    try:
        with _silence():
            # Symmetric scales are the fast ones. The slower of NNCF's two bias corrections, which asks the network
            # again after each layer, lost a tenth of the accuracy that the quick one lost, in the same time.
            network = nncf.quantize(
                plain,
                nncf.Dataset(pixels),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(pixels),
                fast_bias_correction=False,
            )
    except Exception as error:  # NNCF has no common class for what it cannot do
        raise BundleBuildError(
            f"NNCF cannot quantise the network ({last_line(error)}): take --precision exact"
        ) from error
    openvino.save_model(network, bundle.folder / INT8_IR_NAME, compress_to_fp16=False)
    written = {name: file_digest(bundle.folder / name) for name in (INT8_IR_NAME, INT8_WEIGHTS_NAME)}
    manifest = bundle.manifest.model_copy(update={"files": bundle.manifest.files | written})
    return replace(bundle, manifest=manifest, digest=manifest.digest), len(pixels)


def forget_int8(bundle: Bundle) -> Bundle:
    """Remove what `quantise` wrote, where it has turned out to be of no use."""
    files = dict(bundle.manifest.files)
    for name in (INT8_IR_NAME, INT8_WEIGHTS_NAME):
        if files.pop(name, None):
            (bundle.folder / name).unlink()
    manifest = bundle.manifest.model_copy(update={"files": files})
    return replace(bundle, manifest=manifest, digest=manifest.digest)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back NNCF's bars, which it draws on standard output, and its warnings about packages of its own."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import_nncf() -> Any:
    """Import ``nncf``, without the telemetry that it would send with each use.

    Raises:
        BundleBuildError: it is not installed.
    """
    import_openvino()
    # nncf imports this module, which reports a machine with CUDA's compiler and without a GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        with _silence(), not_importable("openvino_telemetry"):
            import nncf
    except ImportError as error:
        raise BundleBuildError("nncf is not installed, which int8 needs: run ./scripts/setup.sh torch") from error
    # Not by nncf.set_log_level, which quietens every handler that the logger has, also those of others.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
