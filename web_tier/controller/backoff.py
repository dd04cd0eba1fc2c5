"""How long a loop waits after a round that failed."""

import random
from dataclasses import dataclass, field

from services.backoff import Jitter, pause_seconds


@dataclass
class Backoff:
    """Counts failures in a row; waits from `first_seconds` up to `max_seconds`."""

    first_seconds: float = 0.2
    max_seconds: float = 30.0
    uniform: Jitter = random.uniform
    _failures: int = field(default=0, init=False)

    def after_failure(self) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        self._failures += 1
        return pause_seconds(self._failures, self.first_seconds, self.max_seconds, self.uniform)

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._failures = 0
