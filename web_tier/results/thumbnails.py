"""Small pictures of images for the pages, drawn in processes that have nothing (`web_tier.results.drawing`)."""

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from core.ids import ImageRef
from core.images import ImageLimits, ImageRejectedError
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.process import CrashedError, TooCostlyError
from core.sandbox.zygote import Zygote
from web_tier.bulkheads import Bulkhead

CONTENT_TYPE: Final = "image/webp"
TILE: Final = 160
"""Shorter side of the picture in a list, pixels."""

PREVIEW: Final = 640
"""Shorter side of the one on an image's own page."""

AT_ONCE: Final = 2
"""Pictures that are drawn at a time."""

WAIT_SECONDS: Final = 5.0
"""Longest that a request waits for its turn."""

MAX_REMEMBERED: Final = 10_000
"""Images without a picture that are remembered; the oldest is forgotten first."""

ALLOWANCE: Final = Allowance(seconds=5.0, memory_bytes=640 * 2**20, answer_bytes=8 * 2**20)
"""Of one picture: no more pixels are decoded for it than `drawing.MAX_DECODED`."""

_FUNCTION: Final = "web_tier.results.drawing:draw"


class NoThumbnailError(Exception):
    """Raised when an image cannot be shown: it cannot be decoded, or would take too much time or memory."""


class Thumbnails:
    """Draws pictures; its processes are made on first use, so after gunicorn's fork.

    Args:
        limits: of an image.
        draw: draws in other processes, as `web_tier.results.drawing.draw` does.
    """

    def __init__(self, limits: ImageLimits, draw: SandboxPool | None = None) -> None:
        self._limits, self._draw = limits, draw or SandboxPool(Zygote(_FUNCTION), ALLOWANCE, AT_ONCE)
        self._without: OrderedDict[ImageRef, None] = OrderedDict()
        self._lock = threading.Lock()

    def has_none(self, ref: ImageRef) -> bool:
        """Return True if no picture of this image could be drawn before: it would fail again."""
        return ref in self._without

    def note_none(self, ref: ImageRef) -> None:
        """Remember that no picture of this image can be drawn."""
        with self._lock:
            self._without[ref] = None
            if len(self._without) > MAX_REMEMBERED:
                self._without.popitem(last=False)

    def of(self, data: bytes, side: int = TILE) -> bytes:
        """Return a WebP picture of an image, upright, its shorter side at most `side` pixels.

        Raises:
            NoThumbnailError: when there is none.
            PoolUnavailableError: if it cannot be drawn just now.
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


class RenderLimiter:
    """Lets `AT_ONCE` threads draw at a time, but one fewer for the same user, and a bounded number wait for it.

    So pictures that take as long as they may, all of one user, leave a turn for everybody else.

    Args:
        bulkhead: bounds the threads that draw or wait.
    """

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._drawing: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def one(self, owner: str = "") -> Iterator[bool]:
        """Yield whether it is our turn; False at once when too many wait, or after `WAIT_SECONDS`."""
        with self._bulkhead.place(owner) as may_wait:
            if not (may_wait and self._begin(owner)):
                yield False
                return
            try:
                yield True
            finally:
                self._end(owner)

    def _begin(self, owner: str) -> bool:
        with self._changed:
            is_mine = self._changed.wait_for(lambda: self._is_free(owner), WAIT_SECONDS)
            if is_mine:
                self._drawing[owner] += 1
            return is_mine

    def _is_free(self, owner: str) -> bool:
        return self._drawing.total() < AT_ONCE and not (owner and self._drawing[owner] >= AT_ONCE - 1)

    def _end(self, owner: str) -> None:
        with self._changed:
            self._drawing[owner] -= 1
            self._drawing += Counter()  # forgets users who have none
            self._changed.notify_all()
