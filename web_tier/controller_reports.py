"""How old the controller's last report is by the clock of this process, and how far the two clocks are apart."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from core.fleet.models import FleetSnapshot

MAX_AGE_SECONDS = 15.0
"""A report that was not there so long ago is taken for one of just now."""

MIN_DIFFERENCE = timedelta(seconds=30)
"""A smaller difference of the clocks may be the age of a report, and is taken for none."""


class ControllerReports:
    """Remembers when this process first read the controller's last report; its threads share it.

    A report has a time of the controller's clock, which may differ from this machine's. So the time tells one report
    from another, and its age only if there was an older report a moment before. A process that has just started does
    not know how old the first report that it reads is.

    Args:
        clock: monotonic seconds.
        now: the time of day.

    Attributes:
        ahead: how far the controller's clock is ahead of this machine's; zero below `MIN_DIFFERENCE`, and while it is
            not known.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.ahead = timedelta()
        self._clock, self._now = clock, now
        self._lock = threading.Lock()
        self._last: datetime | None = None
        self._since = self._read = float("-inf")

    def silent_seconds(self, report: FleetSnapshot | None) -> float:
        """Return for how long `report`, which has just been read, has been the last one; 0 if there is none."""
        if report is None:
            return 0.0
        with self._lock:
            read, self._read = self._read, self._clock()
            if report.at != self._last:
                if self._read - read <= MAX_AGE_SECONDS:
                    ahead = report.at - self._now()
                    self.ahead = ahead if abs(ahead) >= MIN_DIFFERENCE else timedelta()
                self._last, self._since = report.at, self._read
            return self._read - self._since
