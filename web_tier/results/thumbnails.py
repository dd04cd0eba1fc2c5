"""Small pictures of images, drawn by us: what a user sent is never sent back as it is."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Final

from PIL import Image, ImageOps

from services.image_errors import DECODER_ERRORS
from services.images import ImageLimits, ImageRejectedError, open_image

CONTENT_TYPE: Final = "image/webp"
TILE: Final = 160
"""Shorter side of the picture in a list, pixels."""

PREVIEW: Final = 640
"""Shorter side of the one on an image's own page."""

LONGEST_TO_SHORTEST: Final = 4
MOST_DECODED: Final = 16_000_000
"""Pixels that are decoded for a thumbnail, some 64 MB; a JPEG is decoded at a fraction of its size."""

AT_ONCE: Final = 2
WAIT_SECONDS: Final = 5.0

_QUALITY: Final = 80


class NoThumbnailError(Exception):
    """Raised when an image cannot be shown: it cannot be decoded, or would take too much memory."""


def thumbnail(data: bytes, limits: ImageLimits, side: int = TILE) -> bytes:
    """Return a WebP picture of an image, upright, its shorter side at most `side` pixels.

    Raises:
        NoThumbnailError: when there is none.
    """
    try:
        with open_image(data, limits) as image:
            image.draft("RGB", (2 * side, 2 * side))
            if image.width * image.height > MOST_DECODED:
                raise NoThumbnailError(f"{image.width} x {image.height} pixels are more than {MOST_DECODED:,}")
            return _encoded(_shrunk(image, side))
    except (ImageRejectedError, *DECODER_ERRORS) as error:
        raise NoThumbnailError(str(error)) from error


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    share = min(1.0, side / min(upright.size), LONGEST_TO_SHORTEST * side / max(upright.size))
    size = (max(1, round(upright.width * share)), max(1, round(upright.height * share)))
    mode = "RGBA" if upright.has_transparency_data else "RGB"
    return upright.convert(mode).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _encoded(picture: Image.Image) -> bytes:
    body = BytesIO()
    picture.save(body, "WEBP", quality=_QUALITY, method=0)
    return body.getvalue()


class Turns:
    """Lets `AT_ONCE` threads draw at a time, and so many more wait for it that enough are left for everything else.

    Args:
        most: threads that draw or wait.
    """

    def __init__(self, most: int) -> None:
        self._room = threading.BoundedSemaphore(most)
        self._drawing = threading.BoundedSemaphore(AT_ONCE)

    @contextmanager
    def one(self) -> Iterator[bool]:
        """Yield whether it is our turn; False at once when too many wait, or after `WAIT_SECONDS`."""
        if not self._room.acquire(blocking=False):
            yield False
            return
        try:
            mine = self._drawing.acquire(timeout=WAIT_SECONDS)
            try:
                yield mine
            finally:
                if mine:
                    self._drawing.release()
        finally:
            self._room.release()
