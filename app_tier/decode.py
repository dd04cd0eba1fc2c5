"""Decode: from the image's bytes to what the network sees."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from app_tier.preprocess import Preprocess, load_pixels
from app_tier.task import Task
from services.images import ImageLimits

Pixels = NDArray[np.float32]


def decode(
    task: Task[bytes], spec: Preprocess, limits: ImageLimits, clock: Callable[[], float] = time.perf_counter
) -> Task[Pixels]:
    """Return the task with the network's input, float32 [3, H, W].

    Raises:
        ImageRejectedError: it is no image that we take; the message is for its owner.
    """
    before = clock()
    pixels = load_pixels(task.made, spec, limits)
    return task.then(pixels, decoded=(clock() - before) * 1000)
