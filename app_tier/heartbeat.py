"""The heartbeat: a worker says now and then that it lives, and never lets that get in the way of its answers.

In a thread of its own, one small message at a time; what could not be sent is logged and forgotten, since the next
one says as much.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from core.ids import new_id
from core.messages import Heartbeat, WorkerState
from services.sqs import OutgoingMessage

EVERY_SECONDS = 10.0

END_SECONDS = 2.0
"""Longest that the end of a worker waits for its last heartbeat."""

Send = Callable[[Sequence[OutgoingMessage]], Sequence[OutgoingMessage]]
"""Sends messages and returns those that were not taken, as `services.sqs.Queue.send`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """How a worker is: images answered so far, images in hand, and whether it takes no more."""

    images: int
    in_hand: int
    draining: bool

    @property
    def state(self) -> WorkerState:
        """The same in a word."""
        if self.draining:
            return "draining"
        return "busy" if self.in_hand else "ready"


class Heartbeater:
    """Beats when it is started, every `every_seconds`, and once more when it is stopped.

    Args:
        worker: who lives.
        look: tells how it is.
        send: takes the messages.
        every_seconds: between two beats.
        now: the wall clock.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        worker: str,
        look: Callable[[], WorkerStats],
        send: Send,
        every_seconds: float = EVERY_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._look, self._send = worker, look, send
        self._every_seconds, self._now, self._clock = every_seconds, now, clock
        self._last = (clock(), 0)
        self._stopped = threading.Event()
        # A daemon: a call that hangs must not keep a worker that has ended.
        self._thread = threading.Thread(target=lambda: self.run(self._stopped.wait), name="heart", daemon=True)

    def start(self) -> None:
        """Begin to beat, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Beat once more, to say that the worker has ended, and no longer; wait for that up to `END_SECONDS`."""
        self._stopped.set()
        self._thread.join(END_SECONDS)

    def run(self, wait: Callable[[float], bool]) -> None:
        """Beat until `wait`, which is given the seconds to the next beat, says that the worker has ended."""
        self._beat()
        while not wait(self._every_seconds):
            self._beat()
        self._beat("ended")

    def _beat(self, state: WorkerState | None = None) -> None:
        try:
            refused = self._send([OutgoingMessage(new_id(), self._heartbeat(state).to_json())])
        except Exception as error:  # noqa: BLE001 (the edge: after each error the worker works on)
            _log.warning("a heartbeat could not be sent", extra={"error": str(error)})
            return
        if refused:
            _log.warning("a heartbeat was not taken by the response queue")

    def _heartbeat(self, state: WorkerState | None) -> Heartbeat:
        vitals = self._look()
        return Heartbeat(
            worker=self._worker,
            at=self._now(),
            state=state or vitals.state,
            images=vitals.images,
            in_hand=vitals.in_hand,
            images_per_second=self._rate(vitals.images),
        )

    def _rate(self, images: int) -> float:
        """Return images/s since this was asked last."""
        (at, before), self._last = self._last, (self._clock(), images)
        seconds = self._last[0] - at
        return round((images - before) / seconds, 3) if seconds > 0 else 0.0
