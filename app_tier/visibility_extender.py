"""Keeps what is in hand invisible to others, and returns it to the queue: everything that changes visibility."""

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.in_hand import InFlightMessages
from app_tier.task import Delivery
from services.sqs import BATCH, OutgoingMessage, Queue

MAX_SECONDS = 12 * 3600 - 60
"""SQS ends an invisibility 12 hours after the receive, however often it is extended.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

LEAVE_SECONDS = (2, 10)
"""A message that is left to its queue is received again after so many seconds, at least and at most."""

_log = logging.getLogger(__name__)


class VisibilityExtender:
    """Extends the visibility of what is in hand, and returns to the queue what will not be answered.

    One lock spans each decision and its call, so that nothing that was returned is hidden again.

    Args:
        queue: the request queue.
        in_hand: what is kept.
        visibility_seconds: the queue's visibility timeout.
        max_step_seconds: an image that is in one step of the pipeline for longer hangs.
        on_hung: is told the reason when an image hangs, since a thread is lost with it.
        clock: monotonic seconds.
        jitter: returns a random whole number between its arguments, both included.
    """

    def __init__(
        self,
        queue: Queue,
        in_hand: InFlightMessages,
        visibility_seconds: int,
        max_step_seconds: float,
        on_hung: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        jitter: Callable[[int, int], int] = random.randint,
    ) -> None:
        self._queue, self._in_hand, self._on_hung = queue, in_hand, on_hung
        self._clock, self._jitter = clock, jitter
        self._visibility_seconds, self._max_step_seconds = visibility_seconds, max_step_seconds
        self._calling = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="extender", daemon=True)

    def start(self) -> None:
        """Start to keep, until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Keep no longer."""
        self._ended.set()

    def look(self) -> None:
        """Extend what has used up half of its timeout; part with what hangs and with what SQS would return."""
        self._part_with_hung()
        self.give_back(self._in_hand.older_than(MAX_SECONDS))
        with self._calling:
            expiring = self._in_hand.expiring()
            if expiring:
                self._extend(expiring)

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Take `deliveries` out of hand and let another worker have them at once, as if this one had not.

        SQS counts every receive, and cannot tell a crash from a return. So the request is sent anew, with the tries
        that it had before, and only then is the received message deleted. If the worker dies in between, there are
        two messages, which are answered alike. If SQS refuses the send, the message itself is made visible; if SQS
        does not answer, it becomes visible when its timeout ends. Then the try counts.
        """
        for start in range(0, len(deliveries), BATCH):
            with self._calling:
                self._give_back_batch(self._in_hand.take_back(deliveries[start : start + BATCH]))

    def leave(self, deliveries: Sequence[Delivery]) -> None:
        """Take `deliveries` out of hand and let them be received again in some seconds; the try counts."""
        with self._calling:
            self._show(self._in_hand.take_back(deliveries), self._jitter(*LEAVE_SECONDS))

    def _give_back_batch(self, ours: Sequence[Delivery]) -> None:
        copies = [OutgoingMessage(delivery.receipt, delivery.given_back().to_json()) for delivery in ours]
        try:
            refused = {copy.id for copy in self._queue.send(copies)}
        except BotoCoreError as error:
            _log.warning("could not give back", extra={"messages": len(ours), "error": str(error)})
            return
        except ClientError as error:
            _log.warning("could not send requests anew", extra={"messages": len(ours), "error": str(error)})
            refused = {copy.id for copy in copies}
        sent = [delivery.receipt for delivery in ours if delivery.receipt not in refused]
        try:
            self._queue.delete(sent)
        except (BotoCoreError, ClientError) as error:
            # They come back when their visibility timeout ends, and are answered a second time.
            _log.warning("could not delete what was sent anew", extra={"messages": len(sent), "error": str(error)})
        self._show([delivery for delivery in ours if delivery.receipt in refused], 0)

    def _show(self, deliveries: Sequence[Delivery], delay_seconds: int) -> None:
        """Let the received messages themselves be visible after `delay_seconds`."""
        try:
            self._queue.change_visibility([delivery.receipt for delivery in deliveries], delay_seconds)
        except (BotoCoreError, ClientError) as error:
            # They come back by themselves when their visibility timeout ends.
            _log.warning("could not give back", extra={"messages": len(deliveries), "error": str(error)})

    def _extend(self, expiring: Sequence[Delivery]) -> None:
        asked_at = self._clock()
        try:
            lost = self._queue.change_visibility(
                [delivery.receipt for delivery in expiring], self._visibility_seconds
            )
        except (BotoCoreError, ClientError) as error:
            # Tried again at the next look; if that is too late, another worker classifies them too, which is
            # harmless.
            _log.warning("could not extend visibility", extra={"messages": len(expiring), "error": str(error)})
            return
        if lost:
            _log.warning("no longer ours: another worker may classify them too", extra={"messages": len(lost)})
        self._in_hand.extended(expiring, asked_at)

    def _part_with_hung(self) -> None:
        """Leave what hangs to its visibility timeout, so that the try counts: the image may be the cause."""
        for delivery in self._in_hand.stuck(self._max_step_seconds):
            if self._in_hand.remove(delivery):
                image = delivery.request.image_id
                _log.error("gave up an image that never ended", extra={"image_id": image})
                self._on_hung(
                    f"image {image} was in one step for more than {self._max_step_seconds:g} s: a thread hangs"
                )

    def _run(self) -> None:
        # At a quarter of the timeout: each extension comes between a half and three quarters of it.
        while not self._ended.wait(self._visibility_seconds / 4):
            try:
                self.look()
            except Exception:  # noqa: BLE001 (the edge: without a extender, every image would be classified twice)
                _log.exception("the extender's look failed; it looks again")
