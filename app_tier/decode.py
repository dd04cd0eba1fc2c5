"""Decode: from the image's bytes to what the network sees.

Untrusted bytes are read in another process (`confined_squares`); only pixels come back.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from app_tier.preprocess import Preprocess, as_square, normalise
from app_tier.task import Task
from core.config import Worker as WorkerConfig
from core.confined.errors import CrashedError, TooCostlyError
from core.confined.pool import Allowance, SandboxPool
from core.confined.zygote import Zygote
from core.image_errors import ImageRejectedError
from core.image_limits import BYTES_A_PIXEL, ImageLimits

Pixels = NDArray[np.float32]

BYTES_BESIDE: Final = 32 * 2**20
"""What an image of any size takes besides."""

_log = logging.getLogger(__name__)


class Squares(Protocol):
    """Makes an image's central square, as `app_tier.square.central_square` does."""

    def __call__(self, data: bytes, *, resize: int, crop: int, limits: ImageLimits) -> bytes | bytearray:
        """Return `crop` rows of `crop` pixels, three bytes each."""
        ...


def decode(
    task: Task[bytes],
    spec: Preprocess,
    limits: ImageLimits,
    squares: Squares,
    clock: Callable[[], float] = time.perf_counter,
) -> Task[Pixels]:
    """Return the task with the network's input, float32 [3, H, W].

    Raises:
        ImageRejectedError: it is no image that we take; the message is for its owner.
        PoolUnavailableError: it cannot be decoded just now.
    """
    before = clock()
    try:
        square = as_square(squares(task.made, resize=spec.resize, crop=spec.crop, limits=limits), spec)
    except TooCostlyError as error:
        _log.warning("too costly to decode", extra={"key": task.delivery.request.key, "reason": str(error)})
        raise ImageRejectedError(
            "too_costly",
            "decoding it takes more time or memory than an image may: save it again as JPEG or PNG, or smaller",
        ) from error
    except (CrashedError, ValueError) as error:
        _log.warning("a decoder broke down", extra={"key": task.delivery.request.key, "reason": str(error)})
        raise ImageRejectedError(
            "undecodable", "it is damaged in a way that no decoder gets over: save it again as JPEG or PNG"
        ) from error
    return task.then(normalise(square, spec), decoded=(clock() - before) * 1000)


def confined_squares(zygote: Zygote, config: WorkerConfig, limits: ImageLimits, crop: int, most: int) -> SandboxPool:
    """Return `central_square` as up to `most` processes run it that have nothing but the image."""
    own = config.decode_megabytes * 2**20
    memory = own or BYTES_A_PIXEL * limits.max_pixels + 2 * limits.max_bytes + BYTES_BESIDE
    return SandboxPool(zygote, Allowance(config.decode_seconds, memory, 3 * crop * crop), most)
