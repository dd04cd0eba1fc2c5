"""Keeps what is in hand invisible to others, and gives it back: everything that changes visibility."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.in_hand import InHand
from app_tier.task import Delivery
from services.sqs import Queue

LONGEST_SECONDS = 12 * 3600 - 60
"""SQS ends an invisibility 12 hours after the receive, however often it is extended."""

TIMEOUTS_PER_IMAGE = 10
"""An image that has been in hand for so many visibility timeouts hangs: no step takes that long, retries included."""

_log = logging.getLogger(__name__)


class Keeper:
    """Extends the visibility of what is in hand, and gives back what will not be answered.

    One lock spans each decision and its call, so that nothing that was given back is hidden again.

    Args:
        queue: the request queue.
        in_hand: what is kept.
        visibility_seconds: the queue's visibility timeout.
        on_hung: is told the reason when an image never ends, since a thread is lost with it.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        queue: Queue,
        in_hand: InHand,
        visibility_seconds: int,
        on_hung: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue, self._in_hand, self._on_hung, self._clock = queue, in_hand, on_hung, clock
        self._visibility_seconds = visibility_seconds
        self._longest = min(LONGEST_SECONDS, TIMEOUTS_PER_IMAGE * visibility_seconds)
        self._calling = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Start to keep, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Keep no longer."""
        self._ended.set()

    def look(self) -> None:
        """Extend what has used up half of its timeout; let go of what has been in hand for too long."""
        self._let_go_of_the_hung()
        with self._calling:
            expiring = self._in_hand.expiring()
            if expiring:
                self._extend(expiring)

    def give_back(self, deliveries: Sequence[Delivery], delay_seconds: int = 0) -> None:
        """Take `deliveries` out of hand and let another worker have them after `delay_seconds`."""
        with self._calling:
            ours = [delivery for delivery in deliveries if self._in_hand.remove(delivery)]
            if not ours:
                return
            try:
                self._queue.change_visibility([delivery.receipt for delivery in ours], delay_seconds)
            except (BotoCoreError, ClientError) as error:
                # They come back by themselves when their visibility timeout ends.
                _log.warning("could not give back", extra={"messages": len(ours), "error": str(error)})

    def _extend(self, expiring: Sequence[Delivery]) -> None:
        asked_at = self._clock()
        try:
            lost = self._queue.change_visibility(
                [delivery.receipt for delivery in expiring], self._visibility_seconds
            )
        except (BotoCoreError, ClientError) as error:
            # Tried again at the next look; if that is too late, somebody else classifies them too, which is harmless.
            _log.warning("could not extend visibility", extra={"messages": len(expiring), "error": str(error)})
            return
        if lost:
            _log.warning("no longer ours: another worker may classify them too", extra={"messages": len(lost)})
        self._in_hand.extended(expiring, asked_at)

    def _let_go_of_the_hung(self) -> None:
        for delivery in self._in_hand.older_than(self._longest):
            if self._in_hand.remove(delivery):
                image = delivery.request.image_id
                _log.error("gave up an image that never ended", extra={"image_id": image})
                self._on_hung(f"image {image} was in hand for more than {self._longest} s: a thread hangs")

    def _run(self) -> None:
        # At a quarter of the timeout: each extension comes between a half and three quarters of it.
        while not self._ended.wait(self._visibility_seconds / 4):
            try:
                self.look()
            except Exception:  # noqa: BLE001 (the edge: without a keeper, every image would be classified twice)
                _log.exception("the keeper's look failed; it looks again")
