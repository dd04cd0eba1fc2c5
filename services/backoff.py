"""The one rule for how long to wait before a next try: longer after each failure, never in step with others."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

Jitter = Callable[[float, float], float]
"""Returns a random number between its arguments."""


def pause_seconds(failures: int, first: float, most: float, jitter: Jitter = random.uniform) -> float:
    """Return 0 without a failure; else half to all of `first` seconds, doubled with each failure more, up to `most`.

    Half is certain so that a busy service gets its rest; half is random so that callers spread
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    if failures <= 0:
        return 0.0
    longest = min(most, first * 2.0 ** min(failures - 1, 30))
    return jitter(longest / 2, longest)


@dataclass
class Backoff:
    """Counts failures in a row, and says how long to wait after each."""

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
