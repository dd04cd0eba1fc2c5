"""The one rule for how long to wait before a next try: longer after each failure, never in step with others."""

import random
from collections.abc import Callable

Jitter = Callable[[float, float], float]
"""Returns a random number between its arguments."""


def pause_seconds(failures: int, first: float, most: float, jitter: Jitter = random.uniform) -> float:
    """Return 0 without a failure; else half to all of `first` seconds, doubled with each failure more, up to `most`.

    Half is certain so that a busy service gets its rest; half is random so that those who wait spread
    (https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).
    """
    if failures <= 0:
        return 0.0
    longest = min(most, first * 2.0 ** min(failures - 1, 30))
    return jitter(longest / 2, longest)
