"""How long to wait before the next try: longer after each failure, never in step with others."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Doubles from `first_seconds` up to `most_seconds`; half of each wait is jitter."""

    first_seconds: float = 0.2
    most_seconds: float = 30.0
    uniform: Callable[[float, float], float] = random.uniform
    _failures: int = field(default=0, init=False)

    def after_failure(self) -> float:
        """Count a failure and return the seconds to wait before the next try."""
        ceiling = min(self.most_seconds, self.first_seconds * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self.uniform(ceiling / 2, ceiling)

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._failures = 0
