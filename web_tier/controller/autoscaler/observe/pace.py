"""How long a worker takes for an image: the time of workers that had something to do, by the answers that came."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

MIN_IMAGES = 10
"""Answers before there is a figure."""

MAX_WORKER_SECONDS = 60.0
"""The older half of a measurement counts half, a quarter and so on, each time that so much has been added."""

MAX_SECONDS = 1.0
"""Most time between two looks that counts: a loop that stood still says nothing about the workers."""


@dataclass
class ThroughputEstimator:
    """Measures seconds per image and worker, from throughput.

    Attributes:
        before: what the controller before this one has measured, in seconds; None when it had no figure.
    """

    before: float | None = None
    clock: Callable[[], float] = time.monotonic
    _last: tuple[float, int, int] | None = field(default=None, init=False)
    _worker_seconds: float = field(default=0.0, init=False)
    _images: float = field(default=0.0, init=False)

    @property
    def seconds(self) -> float | None:
        """Of one worker for one image; None as long as that is not known."""
        return self._worker_seconds / self._images if self._images >= MIN_IMAGES else self.before

    def look(self, answers: int, at_work: int) -> None:
        """Take one look into account.

        Args:
            answers: how many have been seen in all.
            at_work: workers that have something to do just now.
        """
        now = self.clock()
        if self._last is not None:
            at, answers_then, at_work_then = self._last
            self._worker_seconds += min(now - at, MAX_SECONDS) * at_work_then
            self._images += answers - answers_then
        self._last = (now, answers, at_work)
        if self._worker_seconds > MAX_WORKER_SECONDS:
            self._worker_seconds /= 2
            self._images /= 2
