"""Small pictures of images for the pages, drawn in processes that have nothing (`web_tier.results.drawing`)."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.confined.errors import CrashedError, TooCostlyError
from services.confined.pool import Allowance, Confined
from services.confined.zygote import Zygote
from services.image_errors import ImageRejectedError
from services.image_limits import ImageLimits

CONTENT_TYPE: Final = "image/webp"
TILE: Final = 160
"""Shorter side of the picture in a list, pixels."""

PREVIEW: Final = 640
"""Shorter side of the one on an image's own page."""

AT_ONCE: Final = 2
WAIT_SECONDS: Final = 5.0

ALLOWANCE: Final = Allowance(seconds=5.0, memory_bytes=640 * 2**20, answer_bytes=8 * 2**20)
"""Of one picture: no more pixels are decoded for it than `drawing.MOST_DECODED`."""

_FUNCTION: Final = "web_tier.results.drawing:draw"


class NoThumbnailError(Exception):
    """Raised when an image cannot be shown: it cannot be decoded, or would take too much time or memory."""


class Thumbnails:
    """Draws pictures; its processes are made on first use, so after gunicorn's fork.

    Args:
        limits: of an image.
        draw: draws in other processes, as `web_tier.results.drawing.draw` does.
    """

    def __init__(self, limits: ImageLimits, draw: Confined | None = None) -> None:
        self._limits, self._draw = limits, draw or Confined(Zygote(_FUNCTION), ALLOWANCE, AT_ONCE)

    def of(self, data: bytes, side: int = TILE) -> bytes:
        """Return a WebP picture of an image, upright, its shorter side at most `side` pixels.

        Raises:
            NoThumbnailError: when there is none.
            NoChildError: when nobody can draw it just now.
        """
        try:
            drawn = bytes(self._draw(data, limits=self._limits, side=side))
        except (ImageRejectedError, TooCostlyError, CrashedError) as error:
            raise NoThumbnailError(str(error)) from error
        if drawn[:4] != b"RIFF" or drawn[8:12] != b"WEBP":
            raise NoThumbnailError("what was drawn is no picture")
        return drawn

    def close(self) -> None:
        """End the processes."""
        self._draw.close()


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
