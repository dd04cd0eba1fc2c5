"""The pause: whether ops have paused the fleet, read now and then."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from services.messages import FleetPause

READ_SECONDS = 1.0
"""How old the answer may be."""


class PauseStore(Protocol):
    """What is needed of the fleet's store."""

    def paused(self) -> FleetPause | None:
        """Return the pause that is on, if any."""


@dataclass
class PauseWatch:
    """Reads the pause once in `READ_SECONDS`; an error of the store passes through, and there is no answer then."""

    store: PauseStore
    clock: Callable[[], float] = time.monotonic
    _read: tuple[float, FleetPause | None] | None = field(default=None, init=False)

    def current(self) -> FleetPause | None:
        """Return the pause that is on, if any."""
        now = self.clock()
        if self._read is None or now - self._read[0] >= READ_SECONDS:
            self._read = (now, self.store.paused())
        return self._read[1]
