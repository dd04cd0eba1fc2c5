"""Thumbnails of images for the pages: those that workers drew, and those that the web tier draws from originals.

A worker's is in the prediction object, so it lives as long as the job. `web_tier.results.drawing` draws the others in
sandboxed processes.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from core.ids import ImageRef
from core.images import ImageLimits, ImageRejectedError, thumbnail_type
from core.sandbox.pool import Allowance, SandboxLimits, SandboxPool
from core.sandbox.process import CrashedError, TooCostlyError
from core.sandbox.zygote import Zygote
from services.recent_dict import RecentDict
from web_tier.http.bulkheads import Bulkhead

TILE: Final = 160
"""Shorter side of a thumbnail in a list, in pixels."""

PREVIEW: Final = 640
"""Shorter side of the thumbnail on an image's own page, in pixels."""

MAX_CONCURRENT: Final = 2
"""Thumbnails that are drawn at a time."""

WAIT_SECONDS: Final = 5.0
"""Longest time for which a request waits until it may draw."""

MAX_UNAVAILABLE: Final = 10_000
"""Images without a thumbnail that are remembered; the oldest is evicted first."""

ALLOWANCE: Final = Allowance(seconds=5.0, memory_bytes=640 * 2**20, answer_bytes=8 * 2**20)
"""Limits of drawing one thumbnail; it decodes at most `drawing.MAX_DECODED` pixels."""


def sandboxed_draw(sandbox_limits: SandboxLimits) -> SandboxPool:
    """Return `web_tier.results.drawing.draw` in sandboxed processes, which start on first use."""
    return SandboxPool(Zygote("web_tier.results.drawing:draw"), ALLOWANCE, MAX_CONCURRENT, sandbox_limits)


class NoThumbnailError(Exception):
    """Raised when an image has no thumbnail: it cannot be decoded, or it would take too much time or memory."""


class Thumbnails:
    """Draws thumbnails."""

    def __init__(self, limits: ImageLimits, pool: SandboxPool) -> None:
        self._limits, self._pool = limits, pool
        self._unavailable = RecentDict[ImageRef, None](MAX_UNAVAILABLE)
        self._lock = threading.Lock()

    def is_unavailable(self, ref: ImageRef) -> bool:
        """Return True if an earlier attempt to draw this image failed: it would fail again."""
        return ref in self._unavailable

    def mark_unavailable(self, ref: ImageRef) -> None:
        """Remember that this image has no thumbnail."""
        with self._lock:
            self._unavailable[ref] = None

    def render(self, data: bytes, owner: str, side: int = TILE) -> bytes:
        """Return a thumbnail of an owner's image, upright, its shorter side at most `side` pixels.

        Raises:
            NoThumbnailError: if the image has none.
            PoolUnavailableError: if no process can draw it at the moment.
        """
        try:
            drawn = bytes(self._pool(data, owner, limits=self._limits, side=side))
        except (ImageRejectedError, TooCostlyError, CrashedError) as error:
            raise NoThumbnailError(str(error)) from error
        if thumbnail_type(drawn) is None:
            raise NoThumbnailError("the output of the drawing process is no thumbnail")
        return drawn

    def close(self) -> None:
        """Terminate the processes."""
        self._pool.close()


class RenderLimiter:
    """Lets `MAX_CONCURRENT` threads draw at a time, but one fewer for one user, and bounds the waiting threads.

    So a user with many expensive images does not block other users.

    Args:
        bulkhead: bounds the threads that draw or wait.
    """

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._drawing: Counter[str] = Counter()
        self._changed = threading.Condition()

    @contextmanager
    def slot(self, owner: str = "") -> Iterator[bool]:
        """Yield True once the thread may draw; False at once if too many wait, or after `WAIT_SECONDS`."""
        with self._bulkhead.place(owner) as may_wait:
            if not (may_wait and self._acquire(owner)):
                yield False
                return
            try:
                yield True
            finally:
                with self._changed:
                    self._drawing[owner] -= 1
                    self._drawing += Counter()  # removes users with a count of 0
                    self._changed.notify_all()

    def _acquire(self, owner: str) -> bool:
        def is_free() -> bool:
            return self._drawing.total() < MAX_CONCURRENT and not (
                owner and self._drawing[owner] >= MAX_CONCURRENT - 1
            )

        with self._changed:
            is_acquired = self._changed.wait_for(is_free, WAIT_SECONDS)
            if is_acquired:
                self._drawing[owner] += 1
            return is_acquired
