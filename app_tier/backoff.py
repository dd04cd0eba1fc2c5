"""How long the receiver pauses while the services fail: doubling, bounded, with jitter."""

import random
import threading
from collections import Counter

from services.backoff import Jitter, pause_seconds

FIRST_SECONDS = 1.0
MAX_SECONDS = 30.0


class Backoff:
    """Counts failures in a row of each activity, over all threads; a success forgets those of its activity.

    Args:
        jitter: returns a random number between its arguments.
    """

    def __init__(self, jitter: Jitter = random.uniform) -> None:
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
        """Return how long to wait before the next try: 0 without a failure."""
        with self._lock:
            failures = max(self._failures.values(), default=0)
        return pause_seconds(failures, FIRST_SECONDS, MAX_SECONDS, self._jitter)
