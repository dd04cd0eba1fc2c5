"""Heartbeats: a worker reports its state every 10 s, and names the messages that it holds, without delaying answers.

A thread of its own sends one message at a time. A heartbeat that could not be sent is logged and dropped, since the
next one reports as much.

When an instance is gone, the controller makes the messages visible that its last heartbeat named
(`web_tier/autoscaler/release.py`). A heartbeat follows at once when a message has been held for `UNNAMED_SECONDS`
without a name: a message that is answered sooner costs none, and returns after `FIRST_SECONDS` (`visibility.py`).
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app_tier.visibility import InFlightMessages
from core.ids import new_id
from core.messages import MAX_HEARTBEAT_BYTES, Heartbeat, WorkerEnd, WorkerState
from services.clock import CLOCK, Clock
from services.sqs import OutgoingMessage
from services.threads import DaemonThread

EVERY_SECONDS = 10.0

UNNAMED_SECONDS = 0.5
"""How long a message is held before it needs a name, a quarter of its first visibility timeout."""

CHECK_SECONDS = 0.5
"""Time between two checks for such messages, and at least between two heartbeats."""

END_SECONDS = 2.0
"""Longest time that the end of a worker waits for its last heartbeat."""

Send = Callable[[Sequence[OutgoingMessage]], Sequence[OutgoingMessage]]
"""Sends messages and returns those that were refused, as `services.sqs.Queue.send`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Figures of a worker.

    Attributes:
        images: answered so far, without repeated predictions.
        in_flight: images received and not answered yet.
        end: how it ends; None while it receives.
        models: digests of the models that are loaded.
        failed_model: digest of the model that could not be loaded lately, if any.
    """

    images: int = 0
    in_flight: int = 0
    end: WorkerEnd | None = None
    reason: str = ""
    models: Sequence[str] = ()
    failed_model: str | None = None

    @property
    def state(self) -> WorkerState:
        """The worker's state."""
        if self.end is not None:
            return "draining"
        return "busy" if self.in_flight else "ready"


class Heartbeater:
    """Sends a heartbeat when it is started, every `every_seconds`, and when it is stopped.

    A heartbeat names the messages of `in_flight`, in at most `max_bytes`, and is sent sooner if one has no name yet.
    """

    def __init__(
        self,
        worker: str,
        stats: Callable[[], WorkerStats],
        send: Send,
        every_seconds: float = EVERY_SECONDS,
        clock: Clock = CLOCK,
        *,
        in_flight: InFlightMessages | None = None,
        max_bytes: int = MAX_HEARTBEAT_BYTES,
    ) -> None:
        self._worker, self._stats, self._send = worker, stats, send
        self._every_seconds, self._clock = every_seconds, clock
        self._in_flight, self._max_bytes = in_flight, min(max_bytes, MAX_HEARTBEAT_BYTES)
        self._last, self._rate, self._is_full = (clock.monotonic(), 0), 0.0, False
        self._stopped = threading.Event()
        # A daemon: a call that hangs must not keep a worker that has ended.
        self._thread = DaemonThread(self.run, self._stopped.wait, name="heart")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Send a last heartbeat, which reports the end; wait up to `END_SECONDS` for it."""
        self._stopped.set()
        self._thread.join(END_SECONDS)

    def run(self, wait: Callable[[float], bool]) -> None:
        """Send heartbeats until `wait`, called with the seconds to the next one, returns True."""
        self._send_heartbeat()
        sent_at = self._clock.monotonic()
        while not wait(CHECK_SECONDS):
            is_due = self._clock.monotonic() - sent_at >= self._every_seconds
            # One that had no room for all names would follow another without end.
            if is_due or (not self._is_full and self._in_flight and self._in_flight.has_unnamed(UNNAMED_SECONDS)):
                self._send_heartbeat()
                sent_at = self._clock.monotonic()
        self.send_last()

    def send_last(self) -> None:
        """Send the heartbeat that reports the end, and why."""
        self._send_heartbeat(is_last=True)

    def _send_heartbeat(self, *, is_last: bool = False) -> None:
        receipts = [each.receipt for each in self._in_flight.everything()] if self._in_flight else []
        beat = self._heartbeat(is_last=is_last).with_receipts(receipts, self._max_bytes)
        self._is_full = len(beat.receipts) < len(receipts)
        try:
            refused = self._send([OutgoingMessage(new_id(), beat.to_json())])
        except Exception as error:  # noqa: BLE001 (the edge: the worker continues after any error)
            _log.warning("a heartbeat could not be sent", extra={"error": str(error)})
            return
        if refused:
            _log.warning("the response queue refused a heartbeat")
        elif self._in_flight:
            self._in_flight.mark_named(beat.receipts)

    def _heartbeat(self, *, is_last: bool) -> Heartbeat:
        stats, now = self._stats(), self._clock.monotonic()
        last_at, last_images = self._last
        if (seconds := now - last_at) >= self._every_seconds / 2:  # a moment would say nothing
            self._last, self._rate = (now, stats.images), round((stats.images - last_images) / seconds, 3)
        return Heartbeat(
            worker=self._worker,
            at=self._clock.utc_now(),
            state="ended" if is_last else stats.state,
            images=stats.images,
            in_hand=stats.in_flight,
            images_per_second=self._rate,
            # A fault's reason, which may be long, takes the place of the models, so that the message always fits.
            models=() if is_last and stats.end == "failed" else tuple(stats.models),
            failed_model=None if is_last and stats.end == "failed" else stats.failed_model,
            end=stats.end if is_last else None,
            reason=stats.reason if is_last else "",
        )
