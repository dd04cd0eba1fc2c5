"""A few pictures are given to a network before it becomes a bundle: answers that cannot be right are refused."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from zipfile import BadZipFile, ZipFile

import numpy as np

from app_tier.bundle import BundleBuildError
from app_tier.engines import Batch
from app_tier.preprocess import load_pixels, normalise
from core.bundle_manifest import Preprocess
from scripts.demo_model.signs import samples
from scripts.model.network_spec import Outputs

Answers = Callable[[Batch], Batch]
"""Maps pixels, float32 [N, 3, H, W], to a network's own outputs."""

DRAWN_PICTURES: Final = 8
RANGE_TOLERANCE: Final = 1e-3
SUM_TOLERANCE: Final = 1e-2
"""How far scores may lie beyond 0 and 1, and the sum of an image's from 1: those of float16 are rounded."""

SAME: Final = 1e-6
BATCH_TOLERANCE: Final = 1e-2
"""Differences of two answers, as shares of the largest output: of equal ones, and of one image's in two batches."""


def refuse_compressed(path: Path) -> None:
    """Refuse a zip that unpacks to more than its own size: torch stores what it writes, and compresses nothing.

    Raises:
        BundleBuildError: the file is one.
    """
    with suppress(BadZipFile):  # torch's reader names another kind of file
        if sum(entry.file_size for entry in ZipFile(path).infolist()) > path.stat().st_size:
            raise BundleBuildError(f"{path} holds compressed files, which torch does not write: save it again")


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, which has the reason in those of OpenVINO and torch."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def trial_pictures(spec: Preprocess) -> tuple[list[str], Batch]:
    """Return names and pixels of drawn scenes, noise, and an even black and white picture."""
    noise = np.random.default_rng(7).integers(0, 256, (*spec.input_shape, 3), np.uint8)
    even = {"noise": noise, "black": np.zeros_like(noise), "white": np.full_like(noise, 255)}
    scenes = [load_pixels(sample.data, spec) for sample in samples(DRAWN_PICTURES, seed=7)]
    names = [f"drawn {number}" for number in range(1, DRAWN_PICTURES + 1)]
    return [*names, *even], np.stack([*scenes, *(normalise(each, spec) for each in even.values())])


def settle_outputs(infer: Answers, spec: Preprocess, classes: int, stated: Outputs | None) -> tuple[Outputs, bool]:
    """Return what the outputs of a network are, and whether they are scores already.

    Args:
        infer: how the network answers.
        spec: how pictures become pixels.
        classes: number of labels.
        stated: what the YAML says; None leaves it to what the outputs look like.

    Raises:
        BundleBuildError: they have another shape, are no numbers, the same for all pictures, or not what is stated.
    """
    names, batch = trial_pictures(spec)
    if (shape := infer(batch[:2]).shape) != (2, classes):
        raise BundleBuildError(
            f"the network answers two images with outputs of shape {shape} but {classes} labels were given: "
            "it must have one output per image and label"
        )
    outputs = infer(batch)
    for name, row in zip(names, outputs, strict=True):
        if not np.isfinite(row).all():
            raise BundleBuildError(
                f"the network answers the picture {name!r} with {row[~np.isfinite(row)][0]}, which is no number: "
                "check mean, std and input_range, and export it in float32"
            )
    largest = float(np.abs(outputs).max())
    if np.ptp(outputs, axis=0).max() <= SAME * largest:
        raise BundleBuildError(
            f"the network answers {len(names)} different pictures alike, with {outputs[0][:5].tolist()}: "
            "check mean, std and input_range, and that its weights were exported"
        )
    if np.abs(infer(batch[:1]) - outputs[:1]).max() > BATCH_TOLERANCE * largest:
        raise BundleBuildError(
            "the network answers a picture otherwise when it is alone in its batch: export it in evaluation mode"
        )
    low, high, sums = float(outputs.min()), float(outputs.max()), outputs.sum(1)
    in_range = low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE
    has_softmax = in_range and bool(np.abs(sums - 1).max() <= SUM_TOLERANCE)
    match stated:
        case None if in_range and not has_softmax:
            raise BundleBuildError(
                f"the outputs lie between {low:.3g} and {high:.3g} and do not sum to 1: set outputs: sigmoid if each "
                "label is true or false by itself, else outputs: logits"
            )
        case "logits" if has_softmax:
            raise BundleBuildError(
                f"the outputs of {len(names)} pictures lie between 0 and 1 and sum to 1: set outputs: probabilities"
            )
        case "probabilities" if not in_range:
            raise BundleBuildError(f"outputs from {low:.4g} to {high:.4g} are no probabilities: set outputs: logits")
        case "probabilities" if not has_softmax:
            farthest = float(sums[np.abs(sums - 1).argmax()])
            raise BundleBuildError(
                f"the outputs of a picture sum to {farthest:.4g}, not 1: set outputs: sigmoid if each label is true "
                "or false by itself, else outputs: logits"
            )
    kind: Outputs = stated or ("probabilities" if has_softmax else "logits")
    return kind, kind == "probabilities" or (kind == "sigmoid" and in_range)
