"""The result waiter: one thread polls the job table for all requests that wait for the result of an image.

The thread lives while a request waits. Each poll reads up to a hundred images per call of the table. The longer the
requests have waited, the longer is the time between two polls: a warm fleet answers within some 50 ms, and one that
boots workers within a minute.
"""

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from core.ids import ImageRef
from core.jobs.store import JobStore
from core.messages import ClassificationResult
from services.clock import CLOCK, Clock
from services.threads import DaemonThread

MIN_POLL_SECONDS = 0.004
MAX_POLL_SECONDS = 0.05
"""Shortest and longest time between two polls; on average half of it is added to the latency of an answer."""

WAITED_SHARE = 0.25
"""The time between two polls as a share of the time for which the newest request has waited."""

PAUSE_RATIO = 2.0
"""The pause after a poll is at least this many times as long as the poll, so polls take at most a third of the
time."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class ResultWaiter:
    """Waits for results on behalf of the threads of one process; each thread waits for one image at a time.

    The number of threads of the web tier bounds the number of waiting requests.
    """

    store: JobStore
    clock: Clock = CLOCK
    _waiters: dict[ImageRef, list["Future[ClassificationResult]"]] = field(default_factory=dict, init=False)
    _polling: bool = field(default=False, init=False)
    _newest_at: float = field(default=float("-inf"), init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def wait(self, ref: ImageRef, seconds: float) -> ClassificationResult | None:
        """Return the result of `ref` as soon as it exists.

        Return None if none exists within `seconds`, and at once if no thread can be started: the image is accepted.
        """
        waiter: Future[ClassificationResult] = Future()
        try:
            with self._lock:
                self._waiters.setdefault(ref, []).append(waiter)
                self._newest_at = self.clock.monotonic()
                if not self._polling:
                    DaemonThread(self._poll_while_waiting, name="result-waiter").start()
                    self._polling = True
            return waiter.result(seconds)
        except TimeoutError:
            return None
        except (RuntimeError, MemoryError):  # the system has no thread left, or no memory for one
            _log.warning("no thread could be started that waits for results", exc_info=True)
            return None
        finally:
            with self._lock:
                remaining = [other for other in self._waiters.pop(ref, []) if other is not waiter]
                if remaining:
                    self._waiters[ref] = remaining

    def _poll_while_waiting(self) -> None:
        poll_seconds = 0.0
        while True:
            # The pause comes first: an image that was just accepted has no result yet.
            waited = self.clock.monotonic() - self._newest_at
            usual = min(max(MIN_POLL_SECONDS, WAITED_SHARE * waited), MAX_POLL_SECONDS)
            self.clock.sleep(max(usual, PAUSE_RATIO * poll_seconds))
            with self._lock:
                wanted = list(self._waiters)
                self._polling = bool(wanted)  # False ends this thread; the next request starts another
            if not wanted:
                return
            began, found = self.clock.monotonic(), dict[ImageRef, ClassificationResult]()
            try:
                found.update(self.store.results_of(wanted))
            except Exception:  # noqa: BLE001 - every waiting request depends on this loop; the error is logged
                _log.warning("polling for results failed; %d requests continue to wait", len(wanted), exc_info=True)
            with self._lock:
                answered = [(waiter, found[ref]) for ref in found for waiter in self._waiters.pop(ref, [])]
            for waiter, response in answered:
                waiter.set_result(response)
            poll_seconds = self.clock.monotonic() - began
