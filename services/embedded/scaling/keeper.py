"""Looks again and again whether Auto Scaling groups have the instances that they should have."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

LOOK_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 60.0
"""Between two attempts for a group whose instances end again and again."""

QUIET_SECONDS = 30.0
"""After so long without anything to replace, the next replacement is at once again."""


@dataclass
class Keeper:
    """Replaces instances that have ended: at once, then after pauses that double while they keep ending.

    Args:
        groups: returns all groups; each has a name.
        keep: replaces what a group lacks, and says whether it lacked something.
        clock: monotonic seconds.
    """

    groups: Callable[[], list[Any]]
    keep: Callable[[Any], bool]
    clock: Callable[[], float] = time.monotonic
    _pauses: WeakKeyDictionary[Any, tuple[float, float]] = field(default_factory=WeakKeyDictionary)
    _thread: threading.Thread | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Look from now on, in a thread of its own; more than once is as good."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_for_ever, daemon=True, name="auto-scaling")
                self._thread.start()

    def look(self) -> None:
        """Look once at every group that is not to be left alone for a while."""
        now = self.clock()
        for group in self.groups():
            replaced_at, pause = self._pauses.get(group, (-QUIET_SECONDS, 0.0))
            if now - replaced_at < pause or not self.keep(group):
                continue
            is_quiet = now - replaced_at - pause >= QUIET_SECONDS
            self._pauses[group] = (now, 1.0 if is_quiet else min(2 * pause, LONGEST_PAUSE_SECONDS))

    def _look_for_ever(self) -> None:
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)
