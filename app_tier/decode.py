"""Decoding: from the image's bytes to the network's input and a thumbnail.

Untrusted bytes are read in another process (`sandboxed_decoder`); only pixels come back, and the thumbnail's file,
which nothing here decodes.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from app_tier.preprocess import normalise, to_array
from app_tier.task import Task
from core.bundle_manifest import MAX_SIDE, Preprocess
from core.config import Config
from core.images import MAX_THUMBNAIL_BYTES, ImageLimits, thumbnail_type
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.process import CrashedError, TooCostlyError, rejection_of
from core.sandbox.zygote import Zygote
from services.clock import CLOCK

Pixels = NDArray[np.float32]

MAX_ANSWER_BYTES: Final = 3 * MAX_SIDE**2 + MAX_THUMBNAIL_BYTES
"""The largest answer of a decoder: the models that will come are unknown, so for the largest input of a network."""

THUMBNAIL_SIDE: Final = 160
"""Shorter side of a thumbnail, in pixels."""

_log = logging.getLogger(__name__)


Decoder = Callable[..., bytes | bytearray]
"""Decodes an image into what the network sees, and a thumbnail.

Parameters are the image, its owner, and those of `app_tier.central_crop.central_crop`, which also has the errors; a
`SandboxPool` runs that function in its processes, by the name in `app_tier.__main__.DECODER`.
"""


def decode(
    task: Task[bytes],
    spec: Preprocess,
    limits: ImageLimits,
    decoder: Decoder,
) -> Task[Pixels]:
    """Return the task with the network's input, float32 [3, H, W], and the thumbnail.

    Raises:
        ImageRejectedError: the image is not accepted; the message is for its owner.
        PoolUnavailableError: it cannot be decoded now.
    """
    before, how = CLOCK.monotonic(), {"framing": spec.framing, "limits": limits, "thumbnail_side": THUMBNAIL_SIDE}
    try:
        square, thumbnail = _split(decoder(task.payload, task.delivery.owner, **how), spec)
    except (TooCostlyError, CrashedError, ValueError) as error:
        _log.warning("an image ended its decoder", extra={"key": task.delivery.request.key, "reason": str(error)})
        raise rejection_of(error) from error
    decoded = task.with_payload(normalise(square, spec), decoded=(CLOCK.monotonic() - before) * 1000)
    return replace(decoded, thumbnail=thumbnail)


def _split(answer: bytes | bytearray, spec: Preprocess) -> tuple[NDArray[np.uint8], bytes]:
    """Return the picture and the thumbnail in a decoder's answer; raises `ValueError` for any other bytes."""
    pixels = 3 * math.prod(spec.input_shape)
    thumbnail = bytes(answer[pixels:])
    if len(thumbnail) > MAX_THUMBNAIL_BYTES or (thumbnail and thumbnail_type(thumbnail) is None):
        raise ValueError("what follows the pixels is no thumbnail")
    return to_array(memoryview(answer)[:pixels], spec), thumbnail


def sandboxed_decoder(zygote: Zygote, config: Config, max_processes: int) -> SandboxPool:
    """Return `central_crop` in up to `max_processes` sandboxed processes."""
    memory = config.web.image_limits.decoding_bytes
    allowance = Allowance(config.worker.decode_seconds, memory, MAX_ANSWER_BYTES)
    return SandboxPool(zygote, allowance, max_processes, config.sandbox.limits)
