"""How often a caller may do something in a while: the windows of PyPI's `limits`, over one of two storages."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter

Kind = Literal["request", "attempt", "code"]
"""What is counted: in a minute requests, and attempts to sign in and the like; in an hour codes of second factors.

A code has six digits, and three of them are right at a time. Ten an hour are guessed in 0.07% of days.
"""

AWAY_SECONDS = 10.0
"""How long nothing is counted after the storage has failed, so that not every request waits for it."""

MAX_REMEMBERED = 10_000

_log = logging.getLogger(__name__)


@dataclass
class Rates:
    """Counts for all threads of one process; where counting fails, everything is let through.

    Attributes:
        storage: where the counts are.
        clock: seconds since the epoch.
    """

    storage: Storage
    clock: Callable[[], float] = time.time
    _over: dict[str, float] = field(default_factory=dict, init=False)
    _away_until: float | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def count(self, kind: Kind, caller: str, most: int) -> int:
        """Count one more; return 0 when the caller may, else in how many seconds they may again. 0 is no limit.

        A caller who is known to be over the limit is not counted in the storage, so a flood costs it nothing.
        """
        now, item = self.clock(), _item(kind, most)
        if not most:
            return 0
        if (known_end := self._over.get(item.key_for(kind, caller), now)) > now:
            return ceil(known_end - now)
        if self._is_away(now):
            return 0
        window = FixedWindowRateLimiter(self.storage)
        try:
            may = window.hit(item, kind, caller)
            end = now if may else window.get_window_stats(item, kind, caller).reset_time
        except StorageError as error:
            self._go_without(now, error)
            return 0
        self._back()
        return self._refused(item.key_for(kind, caller), end, now) if end > now else 0

    def forgive(self, kind: Kind, caller: str, most: int) -> None:
        """Take one off that was counted. In a new window the caller then has one more."""
        now, item = self.clock(), _item(kind, most)
        if not most or self._is_away(now):
            return
        try:
            self.storage.incr(item.key_for(kind, caller), item.get_expiry(), -1)
        except StorageError as error:
            self._go_without(now, error)

    def _is_away(self, now: float) -> bool:
        return self._away_until is not None and now < self._away_until

    def _refused(self, key: str, end: float, now: float) -> int:
        with self._lock:
            if len(self._over) >= MAX_REMEMBERED:
                self._over = {known: until for known, until in self._over.items() if until > now}
            if len(self._over) < MAX_REMEMBERED:
                self._over[key] = end
        return ceil(end - now)

    def _go_without(self, now: float, error: StorageError) -> None:
        with self._lock:
            began, self._away_until = self._away_until is None, now + AWAY_SECONDS
        if began:
            _log.error("requests cannot be counted, so that none is refused until they can again: %s", error)

    def _back(self) -> None:
        if self._away_until is None:
            return
        with self._lock:
            self._away_until = None
        _log.info("requests are counted again")


def _item(kind: Kind, most: int) -> RateLimitItem:
    return RateLimitItemPerHour(most or 1) if kind == "code" else RateLimitItemPerMinute(most or 1)
