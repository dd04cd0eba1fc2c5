"""The receiver: long polls for no more messages than can be held."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.recovery import At, StepRecovery, classify_error
from app_tier.task import Delivery, Task, new_task
from core.messages import RequestMessage
from services.errors import MessageError
from services.sqs import BATCH, MAX_IN_FLIGHT, MAX_VISIBILITY_SECONDS, OutgoingMessage, Queue, ReceivedMessage

OVER_LIMIT = "OverLimit"
"""The error of a short poll of a standard queue that has `MAX_IN_FLIGHT` messages in flight."""

POLL_SECONDS = 1
"""Longest wait of one receive: SQS allows 20.

A message that is delivered to a poll of a worker that has gone stays invisible until its timeout. So a poll in flight
is always waited for, and it must not make a stop wait. A second costs at most `idle_seconds` requests before the
worker ends itself, and still asks all of SQS's servers, as every long poll does.
"""

MALFORMED_RECEIVES = 5
"""Receives after which a message that is no request becomes a dead letter."""

UNREACHABLE_SECONDS = 300.0
"""A worker that cannot receive for so long ends: it bills without working."""

RECEIVE = "receive"
"""Name of the receiver's activity for the backoff."""

_log = logging.getLogger(__name__)


class Receiver:
    """Feeds the pipeline until the worker is idle or ends for another reason.

    `submit` passes a request to the first stage. The worker is idle after `idle_seconds` without a message. Messages
    that are no requests go to `dead_letters`.
    """

    def __init__(
        self,
        queue: Queue,
        dead_letters: Queue,
        recovery: StepRecovery,
        submit: Callable[[Task[None]], None],
        *,
        idle_seconds: float,
    ) -> None:
        self._queue, self._dead_letters, self._submit = queue, dead_letters, submit
        self._in_flight, self._extender = recovery.in_flight, recovery.extender
        self._lifetime, self._backoff = recovery.lifetime, recovery.backoff
        self._idle_seconds, self._clock = idle_seconds, recovery.clock
        self._stayed_at = float("-inf")
        self._failing_since: float | None = None

    def run(self) -> None:
        """Receive until the end."""
        while not self._lifetime.over:
            if (pause := self._backoff.pause_seconds()) and self._lifetime.wait(pause):
                break
            if room := self._in_flight.wait_for_room(min(BATCH, self._in_flight.capacity)):
                self._receive_once(room)

    def _receive_once(self, room: int) -> None:
        # Read before the poll: the last poll is one that began when the worker was idle already, so a message that
        # arrives as the time ends is still received.
        idle_for = min(self._in_flight.idle_seconds(), self._clock.monotonic() - self._stayed_at)
        idle = idle_for >= self._idle_seconds
        asked_at = self._clock.monotonic()
        try:
            received = self._queue.receive(room, 0 if idle else POLL_SECONDS, self._in_flight.first_seconds)
        except Exception as error:  # noqa: BLE001 (the edge: `_on_error` decides what follows)
            self._on_error(error, asked_at)
            return
        self._failing_since = None
        self._backoff.succeeded(RECEIVE)
        if received:
            deliveries, malformed = parse_messages(received)
            self._bury(malformed)
            for delivery in self._in_flight.hold(deliveries, asked_at):
                if self._lifetime.over:
                    self._extender.give_back([delivery])
                else:
                    self._submit(new_task(delivery))
        elif idle and (self._is_starved() or not self._lifetime.stop_if_idle(f"idle for {self._idle_seconds:g} s")):
            self._stayed_at = self._clock.monotonic()

    def _is_starved(self) -> bool:
        """Return True if messages wait in a FIFO queue that has too many messages in flight to deliver one.

        A standard queue answers the last poll, which is a short one, with `OVER_LIMIT` instead. Counts are
        approximate, so half the limit counts as full, and they may be a minute old. A worker that cannot read them
        ends, which costs one boot. After `MAX_VISIBILITY_SECONDS` every message has been visible again, so they are
        wrong.
        """
        if not self._queue.fifo or self._in_flight.idle_seconds() > MAX_VISIBILITY_SECONDS:
            return False
        try:
            counts = self._queue.counts()
        except (BotoCoreError, ClientError) as error:
            _log.warning("could not read the counts of the request queue", extra={"error": str(error)})
            return False
        if starved := counts.visible > 0 and counts.in_flight >= MAX_IN_FLIGHT / 2:
            _log.warning("too many messages are in flight; the worker waits", extra=asdict(counts))
        return starved

    def _bury(self, malformed: Iterable[ReceivedMessage]) -> None:
        """Move messages that are no requests to the dead letters, once they were received often enough."""
        old = (message for message in malformed if message.receive_count >= MALFORMED_RECEIVES)
        letters = [OutgoingMessage(message.receipt, message.body, message.group) for message in old]
        try:
            kept = {letter.id for letter in self._dead_letters.send(letters)}
            self._queue.delete([letter.id for letter in letters if letter.id not in kept])
        except (BotoCoreError, ClientError) as error:  # they come again
            _log.warning("could not move messages to the dead letters", extra={"error": str(error)})

    def _on_error(self, error: Exception, asked_at: float) -> None:
        fault = classify_error(error)
        if fault.at is At.WORKER:
            self._lifetime.fail(f"cannot receive: {fault.reason}")
            return
        if isinstance(error, ClientError) and error.response["Error"]["Code"] == OVER_LIMIT:
            # Messages wait and SQS answers: neither idle nor unreachable.
            self._failing_since, self._stayed_at = None, self._clock.monotonic()
        elif self._failing_since is None:
            self._failing_since = asked_at
        elif self._clock.monotonic() - self._failing_since > UNREACHABLE_SECONDS:
            self._lifetime.fail(f"no answer from the request queue for {UNREACHABLE_SECONDS:g} s: {error}")
            return
        _log.warning("could not receive; will try again", extra={"error": str(error)})
        self._backoff.failed(RECEIVE)


def parse_messages(received: Iterable[ReceivedMessage]) -> tuple[list[Delivery], list[ReceivedMessage]]:
    """Return the deliveries of requests, and the other messages, which cannot be answered."""
    deliveries, malformed = list[Delivery](), list[ReceivedMessage]()
    for message in received:
        try:
            request = RequestMessage.from_json(message.body)
        except MessageError as error:
            malformed.append(message)
            more = {"message_id": message.id, "receive_count": message.receive_count, "error": str(error)}
            _log.warning("not a request", extra=more)
        else:
            deliveries.append(Delivery(message, request, request.suspect or message.receive_count > 1))
    return deliveries, malformed
