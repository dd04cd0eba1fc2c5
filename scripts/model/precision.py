"""Give a bundle the precision that it shall have: quantise where that takes int8, measure, choose, or refuse."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import INT8_IR_NAME, LowPrecision, Measurement, Precision
from app_tier.engines import OpenVinoEngine
from scripts.model.compare import Compared, compare
from scripts.model.measure import choose_margin, refuse_losses, summarise
from scripts.model.quantise import can_quantise, forget_int8, quantise
from scripts.model.sample_images import Labelled, images_for, source_of, split_images

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """What a bundle should compute in, and on which images that is found out.

    Attributes:
        precision: of the answers.
        images: folder to measure on; None for drawn images.
        calibration: folder to calibrate int8 on; None for a part of `images`.
        force: keep int8 also if it loses too much.
    """

    precision: Precision = "fp32"
    images: Path | None = None
    calibration: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class _Tried:
    """A low precision, with the margin that ``exact`` would need after it, and how the bundle would answer."""

    low: LowPrecision
    margin: float | None
    measured: Measurement


def settle_precision(bundle: Bundle, target: Target) -> dict[str, Any]:
    """Return what the manifest of an fp32 bundle must say, and write the files it needs, to make it `target`.

    ``exact`` asks first the precision that was faster with all that had to be asked again. Where this CPU is not fast
    in what is wanted there is nothing to measure on, and the precision stays fp32.

    Raises:
        BundleBuildError: there is no usable image; int8 cannot be had, or loses too much.
    """
    lows = _to_try(target.precision)
    if not lows:
        return {"precision": "fp32"}
    bundle, images, calibrated = _prepared(bundle, lows, target)
    lows = tuple(low for low in lows if low != "int8" or INT8_IR_NAME in bundle.manifest.files)
    compared = compare(bundle, images, lows)
    tried = [_try(low, compared[low], target, calibrated if low == "int8" else 0) for low in lows]
    chosen = max(tried, key=lambda each: each.measured.speed)
    if target.precision == "int8" and not target.force:
        refuse_losses(chosen.measured)
    if chosen.low != "int8":
        bundle = forget_int8(bundle)
    speeds = {each.low: each.measured.speed for each in tried}
    return {
        "files": bundle.manifest.files,
        "precision": target.precision,
        "first": chosen.low if target.precision == "exact" else None,
        "margin": chosen.margin,
        "measured": chosen.measured.model_copy(update={"speeds": speeds}),
    }


def _to_try(precision: Precision) -> tuple[LowPrecision, ...]:
    if precision == "fp32":
        return ()
    if precision != "exact":
        return (precision,) if OpenVinoEngine.is_fast_in(precision) else ()
    tools: dict[LowPrecision, bool] = {"bf16": True, "int8": can_quantise()}
    return tuple(low for low, there in tools.items() if there and OpenVinoEngine.is_fast_in(low))


def _prepared(
    bundle: Bundle, lows: tuple[LowPrecision, ...], target: Target
) -> tuple[Bundle, Iterable[Labelled], int]:
    """Return the bundle with all networks it can have, the images to measure on, and how many calibrated int8."""
    if "int8" not in lows:
        return bundle, images_for(target.images), 0
    calibration, images = split_images(target.images, target.calibration)
    try:
        bundle, calibrated = quantise(bundle, calibration)
    except BundleBuildError as error:
        if "bf16" not in lows:
            raise
        _log.warning("only bf16 is tried", extra={"reason": str(error)})
        return bundle, images_for(target.images), 0
    return bundle, images, calibrated


def _try(low: LowPrecision, compared: Compared, target: Target, calibrated: int) -> _Tried:
    margin = choose_margin(compared) if target.precision == "exact" else None
    return _Tried(low, margin, summarise(compared, margin, source_of(target.images), calibrated))
