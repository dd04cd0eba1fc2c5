"""The receiver: long polls for no more messages than can be held, and redelivered messages one by one.

**Redelivered messages.** A message that comes again may be the one that ended its last worker. Its batch-mates must
get their results before they have been tried `max_receive_count` (5) times, or they fail with it. Each crash costs
every message in flight one try, and nothing else does: a worker that ends in good order gives its requests back with
the tries that they had (`VisibilityExtender.give_back`). So what counts is which messages are in flight when the
poison image is tried:

1. A redelivered message goes through the pipeline alone: what is in the pipeline is finished first, and it is
   finished before the next one starts. So only those that wait behind the poison image lose a try to it. One that
   finds its model not loaded leaves the pipeline, and delays nothing: once the model is loaded, it is held again, and
   has another turn between two receives. Messages that wait for a model and were tried as often as the redelivered
   one, or more often, are given back before it is fetched (`Pipeline`), so they lose no try to it.
2. Of one receive, the fresh messages are finished first, then the redelivered ones, those tried most often first;
   of equals, by image: ascending where the count is even, descending where it is odd (`poison_safe_order`).
3. The first receive of a worker, and each after one that brought a redelivered message, asks for one message only.

Why that is enough. Say the poison image P and a mate m are received together, fresh, and P kills the worker: both
come back with count 2. Where they do not meet again, m loses nothing more. Where they meet at equal counts and P goes
first, they come back with counts of one more, where the order is reversed: m goes first, and has its result by its
third try. If m is ahead (something else ended a worker of its) it goes first. If P is ahead, P reaches its last
try and fails while m, at least one behind, has a try left and P is no longer there to spoil it. So a single poison
image never takes a mate along. Several could, if they came together each time with a mate between them in the order;
rule 3 makes that unlikely: once fresh messages run out, redelivered ones are received without mates.

SQS makes a dead letter of a message that was received too often. It knows nothing of the tries of messages that this
one replaces, so a worker that receives a request beyond its last try answers it itself (`Pipeline.submit`).

**Polls of a second.** SQS allows 20, but a message that is delivered to a poll of a worker that has gone stays
invisible until its timeout. So a poll in flight is always waited for, and it must not make a stop wait. A second
costs at most `idle_seconds` requests before the worker ends itself, and still asks all of SQS's servers, as every
long poll does.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.lifecycle import Lifetime
from app_tier.recovery import FailureBackoff, FatalError, classify_error
from app_tier.task import Delivery, Task
from app_tier.visibility import InFlightMessages, VisibilityExtender
from core.jobs.buckets import check_key
from core.messages import RequestMessage
from services.clock import CLOCK, Clock
from services.errors import MessageError
from services.sqs import BATCH, MAX_IN_FLIGHT, MAX_VISIBILITY_SECONDS, Queue, ReceivedMessage

OVER_LIMIT = "OverLimit"
"""The error of a short poll of a standard queue that has `MAX_IN_FLIGHT` messages in flight."""

POLL_SECONDS = 1
"""Longest wait of one receive; see the module's docstring."""

WAIT_SECONDS = 60.0
"""How often a wait for room or for the pipeline is logged; it ends with the worker in any case."""

UNREACHABLE_SECONDS = 300.0
"""A worker that cannot receive for so long ends: it bills without working."""

RECEIVE = "receive"
"""Name of the receiver's activity for the backoff."""

_log = logging.getLogger(__name__)


class Receiver:
    """Feeds the pipeline until the worker is idle or ends for another reason.

    `submit` passes an image to the first stage. The worker is idle after `idle_seconds` without a message.
    """

    def __init__(
        self,
        queue: Queue,
        in_flight: InFlightMessages,
        extender: VisibilityExtender,
        lifetime: Lifetime,
        backoff: FailureBackoff,
        submit: Callable[[Task[None]], None],
        *,
        idle_seconds: float,
        clock: Clock = CLOCK,
    ) -> None:
        self._queue, self._in_flight, self._extender = queue, in_flight, extender
        self._lifetime, self._backoff, self._submit = lifetime, backoff, submit
        self._idle_seconds, self._clock = idle_seconds, clock
        self._stayed_at = float("-inf")
        self._is_probing = True
        self._failing_since: float | None = None

    def run(self) -> None:
        """Receive until the end."""
        while not self._lifetime.over:
            if (pause := self._backoff.pause_seconds()) and self._lifetime.wait(pause):
                break
            self._start_held()
            if room := self._in_flight.wait_for_room(self._max_messages(), WAIT_SECONDS):
                self._receive_once(room)
        self._extender.give_back(self._in_flight.held())

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
            deliveries = self._in_flight.hold(parse_messages(received), asked_at)
            self._is_probing = any(delivery.redelivered for delivery in deliveries)
            self._start_held()
        elif idle and (self._is_starved() or not self._lifetime.stop_if_idle(f"idle for {self._idle_seconds:g} s")):
            self._stayed_at = self._clock.monotonic()

    def _is_starved(self) -> bool:
        """Return True if messages wait in a FIFO queue that has too many messages in flight to deliver one.

        Only the counts of a FIFO queue show this. A standard queue answers the last poll, which is a short one, with
        `OVER_LIMIT`. Counts are approximate, so half the limit counts as full. They may be a minute old: a queue
        that is not full lets its worker end even if they still show messages. A worker that cannot read them ends,
        which costs one boot. After `MAX_VISIBILITY_SECONDS` every message has been visible again, so the counts are
        wrong and the worker ends.
        """
        if not self._queue.fifo or self._in_flight.idle_seconds() > MAX_VISIBILITY_SECONDS:
            return False
        try:
            counts = self._queue.counts()
        except (BotoCoreError, ClientError) as error:
            _log.warning("could not read the counts of the request queue", extra={"error": str(error)})
            return False
        starved = counts.visible > 0 and counts.in_flight >= MAX_IN_FLIGHT / 2
        if starved:
            _log.warning("too many messages are in flight; the worker waits", extra=asdict(counts))
        return starved

    def _max_messages(self) -> int:
        """Return how many messages to receive if there is room for all."""
        return 1 if self._is_probing else min(BATCH, self._in_flight.capacity)

    def _start_held(self) -> None:
        """Start what was received, and what has waited for its model: all fresh messages, then a redelivered one.

        Return when none is left, and the last redelivered one has ended or waits for its model.
        """
        while not self._lifetime.over and (held := self._in_flight.held()):
            for delivery in held:
                if not delivery.redelivered:
                    self._start(delivery)
            if any(delivery.redelivered for delivery in held):
                self._wait_for_empty_pipeline()
                for delivery in poison_safe_order(each for each in self._in_flight.held() if each.redelivered)[:1]:
                    self._start(delivery)
                self._wait_for_empty_pipeline()

    def _start(self, delivery: Delivery) -> None:
        """Pass a delivery to the pipeline, unless the worker ends or the extender has given it back meanwhile."""
        if not self._lifetime.over and (task := self._in_flight.start(delivery)) is not None:
            self._submit(task)

    def _wait_for_empty_pipeline(self) -> None:
        while not (self._lifetime.over or self._in_flight.wait_until_none_started(WAIT_SECONDS)):
            _log.info("waiting for the pipeline to be empty", extra={"in_hand": len(self._in_flight)})

    def _on_error(self, error: Exception, asked_at: float) -> None:
        fault = classify_error(error)
        if isinstance(fault, FatalError):
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


def poison_safe_order(redelivered: Iterable[Delivery]) -> list[Delivery]:
    """Return redelivered messages in the order in which they are tried, each alone; see the module's docstring."""
    ascending = sorted(redelivered, key=lambda delivery: delivery.request.image_id)
    even = [delivery for delivery in ascending if delivery.tries % 2 == 0]
    odd = [delivery for delivery in reversed(ascending) if delivery.tries % 2]
    return sorted(even + odd, key=lambda delivery: -delivery.tries)


def parse_messages(received: Iterable[ReceivedMessage]) -> list[Delivery]:
    """Return the deliveries of the messages that are requests.

    Any other message is not touched: it names no image that could be answered. It is received again after its
    visibility timeout, and after `max_receive_count` receives SQS moves it to the dead-letter queue. Each time is
    logged.
    """
    deliveries = []
    for message in received:
        try:
            request = RequestMessage.from_json(message.body)
            check_key(request)
            deliveries.append(Delivery(message, request))
        except MessageError as error:
            more = {"message_id": message.id, "receive_count": message.receive_count, "error": str(error)}
            _log.warning("not a request; left for the dead-letter queue", extra=more)
    return deliveries
