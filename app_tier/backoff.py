"""How long the receiver pauses while the services fail: doubling, bounded, with jitter."""

import random
import threading
from collections import Counter
from collections.abc import Callable

FIRST_SECONDS = 0.5
MOST_SECONDS = 30.0


class Backoff:
    """Counts failures in a row of each activity, over all threads; a success forgets those of its activity.

    Args:
        jitter: returns a random number between its arguments.
    """

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self._jitter = jitter
        self._lock = threading.Lock()
        self._failures: Counter[str] = Counter()

    def failed(self, activity: str) -> None:
        """Count a failure."""
        with self._lock:
            self._failures[activity] += 1

    def succeeded(self, activity: str) -> None:
        """Forget the failures of `activity`."""
        with self._lock:
            del self._failures[activity]

    def pause_seconds(self) -> float:
        """Return how long to wait before the next try: 0 without a failure, else half to all of the doubled time."""
        with self._lock:
            failures = max(self._failures.values(), default=0)
        if not failures:
            return 0.0
        longest = min(MOST_SECONDS, FIRST_SECONDS * 2.0 ** min(failures, 16))
        return self._jitter(longest / 2, longest)
