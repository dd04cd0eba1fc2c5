"""An open loop: images arrive when users send them, whether or not earlier ones are answered.

A closed loop waits for an answer before it sends the next image, so a slow system is asked less often, and the
percentiles do not show what users would have waited (coordinated omission). Here each arrival has its moment before
the test begins, and the latency counts from that moment, as in wrk2 and vegeta.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.clock import CLOCK, Clock
from services.errors import FleetsightError

LATE_SECONDS: Final = 0.1
"""A request that starts this long after its moment is late: the load test could not keep its schedule."""

_UNITS: Final = {"s": 1.0, "min": 60.0, "h": 3_600.0}
_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(s|min|h))?")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|min|h)?")


class ScheduleError(FleetsightError):
    """Raised when a rate, a duration or a threshold is invalid; the message says what to write."""


def parse_rate(text: str) -> float:
    """Return images/s from `50`, `50/s`, `3000/min` or `9000/h`.

    Raises:
        ScheduleError: it is no rate.
    """
    found = _RATE.fullmatch(text.strip())
    if found is None:
        raise ScheduleError(f"{text!r} is no rate: write one such as 50/s or 3000/min")
    return float(found[1]) / _UNITS[found[2] or "s"]


def parse_seconds(text: str) -> float:
    """Return seconds from `90`, `90s`, `250ms`, `2min` or `1h`.

    Raises:
        ScheduleError: it is no duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ScheduleError(f"{text!r} is no duration: write one such as 30s, 250ms or 2min")
    return float(found[1]) * ({"ms": 0.001} | _UNITS)[found[2] or "s"]


def steady(rate: float, count: int) -> list[float]:
    """Return `count` arrivals, evenly spaced at `rate` images/s."""
    return [number / rate for number in range(count)]


@dataclass
class Pacer:
    """Holds each item until its moment; several threads may iterate over it and call it.

    Attributes:
        arrivals: seconds from the begin, ascending.
        stopped: set when the load test is to end.
        wait: waits for seconds, and may return before if the load test is to end.
    """

    arrivals: Sequence[float]
    stopped: threading.Event
    clock: Clock = CLOCK
    wait: Callable[[float], object] = time.sleep
    late: int = field(default=0, init=False)
    """Requests that started late."""
    latest_seconds: float = field(default=0.0, init=False)
    """The longest time by which one was late."""
    _began: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __iter__(self) -> Iterator[float]:
        """Begin now, and yield the moment of each arrival by the clock."""
        self._began = self.clock.monotonic()
        return (self._began + arrival for arrival in self.arrivals)

    def hold(self, moment: float) -> bool:
        """Wait until `moment`; return False if the load test was stopped before."""
        remaining = moment - self.clock.monotonic()
        if remaining > 0:
            self.wait(remaining)
        if self.stopped.is_set():
            return False
        delay = self.clock.monotonic() - moment
        if delay > LATE_SECONDS:
            with self._lock:
                self.late += 1
                self.latest_seconds = max(self.latest_seconds, delay)
        return True
