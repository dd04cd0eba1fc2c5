"""Demand: what waits and for how long, and how much is to come, told from the queue's counts and the answers.

SQS says how many messages there are, not how old they are nor how fast they come. Both follow from what this process
sees: each image that is in the queue or has left it by an answer has arrived, and of what arrived the last ones wait.
"""

import math
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from services.sqs import QueueCounts

BIN_SECONDS = 1.0
"""Arrivals are counted by the second."""

WINDOWS = (6, 12, 60)
"""Seconds: the last so many tell whether the rate has changed."""

STEADY_SECONDS = 300
"""A rate is the mean over no longer."""

DROPPED_SHARE = 0.05
"""Of a time, the highest seconds that tell nothing of how high one can be."""

HIGHEST = 4.0
"""Standard deviations of a Poisson count: a second with more is cut to that. A batch that is uploaded at once is work
to do, not a rate."""

FAR = 4.5
"""The same: so far from the rate the mean over a window is of another one. It is asked thrice a second, so that 3
would see a change every few minutes."""

MAX_BINS = 3_600
"""Seconds that are remembered; images that wait for longer are as old as the oldest of them."""

SETTLE_SECONDS = 10.0
"""Counts are approximate: images that are missing from them for so long have left the queue without an answer."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What there is to do, and what may come.

    Attributes:
        waiting: images that wait, by the second of their arrival: seconds ago, and how many; oldest first.
        rate: images/s that arrive, as far as it can be told.
    """

    waiting: tuple[tuple[float, int], ...] = ()
    rate: float = 0.0


@dataclass
class ArrivalRateEstimator:
    """Tells arrivals from looks at the queue; `clock` is in seconds, never set back."""

    clock: Callable[[], float] = time.monotonic
    _bins: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MAX_BINS), init=False)
    _seen: int = field(default=0, init=False)
    _fewer_since: float | None = field(default=None, init=False)
    _changed: int = field(default=-STEADY_SECONDS, init=False)

    def look(self, requests: QueueCounts, answers: int) -> Demand:
        """Take one look into account; `answers` is how many have been seen in all."""
        now = self.clock()
        self._arrive(requests.total + answers, now)
        return Demand(self._waiting(requests.waiting, now), self._rate(now))

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

    def _rate(self, now: float) -> float:
        """Return the mean since it last changed."""
        last = math.floor(now / BIN_SECONDS)  # has only begun
        counts = self._counts(last)
        length = min(STEADY_SECONDS, max(WINDOWS[0], last - self._changed))
        mean = _mean(counts[:length])
        for window in WINDOWS:
            if window < length and abs(_mean(counts[:window]) - mean) > FAR * _deviation(mean, window):
                # It is seen before the window is full of it.
                self._changed, mean = last - window // 3, _mean(counts[:window])
                break
        return mean / BIN_SECONDS

    def _counts(self, last: int) -> list[int]:
        """Return the arrivals of the seconds before `last`, the latest first."""
        counts = [0] * STEADY_SECONDS
        for second, arrived in reversed(self._bins):
            if second < last - STEADY_SECONDS:
                break
            if second < last:
                counts[last - second - 1] = arrived
        return counts


def _mean(counts: list[int]) -> float:
    """Return the mean, each second cut to the highest that it can be."""
    ordered = sorted(counts)
    kept = len(ordered) - math.ceil(DROPPED_SHARE * len(ordered))
    low = sum(ordered[:kept]) / kept
    highest = low + HIGHEST * math.sqrt(low)
    whole = bisect_right(ordered, highest)
    return (sum(ordered[:whole]) + highest * (len(ordered) - whole)) / len(ordered)


def _deviation(mean: float, bins: int) -> float:
    return math.sqrt(max(mean, 1 / STEADY_SECONDS) / bins)
