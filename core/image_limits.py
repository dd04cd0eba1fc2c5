"""How large an image may be, and the refusal of one with too many bytes: what is known without any decoder."""

import mmap
from typing import Final, NamedTuple

from core.image_errors import ImageRejectedError

BYTES_A_PIXEL: Final = 24
"""What decoding takes of memory, at most: WebP without loss and with transparency took 21 (docs/performance.md)."""


class ImageLimits(NamedTuple):
    """How large an image may be.

    Attributes:
        max_bytes: as it is sent.
        max_pixels: width x height, once decoded.
        max_frames: of an animation, or pictures in one file.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 50_000_000
    max_frames: int = 1_000


def too_large(size: int, limits: ImageLimits) -> ImageRejectedError:
    """Return the refusal of a file of `size` bytes, more than ``limits`` allow."""
    return ImageRejectedError(
        "too_large",
        f"{size / 1e6:.1f} MB is more than the {limits.max_bytes / 1e6:.1f} MB allowed: shrink it",
    )


def lacks_memory(pixels: int) -> bool:
    """Return whether a decoder may have failed for want of memory: libwebp and libjpeg call that damage, too."""
    try:
        mmap.mmap(-1, max(1, BYTES_A_PIXEL * pixels)).close()
    except OSError:
        return True
    return False
