"""Decoding: from the image's bytes to the network's input, and what else a result has of the image.

Untrusted bytes are read in another process (`sandboxed_decoder`); only pixels come back, and an `ImageContent`.
Nothing here decodes its thumbnail.
"""

import logging
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
from core.messages import ImageContent
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.process import CrashedError, TooCostlyError, rejection_of
from core.sandbox.zygote import Zygote
from services.clock import CLOCK
from services.errors import MessageError

Pixels = NDArray[np.float32]

MAX_ANSWER_BYTES: Final = 3 * MAX_SIDE**2 + 2 * MAX_THUMBNAIL_BYTES
"""The largest answer of a decoder: the models that will come are unknown, so for the largest input of a network.

The content is JSON, in which Base64 makes a thumbnail larger by a third.
"""

THUMBNAIL_SIDE: Final = 160
"""Shorter side of a thumbnail, in pixels."""

_log = logging.getLogger(__name__)


Decoder = Callable[..., bytes | bytearray]
"""Decodes an image into what the network sees, and an `ImageContent`.

Parameters are the image, its owner, and those of `app_tier.central_crop.central_crop`, which also has the errors; a
`SandboxPool` runs that function in its processes, by the name in `app_tier.__main__.DECODER`.
"""


def decode(
    task: Task[bytes],
    spec: Preprocess,
    limits: ImageLimits,
    decoder: Decoder,
) -> Task[Pixels]:
    """Return the task with the network's input, float32 [3, H, W], and the content of its image.

    Raises:
        ImageRejectedError: the image is not accepted; the message is for its owner.
        PoolUnavailableError: it cannot be decoded now.
    """
    before, how = CLOCK.monotonic(), {"framing": spec.framing, "limits": limits, "thumbnail_side": THUMBNAIL_SIDE}
    try:
        square, content = _parsed(decoder(task.payload, task.delivery.owner, **how), spec)
    except (TooCostlyError, CrashedError, ValueError, MessageError) as error:
        _log.warning("an image ended its decoder", extra={"image_id": task.ref.image_id, "reason": str(error)})
        raise rejection_of(error) from error
    decoded = task.with_payload(normalise(square, spec), decoded=(CLOCK.monotonic() - before) * 1000)
    return replace(decoded, content=content)


def _parsed(answer: bytes | bytearray, spec: Preprocess) -> tuple[NDArray[np.uint8], ImageContent]:
    """Return the picture and the content in a decoder's answer.

    Raises:
        ValueError, MessageError: it is no answer of a decoder.
    """
    square = to_array(answer, spec)
    content = ImageContent.from_json(bytes(answer[square.size :]))
    if content.thumbnail is not None and thumbnail_type(content.thumbnail) is None:
        raise ValueError("the thumbnail is neither a JPEG nor a WebP")
    return square, content


def sandboxed_decoder(zygote: Zygote, config: Config, max_processes: int) -> SandboxPool:
    """Return `central_crop` in up to `max_processes` sandboxed processes."""
    memory = config.web.image_limits.decoding_bytes
    allowance = Allowance(config.worker.decode_seconds, memory, MAX_ANSWER_BYTES)
    return SandboxPool(zygote, allowance, max_processes, config.sandbox.limits)
