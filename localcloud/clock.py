"""The local cloud's time of day: a step of the machine's clock is followed only once it has lasted.

AWS's servers keep the time whatever happens to the clocks of their clients. The local cloud stands for them on a
machine whose clock may jump, and what it answers is taken for the time (`Date`, launch times, tokens).
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

MAX_DRIFT_SECONDS = 10.0
"""Difference that is no step, and is followed at once."""

STEP_SECONDS = 600.0
"""Time after which a step is believed: a clock that is wrong is usually right again by then."""


def boot_seconds() -> float:
    """Return the seconds since the machine booted, with the time in which it was suspended where that is counted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class SteadyClock:
    """Returns the seconds since the epoch when it is called; threads may share it."""

    def __init__(self, machine: Callable[[], float] = time.time, boot: Callable[[], float] = boot_seconds) -> None:
        self._machine, self._boot = machine, boot
        self._began_at = machine() - boot()
        self._step = (self._began_at, boot())
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time: the machine's, but for a step that has not lasted yet."""
        with self._lock:
            boot = self._boot()
            began_at = self._machine() - boot
            if abs(began_at - self._step[0]) > MAX_DRIFT_SECONDS:
                self._step = (began_at, boot)
            is_step = abs(began_at - self._began_at) > MAX_DRIFT_SECONDS
            if not is_step or boot - self._step[1] >= STEP_SECONDS:
                self._began_at = began_at
            return boot + self._began_at


wall_seconds = SteadyClock()
"""The clock of this process."""


def utc_now() -> datetime:
    """Return the time of day in UTC."""
    return datetime.fromtimestamp(wall_seconds(), UTC)
