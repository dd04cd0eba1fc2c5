"""Hold low precision against fp32: the margin that gives ``exact`` fp32's answers, and the figures of a bundle."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.manifest import Measurement
from app_tier.engines import top_two_gap
from scripts.model.compare import Compared, Probabilities
from scripts.model.sample_images import UNKNOWN

SAFETY: Final = 2.0
"""How many times the smallest margin with fp32's answer to every measured image the chosen one is."""

MAX_ACCURACY_LOST: Final = 0.005
MAX_DISAGREEMENT: Final = 0.02
"""Shares of the images that int8 may answer worse, or otherwise, than fp32."""

_ROUNDING: Final = 1e-9


def choose_margin(compared: Compared) -> float:
    """Return the gap between two logits below which low precision's answer is not to be trusted.

    It is `SAFETY` times the largest gap at which it answered otherwise than fp32, and at least the most by which it
    moved any image's gap: few images lie where answers change, but every image shows how far it can move one.
    """
    gap = top_two_gap(compared.low)
    wrong = compared.low.argmax(1) != compared.fp32.argmax(1)
    moved = float(np.abs(gap - _gap_of_the_same_two(compared)).max())
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


def refuse_losses(measured: Measurement) -> None:
    """Let int8 through unless it was measured to answer much worse, or much otherwise, than fp32.

    Raises:
        BundleBuildError: it loses more than `MAX_ACCURACY_LOST`, or disagrees on more than `MAX_DISAGREEMENT`.
    """
    lost, otherwise = _accuracy_lost(measured), 1 - measured.same_top1
    if lost <= MAX_ACCURACY_LOST + _ROUNDING and otherwise <= MAX_DISAGREEMENT + _ROUNDING:
        return
    accuracy = (
        f"loses {100 * lost:.2f} points of accuracy" if measured.labelled else "loses an unknown share of accuracy"
    )
    raise BundleBuildError(
        f"int8 {accuracy} and answers {otherwise:.2%} of {measured.images} images otherwise than fp32"
        f" ({measured.source}); {100 * MAX_ACCURACY_LOST:g} points and {MAX_DISAGREEMENT:.0%} are allowed:"
        " give more images like those it will be asked about (--images, --calibrate), take --precision exact,"
        " or insist with --force"
    )


def _accuracy_lost(measured: Measurement) -> float:
    if measured.accuracy is None or measured.accuracy_fp32 is None:
        return 0.0
    return measured.accuracy_fp32 - measured.accuracy


def _gap_of_the_same_two(compared: Compared) -> NDArray[np.float32]:
    """Return fp32's gap between the two labels that low precision found best; negative where it has them turned."""
    second, first = np.argsort(compared.low, axis=1)[:, -2:].T
    rows = np.arange(len(first))
    logits = np.log(compared.fp32.clip(min=np.finfo(np.float32).tiny))
    gap: NDArray[np.float32] = logits[rows, first] - logits[rows, second]
    return gap


def _accuracy(answers: Probabilities, truth: NDArray[np.int64]) -> float | None:
    known = truth != UNKNOWN
    return float(np.mean(answers.argmax(1)[known] == truth[known])) if known.any() else None
