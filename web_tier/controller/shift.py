"""A shift: the loops that a holder of the lease runs, each in a thread of its own, until the shift is over.

A loop survives what its ticks raise, since one refused call must not end the fleet's only controller.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from web_tier.controller.backoff import Backoff

_log = logging.getLogger(__name__)

Tick = Callable[[], float]
"""One round of a loop; returns the seconds until the next."""

MAX_BACKOFF_SECONDS = 10.0


def keep_ticking(
    name: str,
    tick: Tick,
    active: Callable[[], bool],
    wait: Callable[[float], object],
    backoff: Backoff | None = None,
) -> None:
    """Call `tick` again and again while `active()`; log what it raises and try again after a backoff."""
    backoff = backoff or Backoff(max_seconds=MAX_BACKOFF_SECONDS)
    while active():
        try:
            pause = tick()
        except Exception:  # noqa: BLE001 (the edge of the loop)
            pause = backoff.after_failure()
            _log.exception("a round of the loop failed", extra={"loop": name, "next_try_seconds": round(pause, 2)})
        else:
            backoff.reset()
        wait(pause)


class LoopGroup:
    """Loops that run from `start` until `stop`, or until `held()` is no longer true.

    Args:
        ticks: makes the loops' ticks by name; it is given the predicate that every tick asks before it acts.
        held: whether the lease is held.
    """

    def __init__(self, ticks: Callable[[Callable[[], bool]], Mapping[str, Tick]], held: Callable[[], bool]) -> None:
        self._held = held
        self._over = threading.Event()
        self._threads = [
            # Daemons, so that a call that hangs cannot keep a process that was told to stop.
            threading.Thread(
                target=keep_ticking, args=(name, tick, self.active, self._over.wait), name=name, daemon=True
            )
            for name, tick in ticks(self.active).items()
        ]

    @property
    def over(self) -> bool:
        """Whether the shift has ended: it was stopped, or the lease was not held for a moment."""
        return self._over.is_set()

    def active(self) -> bool:
        """Whether the loops may act. Once the lease was not held, they may not again, even if it is regained."""
        if not self._held():
            self._over.set()
        return not self.over

    def start(self) -> None:
        """Start every loop."""
        for thread in self._threads:
            thread.start()

    def dead(self) -> list[str]:
        """Return the names of loops that have ended although they should run."""
        return [thread.name for thread in self._threads if self.active() and not thread.is_alive()]

    def stop(self, within_seconds: float = 5.0) -> bool:
        """End every loop after its present round; tell whether all have ended."""
        self._over.set()
        deadline = time.monotonic() + within_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
