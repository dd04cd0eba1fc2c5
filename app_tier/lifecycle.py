"""The life of a worker: when it stops, and why.

| State          | Event                                    | Next     |
|----------------|------------------------------------------|----------|
| running        | idle and not protected                   | idle     |
| running        | SIGTERM, SIGINT, drain tag, Spot notice  | stopped  |
| running        | a fault                                  | failed   |
| idle, stopped  | a fault                                  | failed   |

`app_tier/receiver.py` finds that a worker is idle. The first event decides the reason, and a fault the exit status,
which is 1 after it and else 0. In each state but the first the worker receives no more, and finishes or gives back
what it has. Its last heartbeat names state and reason.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from services.errors import FleetsightError, MetadataError
from services.threads import DaemonThread

if TYPE_CHECKING:
    from core.messages import WorkerEnd
    from services.metadata import Metadata

NOTICE_SECONDS = 5.0
"""How often to poll for a Spot notice (AWS recommends 5 s; it comes about 120 s before the end) and the drain tag."""

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_log = logging.getLogger(__name__)


class NotStartedError(FleetsightError):
    """Raised when a worker must not poll: bad configuration, bundle or credentials; the message says what to do."""


class Lifetime:
    """The life of a worker.

    Args:
        on_end: called once, in the thread that ends it.
        is_protected: asked when the worker is idle, whether it stays nevertheless.

    Attributes:
        ended: how it ends; None while it runs.
    """

    def __init__(
        self, on_end: Callable[[], None] = lambda: None, is_protected: Callable[[], bool] = lambda: False
    ) -> None:
        self._on_end, self._is_protected = on_end, is_protected
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.ended: WorkerEnd | None = None
        self.reason = ""

    @property
    def over(self) -> bool:
        """Whether the worker must end."""
        return self._over.is_set()

    @property
    def status(self) -> int:
        """The exit status."""
        return int(self.ended == "failed")

    def end(self, reason: str) -> None:
        """Drain and end in good order."""
        self._enter("stopped", reason)

    def stop_if_idle(self, reason: str) -> bool:
        """End in good order unless the worker is protected from scale-in; return whether it ends."""
        if self._is_protected():
            return False
        self._enter("idle", reason)
        return True

    def fail(self, reason: str) -> None:
        """End because of a fatal error."""
        self._enter("failed", reason)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most `seconds`; return whether it has come."""
        return self._over.wait(seconds)

    def _enter(self, state: "WorkerEnd", reason: str) -> None:
        with self._lock:
            is_first = self.ended is None
            if is_first or (state == "failed" and self.ended != "failed"):
                self.ended, self.reason = state, reason
            self._over.set()
        if is_first:
            self._on_end()


class StopSignals:
    """SIGTERM and SIGINT: created before any other thread, since threads inherit which signals are blocked.

    A thread waits for them, since a handler could interrupt the main thread while it holds a lock. Before a worker
    exists nothing is in flight, and the process ends at once. After the first signal further ones change nothing,
    since the drain is bounded.
    """

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        self._lock = threading.Lock()
        self._lifetime: Lifetime | None = None

    def start(self) -> None:
        """Start the thread; signals that have arrived before are handled now."""
        DaemonThread(self._wait, name="signals").start()

    def end(self, lifetime: Lifetime) -> None:
        """End `lifetime` when a signal arrives."""
        with self._lock:
            self._lifetime = lifetime

    def _wait(self) -> None:
        name = signal.Signals(signal.sigwait(_STOP_SIGNALS)).name
        with self._lock:
            if self._lifetime is None:
                _log.info("ended", extra={"reason": f"{name} before the start"})
                os._exit(0)
            self._lifetime.end(name)


def watch_notices(metadata: "Metadata", lifetime: Lifetime, every_seconds: float = NOTICE_SECONDS) -> None:
    """End `lifetime` when EC2 reclaims the instance or the controller drains it; return when it is over."""
    while not lifetime.over:
        try:
            action = metadata.spot_action()
            if action is not None:
                lifetime.end(f"Spot notice: {action}")
            elif metadata.drain_requested():
                lifetime.end("asked to drain")
        except MetadataError as error:
            _log.warning("the metadata service did not answer", extra={"error": str(error)})
        lifetime.wait(every_seconds)


def is_protected(metadata: "Metadata | None") -> bool:
    """Return whether an idle worker stays, since its instance is protected from scale-in; False without an instance.

    If the metadata service does not answer, the worker ends: that costs one boot, while a worker that stays by
    mistake bills for nothing. Its credentials come from there too, so it could not work for long.
    """
    if metadata is None:
        return False
    try:
        return metadata.is_protected()
    except MetadataError as error:
        _log.warning("scale-in protection is unknown; the worker ends", extra={"error": str(error)})
        return False
