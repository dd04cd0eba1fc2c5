"""When a worker ends, and why: idle, told to stop, asked to drain, Spot notice, or a fault."""

import logging
import os
import signal
import threading
from collections.abc import Callable

from services.errors import MetadataError
from services.metadata import Metadata

NOTICE_SECONDS = 5.0
"""How often to look for a Spot notice, as AWS recommends (it comes about 120 s before the end), and for the tag that
asks the worker to end."""

_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
_log = logging.getLogger(__name__)


class Lifetime:
    """The first reason to end, kept.

    Args:
        on_end: called once, in the thread that ends it.
        stays: asked when the worker is idle, whether it is to stay nevertheless.
    """

    def __init__(self, on_end: Callable[[], None] = lambda: None, stays: Callable[[], bool] = lambda: False) -> None:
        self._on_end, self._stays = on_end, stays
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.reason = ""
        self.status = 0

    @property
    def over(self) -> bool:
        """Whether the worker is to end."""
        return self._over.is_set()

    def end(self, reason: str) -> None:
        """End in good order: idle, or told to."""
        self._end(reason, 0)

    def end_idle(self, reason: str) -> bool:
        """End in good order unless the worker is to stay; tell whether it ends."""
        if self._stays():
            return False
        self.end(reason)
        return True

    def fail(self, reason: str) -> None:
        """End because the worker cannot go on; its exit status says so, also when it was ending already."""
        self._end(reason, 1)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end, at most `seconds`; tell whether it has come."""
        return self._over.wait(seconds)

    def _end(self, reason: str, status: int) -> None:
        with self._lock:
            first = not self._over.is_set()
            if first or status > self.status:
                self.reason, self.status = reason, status
            self._over.set()
        if first:
            self._on_end()


class StopSignals:
    """SIGTERM and SIGINT, from now on: made before any other thread, since threads inherit what is blocked.

    A thread waits for them, for a handler could interrupt the main thread while it holds a lock. Until there is a
    worker to `end`, nothing is in hand, and the process ends at once. After the first one, further ones change
    nothing, since the drain is bounded.
    """

    def __init__(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        self._lock = threading.Lock()
        self._lifetime: Lifetime | None = None

    def heed(self) -> None:
        """Start the thread; what has come so far comes now."""
        threading.Thread(target=self._wait, name="signals", daemon=True).start()

    def end(self, lifetime: Lifetime) -> None:
        """End `lifetime` when a signal comes."""
        with self._lock:
            self._lifetime = lifetime

    def _wait(self) -> None:
        name = signal.Signals(signal.sigwait(_STOP_SIGNALS)).name
        with self._lock:
            if self._lifetime is None:
                _log.info("ended", extra={"reason": f"{name} before the start"})
                os._exit(0)
            self._lifetime.end(name)


def watch_notices(metadata: Metadata, lifetime: Lifetime, every_seconds: float = NOTICE_SECONDS) -> None:
    """End `lifetime` when EC2 takes the instance back or the controller asks for it; return when it is over."""
    while not lifetime.over:
        try:
            action = metadata.spot_action()
            if action is not None:
                lifetime.end(f"Spot notice: {action}")
            elif metadata.asked_to_drain():
                lifetime.end("asked to drain")
        except MetadataError as error:
            _log.warning("no answer about notices", extra={"error": str(error)})
        lifetime.wait(every_seconds)


def is_protected(metadata: Metadata | None) -> bool:
    """Return whether an idle worker stays, since its instance is protected from scale-in; False without an instance.

    Where the metadata service does not answer it is not known to be wanted, and ends: that costs one boot, while one
    that stays unasked bills for nothing. Its credentials come from there too, so it could not work on for long.
    """
    if metadata is None:
        return False
    try:
        return metadata.asked_to_stay()
    except MetadataError as error:
        _log.warning("no answer whether to stay", extra={"error": str(error)})
        return False
