"""Demand: what waits and for how long, and how much is to come, told from the queue's counts and the answers.

SQS says how many messages there are, not how old they are nor how fast they come. Both follow from what this process
sees: whatever is in the queue or has left it by an answer has arrived, and of what arrived the last ones wait.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from services.sqs import QueueCounts

BIN_SECONDS = 1.0
"""Arrivals are counted by the second."""

WINDOWS = (12, 60, 300)
"""Seconds over which a rate may be a mean."""

DROPPED_SHARE = 0.05
"""Of a window, the highest seconds that do not count: a batch that is uploaded at once is work to do, not a rate."""

FAR = 3.0
"""Standard deviations of a Poisson count: a window whose mean is so far from a shorter one's is of another time."""

MOST_BINS = 3_600
"""Seconds that are remembered; images that wait for longer are as old as the oldest of them."""

SETTLE_SECONDS = 10.0
"""Counts are approximate: images that are missing from them for so long have left the queue without an answer."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do, and what may come.

    Attributes:
        waiting: images that wait, by the second of their arrival: seconds ago, and how many; oldest first.
        rate: images/s that arrive, as far as it can be told.
        deviation: standard deviation of that, in images/s.
    """

    waiting: tuple[tuple[float, int], ...] = ()
    rate: float = 0.0
    deviation: float = 0.0


@dataclass
class Arrivals:
    """Tells arrivals from looks at the queue; `clock` is in seconds, never set back."""

    clock: Callable[[], float] = time.monotonic
    _bins: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MOST_BINS), init=False)
    _seen: int = field(default=0, init=False)
    _fewer_since: float | None = field(default=None, init=False)

    def look(self, requests: QueueCounts, answers: int) -> Demand:
        """Take one look into account; `answers` is how many have been seen in all."""
        now = self.clock()
        self._arrive(requests.total + answers, now)
        return Demand(self._waiting(requests.visible + requests.delayed, now), *self._rate(now))

    def _arrive(self, seen: int, now: float) -> None:
        """Count what is more than ever; forget about what has been missing for long."""
        if seen >= self._seen:
            self._fewer_since = None
        elif self._fewer_since is None:
            self._fewer_since = now
        elif now - self._fewer_since > SETTLE_SECONDS:
            self._seen, self._fewer_since = seen, None
        if seen > self._seen:
            second = math.floor(now / BIN_SECONDS)
            if self._bins and self._bins[-1][0] == second:
                self._bins[-1] = (second, self._bins[-1][1] + seen - self._seen)
            else:
                self._bins.append((second, seen - self._seen))
            self._seen = seen

    def _waiting(self, images: int, now: float) -> tuple[tuple[float, int], ...]:
        """Return when the last `images` that arrived did so."""
        found: list[tuple[float, int]] = []
        for second, arrived in reversed(self._bins):
            if images <= 0:
                break
            found.append((max(0.0, now - second * BIN_SECONDS), min(arrived, images)))
            images -= arrived
        if images > 0:
            age, known = found.pop() if found else (0.0, 0)
            found.append((age, known + images))
        return tuple(reversed(found))

    def _rate(self, now: float) -> tuple[float, float]:
        """Return the mean over the longest window that no shorter one contradicts, and its standard deviation."""
        last = math.floor(now / BIN_SECONDS)  # has only begun
        by_second = dict(islice(reversed(self._bins), max(WINDOWS) + 1))
        counts = [by_second.get(last - back, 0) for back in range(1, max(WINDOWS) + 1)]
        chosen, shorter = WINDOWS[0], list[int]()
        for window in WINDOWS:
            mean = _mean(counts[:window])
            if any(abs(_mean(counts[:less]) - mean) > FAR * _deviation(mean, less) for less in shorter):
                break
            chosen = window
            shorter.append(window)
        rate = _mean(counts[:chosen])
        return rate / BIN_SECONDS, _deviation(rate, chosen) / BIN_SECONDS


def _mean(counts: list[int]) -> float:
    """Return the mean without the highest."""
    kept = sorted(counts)[: len(counts) - math.ceil(DROPPED_SHARE * len(counts))]
    return sum(kept) / len(kept)


def _deviation(mean: float, bins: int) -> float:
    return math.sqrt(max(mean, 1 / max(WINDOWS)) / bins)
