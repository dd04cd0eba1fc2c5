"""Waits for results: a thousand requests may each wait for an image of their own, and one thread looks for all.

A thread for each process, which lives while anybody waits, reads what is waited for a hundred at a time. So what
waiting costs the job table depends on how many wait at once, and hardly on how often each would have asked.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from core.ids import ImageRef
from core.messages import Response

LOOK_SECONDS = 0.05
"""Between two looks; on average half of it is added to what an answer takes."""

REST_SHARE = 4.0
"""The pause after a look is at least this many times as long as the look took: a fifth of the time is spent on it."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class ResultWaiter:
    """Waits for results on behalf of the threads of one process; each of them waits for one image at a time.

    How many wait is bounded by how many threads the web tier has.

    Attributes:
        results_of: returns the results of those images that have one, as `JobStore.results_of`.
        sleep: takes seconds.
        clock: seconds, only their differences count.
    """

    results_of: Callable[[Collection[ImageRef]], Mapping[ImageRef, Response]]
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _waiters: dict[ImageRef, list["Future[Response]"]] = field(default_factory=dict, init=False)
    _looking: bool = field(default=False, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def wait(self, ref: ImageRef, seconds: float) -> Response | None:
        """Return the result of `ref` as soon as it is there, or None when it is not within `seconds`."""
        waiter = self._begin(ref)
        try:
            return waiter.result(seconds)
        except TimeoutError:
            return None
        finally:
            self._end(ref, waiter)

    def _begin(self, ref: ImageRef) -> "Future[Response]":
        waiter: Future[Response] = Future()
        with self._lock:
            self._waiters.setdefault(ref, []).append(waiter)
            if not self._looking:
                self._looking = True
                threading.Thread(target=self._look_while_wanted, name="result-watch", daemon=True).start()
        return waiter

    def _end(self, ref: ImageRef, waiter: "Future[Response]") -> None:
        with self._lock:
            remaining = [other for other in self._waiters.pop(ref, []) if other is not waiter]
            if remaining:
                self._waiters[ref] = remaining

    def _look_while_wanted(self) -> None:
        took = 0.0
        while True:
            # Pausing first: an image that has just been accepted has no result yet.
            self.sleep(max(LOOK_SECONDS, REST_SHARE * took))
            wanted = self._wanted()
            if not wanted:
                return
            began = self.clock()
            self._deliver(self._look(wanted))
            took = self.clock() - began

    def _wanted(self) -> list[ImageRef]:
        """Return what is waited for; when it is nothing, the thread has ended with that."""
        with self._lock:
            self._looking = bool(self._waiters)
            return list(self._waiters)

    def _look(self, wanted: Collection[ImageRef]) -> Mapping[ImageRef, Response]:
        try:
            return self.results_of(wanted)
        except Exception:  # noqa: BLE001 - the edge of a loop on which every waiting request depends; it logs
            _log.exception("looking for results failed; %d requests wait on", len(wanted))
            return {}

    def _deliver(self, found: Mapping[ImageRef, Response]) -> None:
        with self._lock:
            answered = [(waiter, found[ref]) for ref in found for waiter in self._waiters.pop(ref, [])]
        for waiter, response in answered:
            waiter.set_result(response)
