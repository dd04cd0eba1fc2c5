"""How often a bundle is right on labelled images, and whether it were more often if they were prepared otherwise."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import Bundle
from app_tier.engines import open_engine
from core.bundle_manifest import Preprocess, height_and_width
from core.confidence import wilson_interval
from scripts.model.sample_images import decoded, labelled_images

MAX_IMAGES: Final = 300
"""Images that each way of preparing them is tried on, which takes about a minute at 224 pixels."""


def other_ways(spec: Preprocess) -> dict[str, Preprocess]:
    """Return other ways to prepare images for the same network, by what they are called."""
    larger = tuple(round(side * 8 / 7) for side in height_and_width(spec.crop))
    imagenet: dict[str, object] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    changes: dict[str, dict[str, object]] = {
        **{f"fit: {fit}": {"fit": fit, "resize": spec.crop} for fit in ("crop", "stretch", "pad")},
        f"fit: crop with resize: {list(larger)}": {"fit": "crop", "resize": larger},
        **{f"interpolation: {name}": {"interpolation": name} for name in ("bilinear", "bicubic")},
        "mean and std of ImageNet": imagenet,
        "mean: [0.5] and std: [0.5]": {"mean": (0.5,) * 3, "std": (0.5,) * 3},
        "mean: [0] and std: [1]": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
    }
    ways = {name: spec.model_copy(update=change) for name, change in changes.items()}
    return {name: way for name, way in ways.items() if way != spec}


def accuracy_lines(bundle: Bundle, folder: Path) -> Iterator[str]:
    """Yield the accuracy on images in sub-folders by label, and each way that is right significantly more often.

    Nothing is yielded if no image has a label of the bundle. Significant is a difference of two standard deviations
    if each image on which two ways differ were decided by a coin (McNemar's test).
    """
    images = labelled_images(folder, bundle.labels, MAX_IMAGES)
    engine = open_engine("openvino", bundle, len(os.sched_getaffinity(0)))

    def is_right(spec: Preprocess) -> NDArray[np.bool_]:
        pairs = decoded(images, bundle.manifest.model_copy(update={"preprocess": spec}))
        return np.array([engine.infer(pixels[np.newaxis]).argmax() == truth for pixels, truth in pairs], bool)

    if not len(stated := is_right(bundle.manifest.preprocess)):
        return
    low, high = wilson_interval(int(stated.sum()), len(stated))
    yield f"{stated.mean():.1%} of {len(stated)} labelled images are right (95% confidence: {low:.1%} to {high:.1%})"
    for name, way in other_ways(bundle.manifest.preprocess).items():
        other = is_right(way)
        gained, lost = int((other & ~stated).sum()), int((stated & ~other).sum())
        if gained - lost > 2 * math.sqrt(gained + lost):
            yield f"{name} would give {100 * (gained - lost) / len(stated):.1f} points more: was it trained so?"
