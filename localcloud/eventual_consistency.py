"""Past values with their times, for answers that lag as those of AWS do."""

import bisect
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from localcloud.options import MAX_LAG_SECONDS

Value = TypeVar("Value")


class ValueHistory(Generic[Value]):
    """The values of one variable, as far back as an answer may lag. Methods are atomic.

    Changes closer together than the resolution count as one change to the later value.
    """

    def __init__(self, *, resolution_seconds: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._resolution, self._clock = resolution_seconds, clock
        self._lock = threading.Lock()
        self._since: list[float] = []
        self._values: list[Value] = []

    def record(self, value: Value) -> None:
        """Store the value that is current from now on."""
        now = self._clock()
        with self._lock:
            if self._since and now < self._since[-1] + self._resolution:
                self._values[-1] = value
            elif not self._values or self._values[-1] != value:
                self._since.append(now)
                self._values.append(value)
                # Old values are dropped in blocks so large that the cost per value is constant.
                over = bisect.bisect_right(self._since, now - MAX_LAG_SECONDS) - 1
                if over > 0 and 2 * over >= len(self._since):
                    del self._since[:over], self._values[:over]

    def value_ago(self, seconds: float) -> Value | None:
        """Return the value that was current `seconds` ago, or None if no value existed then."""
        with self._lock:
            index = bisect.bisect_right(self._since, self._clock() - seconds) - 1
            return self._values[index] if index >= 0 else None

    def __len__(self) -> int:
        """Return the number of stored values."""
        return len(self._values)
