"""What the user pool says of an account, remembered for a minute: a personal token outlives many a change of it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from services.users import Account

LIFETIME_SECONDS: Final = 60.0
"""How long a user who was disabled, deleted or taken out of a group may still get in with a personal token."""

MOST: Final = 10_000
"""Accounts that are remembered at once; the oldest is forgotten first."""


@dataclass
class KnownAccounts:
    """Asks for each account at most once a minute; shared by threads.

    Attributes:
        ask: returns the account of a `sub`, None when it is deleted.
        clock: in seconds, only ever forwards.
    """

    ask: Callable[[str], Account | None]
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, tuple[Account | None, float]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def find(self, sub: str) -> Account | None:
        """Return the account if it may come in: it exists and is enabled."""
        account = self._remembered(sub)
        return account if account is not None and account.enabled else None

    def forget(self, sub: str) -> None:
        """Ask anew about an account that has just changed; other processes do so within a minute."""
        with self._lock:
            self._known.pop(sub, None)

    def _remembered(self, sub: str) -> Account | None:
        now = self.clock()
        with self._lock:
            known = self._known.get(sub)
        if known is not None and now - known[1] < LIFETIME_SECONDS:
            return known[0]
        account = self.ask(sub)
        with self._lock:
            self._known.pop(sub, None)
            self._known[sub] = account, now
            if len(self._known) > MOST:
                del self._known[next(iter(self._known))]
        return account
