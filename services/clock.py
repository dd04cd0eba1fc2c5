"""The clocks of a process: the time of day, for which no step of the machine's clock is believed, and durations.

A machine's clock may jump by hours or years: a virtual machine resumes, a battery is empty, a time server is wrong.
Two witnesses are independent of it: the seconds since the boot, and the `Date` of each reply of AWS, whose servers
keep their own time. What two of the three agree on is the time. So a clock that is wrong for one round, or for a
week, changes nothing, and nothing has to be repaired when it is right again.

On one machine the local cloud's `Date` is the same machine's; it follows a step only once that has lasted
(`localcloud/clock.py`).
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_log = logging.getLogger(__name__)

MAX_ERROR_SECONDS = 10.0
"""Difference between two clocks that is no step: the resolution of a `Date`, a slow reply, and a corrected drift."""

CONFIRM_SECONDS = 60.0
"""A `Date` that agrees with neither the machine's clock nor the last `Date` is believed after this time."""

CHECK_SECONDS = 5.0
"""Time between two replies of which the `Date` is read."""


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Clock:
    """The clocks that a part of a process reads, and its pauses; threads may share it. Tests pass one of their own.

    Until the first `Date` the machine's clock at the start of the process is believed, and no step of it since.

    Args:
        machine: the machine's clock, in seconds since the epoch.
        boot: seconds that no step of the machine's clock changes.
    """

    def __init__(self, machine: Callable[[], float] = time.time, boot: Callable[[], float] = _since_boot) -> None:
        self._machine, self._boot = machine, boot
        self._known = (machine(), boot())
        self._is_confirmed = self._is_wrong = False
        self._doubted: tuple[float, float] | None = None
        self._checked_at = float("-inf")
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the seconds by which durations are measured."""
        return time.monotonic()

    def boot_seconds(self) -> float:
        """Return the seconds since the machine booted.

        Time in which a virtual machine or a laptop is suspended counts, as by `CLOCK_BOOTTIME` (clock_gettime(2));
        where there is no such clock, it does not.
        """
        return self._boot()

    def cpu_seconds(self) -> float:
        """Return the CPU time of the calling thread."""
        return time.thread_time()

    def sleep(self, seconds: float) -> None:
        """Let the calling thread pause."""
        time.sleep(seconds)

    def epoch_seconds(self) -> float:
        """Return the seconds since the epoch: by the machine's clock, unless it is wrong."""
        machine, expected = self._machine(), _continued(self._known, self._boot())
        return machine if _agree(machine, expected) else expected

    def utc_now(self) -> datetime:
        """Return the time of day in UTC."""
        return datetime.fromtimestamp(self.epoch_seconds(), UTC)

    def confirm(self, date: str | None) -> None:
        """Take over the `Date` of a reply that has just arrived; an unreadable one is left out."""
        at = self._boot()
        if date is None or at - self._checked_at < CHECK_SECONDS:
            return
        try:
            moment = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        with self._lock:
            self._checked_at = at
            agrees = _agree(moment, _continued(self._known, at)) or _agree(moment, self._machine())
            if self._is_confirmed and not agrees:
                if self._doubted is None or not _agree(moment, _continued(self._doubted, at)):
                    self._doubted = (moment, at)
                if at - self._doubted[1] < CONFIRM_SECONDS:
                    return
            self._known, self._is_confirmed, self._doubted = (moment, at), True, None
            if _agree(moment, self._machine()) is self._is_wrong:
                self._is_wrong = not self._is_wrong
                state = "wrong and is not used" if self._is_wrong else "right again"
                _log.warning("the clock of this machine is %s", state, extra={"time": date})


def _continued(known: tuple[float, float], boot: float) -> float:
    moment, at = known
    return moment + boot - at


def _agree(first: float, second: float) -> bool:
    return abs(first - second) <= MAX_ERROR_SECONDS


CLOCK = Clock()
"""The clock of this process."""

epoch_seconds = CLOCK.epoch_seconds
utc_now = CLOCK.utc_now


def confirm_by_reply(**event: Any) -> None:
    """Take over the `Date` of a reply that botocore has received; handles its event `response-received`."""
    if event["response_dict"] is not None:
        CLOCK.confirm(event["response_dict"]["headers"].get("date"))
