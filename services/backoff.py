"""Exponential backoff with jitter."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

Jitter = Callable[[float, float], float]
"""Returns a random number between its arguments."""


def pause_seconds(failures: int, first: float, maximum: float, jitter: Jitter = random.uniform) -> float:
    """Return the seconds to wait after `failures` in a row: 50 to 100% of `first`, doubled by each further failure.

    `maximum` limits the wait. Half of it is fixed, to relieve a busy service; half is random, to spread the callers
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    if failures <= 0:
        return 0.0
    longest = min(maximum, first * 2.0 ** min(failures - 1, 30))
    return jitter(longest / 2, longest)


@dataclass
class Backoff:
    """Counts failures in a row and returns how long to wait after each."""

    first_seconds: float = 0.2
    max_seconds: float = 30.0
    uniform: Jitter = random.uniform
    _failures: int = field(default=0, init=False)

    def after_failure(self) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        self._failures += 1
        return pause_seconds(self._failures, self.first_seconds, self.max_seconds, self.uniform)

    def reset(self) -> None:
        """Start again with the shortest wait, after a success."""
        self._failures = 0
