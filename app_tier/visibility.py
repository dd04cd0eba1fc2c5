"""Messages in flight: what this worker has received and not yet answered, kept invisible to other workers."""

import logging
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.task import Delivery, Task, new_task
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.sqs import BATCH, OutgoingMessage, Queue
from services.threads import DaemonThread

PRIORITY_SHARE = 0.1
"""The share of the messages in flight up to which a group's messages have priority, and all such messages together.

SQS's fair queues distinguish quiet groups from noisy ones by the same share (`OutgoingMessage.group`).
"""

FIRST_SECONDS: Final = 4
"""How long SQS hides a message that no heartbeat has named yet: only this timeout returns it if its worker is killed.
Named ones return when the instance is gone. A busy worker answers most messages sooner, without an extension."""

MORE_ROOM_SECONDS = 0.02
"""How long a receive waits until it can be a full one. SQS charges for each, but meanwhile an image waits that may
overtake all others."""

MAX_POSTPONED: Final = 1_000
"""Postponed deliveries for which there is room besides the others: they take little memory, and keep no worker from
images of other models. SQS allows all workers together 120,000."""


class _State(Enum):
    """Where a delivery is.

    | State     | Event                                                             | Next             |
    |-----------|-------------------------------------------------------------------|------------------|
    | held      | the receiver starts it                                            | started          |
    | started   | its model is not loaded                                           | waiting          |
    | waiting   | its model is loaded                                               | started, or held |
    | any       | it is to be given back later, and the queue cannot delay messages | postponed        |
    | any       | it is answered, given back, or left                               | removed          |
    """

    HELD = auto()
    STARTED = auto()
    WAITING = auto()
    POSTPONED = auto()


@dataclass(slots=True)
class _Entry:
    delivery: Delivery
    task: Task[None]
    held_since: float
    hidden_until: float
    hidden_seconds: float
    is_named: bool = False
    state: _State = _State.HELD
    model: str | None = None
    postponed_until: float = 0.0


class InFlightMessages:
    """Deliveries by receipt: held when received, started when the pipeline gets them, removed at the end.

    A delivery that waits until its model is loaded is in no stage of the pipeline and cannot end the worker, so it
    does not count as started. Then it starts anew. Only the receiver starts redelivered messages, each alone
    (`app_tier.receiver`). Others start at once, unless a redelivered one is started or held.

    `capacity`, the maximum of deliveries, bounds the worker's memory, and how many images idle workers do not get.
    `first_seconds` is the visibility timeout of a message that no heartbeat has named yet.
    """

    def __init__(
        self, capacity: int, visibility_seconds: int, clock: Clock = CLOCK, first_seconds: int | None = None
    ) -> None:
        self.capacity = capacity
        self._visibility_seconds = visibility_seconds
        self.first_seconds = min(first_seconds or visibility_seconds, visibility_seconds)
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._steps: dict[int, tuple[float, Callable[[], Sequence[Delivery]]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._busy_until = clock.monotonic()

    def __len__(self) -> int:
        """Return the number of deliveries in flight."""
        return len(self._entries)

    @property
    def started(self) -> int:
        """Deliveries in the pipeline."""
        with self._changed:
            return len(self._in(_State.STARTED))

    def hold(self, deliveries: Sequence[Delivery], asked_at: float) -> list[Delivery]:
        """Add deliveries and return them, each with priority or without.

        A message has priority if at most `PRIORITY_SHARE` of all messages in flight are of its group, and more of
        them are of another group. So an image of a user who sends few does not wait for the images of a user who
        sends many. Where many users send alike, none has priority.

        Args:
            deliveries: to add.
            asked_at: when the receive began, the earliest start of their timeout.
        """
        with self._changed:
            groups = Counter(entry.delivery.received.group for entry in self._entries.values())
            groups.update(delivery.received.group for delivery in deliveries)
            with_priority = sum(entry.delivery.has_priority for entry in self._entries.values())
            held, quiet_messages = [], PRIORITY_SHARE * groups.total()
            has_noisy_group = max(groups.values(), default=0) > quiet_messages
            for delivery in deliveries:
                group = delivery.received.group
                is_quiet = group is not None and groups[group] <= quiet_messages
                has_priority = has_noisy_group and is_quiet and with_priority < int(PRIORITY_SHARE * self.capacity)
                with_priority += has_priority
                ours = replace(delivery, has_priority=has_priority)
                self._entries[ours.receipt] = _Entry(
                    ours,
                    new_task(ours),
                    self._clock.monotonic(),
                    asked_at + self.first_seconds,
                    self.first_seconds,
                )
                held.append(ours)
            self._changed.notify_all()
        return held

    def start(self, delivery: Delivery) -> Task[None] | None:
        """Note that the pipeline gets `delivery`, and return its task.

        None if it was removed, as after 12 hours, or when closed: then it stays where it is, to be given back.
        """
        with self._changed:
            if self._closed or (entry := self._entries.get(delivery.receipt)) is None:
                return None
            entry.state = _State.STARTED
            return entry.task

    def remove(self, delivery: Delivery) -> bool:
        """Remove `delivery`; return False if it was removed already, so that only one caller decides what follows."""
        with self._changed:
            there = self._entries.pop(delivery.receipt, None) is not None
            self._busy_until = self._clock.monotonic()
            self._changed.notify_all()
            return there

    def take_back(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Remove `deliveries`; return those that are still invisible to other workers.

        A message is visible in the queue once its visibility timeout has ended.
        """
        now = self._clock.monotonic()
        with self._changed:
            entries = [self._entries.pop(delivery.receipt, None) for delivery in deliveries]
            self._busy_until = now
            self._changed.notify_all()
        return [entry.delivery for entry in entries if entry is not None and entry.hidden_until > now]

    def postpone(self, deliveries: Sequence[Delivery], until: float) -> bool:
        """Keep `deliveries` invisible until `until`, when they are `due`; return False if the worker ends."""
        with self._changed:
            if self._closed:
                return False
            for delivery in deliveries:
                if (entry := self._entries.get(delivery.receipt)) is not None:
                    entry.state, entry.model, entry.postponed_until = _State.POSTPONED, None, until
            self._changed.notify_all()
            return True

    def count_refusal(self, delivery: Delivery) -> None:
        """Count that S3 refuses the place of its model, for the request that replaces it when it is given back."""
        with self._changed:
            if (entry := self._entries.get(delivery.receipt)) is not None:
                request = entry.delivery.request
                refused = request.model_copy(update={"refusals": request.refusals + 1})
                entry.delivery = replace(entry.delivery, request=refused)

    def due(self) -> list[Delivery]:
        """Return the postponed deliveries with a time that has come."""
        now = self._clock.monotonic()
        with self._changed:
            return [each.delivery for each in self._in(_State.POSTPONED) if each.postponed_until <= now]

    # Models

    def assign(self, delivery: Delivery, model: str) -> None:
        """Note that `delivery` needs the loaded `model`, a digest, until it is removed or waits for a model."""
        with self._changed:
            if (entry := self._entries.get(delivery.receipt)) is not None:
                entry.model = model

    def wait_for_model(self, delivery: Delivery) -> None:
        """Note that `delivery` leaves the pipeline until its model is loaded, and needs no loaded model yet."""
        with self._changed:
            if (entry := self._entries.get(delivery.receipt)) is not None:
                entry.state, entry.model = _State.WAITING, None
                self._changed.notify_all()

    def resume(self, task: Task[None]) -> bool:
        """Note that `task` has its model now; return whether the pipeline gets it at once.

        Otherwise the receiver starts it, it was removed, or the worker ends and gives it back.
        """
        with self._changed:
            if (entry := self._entries.get(task.delivery.receipt)) is None:
                return False
            is_alone = (
                self._closed
                or task.delivery.redelivered
                or any(each.delivery.redelivered for each in self._in(_State.HELD, _State.STARTED))
            )
            entry.task, entry.state = task, _State.HELD if is_alone else _State.STARTED
            self._changed.notify_all()
            return not is_alone

    def ahead_of(self, delivery: Delivery) -> list[Delivery]:
        """Return the deliveries outside the pipeline that were tried as often as `delivery`, or more often.

        Of those that were tried as often, the receiver has put the held ones behind `delivery`: they stay.
        """
        with self._changed:
            aside = self._in(_State.WAITING, _State.POSTPONED)
            ahead = [each.delivery for each in aside if each.delivery.tries >= delivery.tries]
            held = [each.delivery for each in self._in(_State.HELD)]
        return [*ahead, *(each for each in held if each.tries > delivery.tries)]

    def holds(self, delivery: Delivery) -> bool:
        """Return whether `delivery` is in flight."""
        return delivery.receipt in self._entries

    def models(self) -> set[str]:
        """Return the digests of the loaded models that deliveries in flight need."""
        with self._changed:
            return {entry.model for entry in self._entries.values() if entry.model is not None}

    def wait_until_unneeded(self, models: Collection[str], seconds: float) -> None:
        """Wait until nothing in flight needs any of `models`, for up to `seconds`, or until closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.models().isdisjoint(models), seconds)

    def held(self) -> list[Delivery]:
        """Return the deliveries that the receiver is to start."""
        with self._changed:
            return [entry.delivery for entry in self._in(_State.HELD)]

    def outside(self) -> list[Delivery]:
        """Return the deliveries that are in no stage of the pipeline."""
        with self._changed:
            return [entry.delivery for entry in self._in(_State.HELD, _State.WAITING, _State.POSTPONED)]

    def everything(self) -> list[Delivery]:
        """Return all deliveries in flight."""
        with self._changed:
            return [entry.delivery for entry in self._entries.values()]

    # Names

    def has_unnamed(self, seconds: float) -> bool:
        """Return whether a delivery has been in flight for `seconds`, and no heartbeat has named it."""
        before = self._clock.monotonic() - seconds
        with self._changed:
            return any(not each.is_named and each.held_since <= before for each in self._entries.values())

    def mark_named(self, receipts: Iterable[str]) -> None:
        """Note that a heartbeat has named the deliveries of `receipts`, so that they may be hidden for longer."""
        with self._changed:
            for receipt in receipts:
                if (entry := self._entries.get(receipt)) is not None:
                    entry.is_named = True

    # Time

    def idle_seconds(self) -> float:
        """Return for how long nothing has been in flight; 0 while something is."""
        with self._changed:
            return 0.0 if self._entries else self._clock.monotonic() - self._busy_until

    def expiring(self) -> list[Delivery]:
        """Return the deliveries that have used half of their visibility timeout or more."""
        now = self._clock.monotonic()
        with self._changed:
            return [
                entry.delivery
                for entry in self._entries.values()
                if entry.hidden_until <= now + entry.hidden_seconds / 2
            ]

    def timeout(self, delivery: Delivery) -> int:
        """Return the visibility timeout, in seconds, with which `delivery` is extended."""
        with self._changed:
            entry = self._entries.get(delivery.receipt)
            return self._visibility_seconds if entry is not None and entry.is_named else self.first_seconds

    def older_than(self, seconds: float) -> list[Delivery]:
        """Return the deliveries that have been in flight for longer than `seconds`."""
        before = self._clock.monotonic() - seconds
        with self._changed:
            return [entry.delivery for entry in self._entries.values() if entry.held_since < before]

    def extended(self, deliveries: Sequence[Delivery], asked_at: float, seconds: int) -> None:
        """Note that the visibility timeout of `deliveries` was set to `seconds` at `asked_at`."""
        with self._changed:
            for delivery in deliveries:
                if entry := self._entries.get(delivery.receipt):
                    entry.hidden_until, entry.hidden_seconds = asked_at + seconds, seconds

    # Steps of the pipeline

    @contextmanager
    def step(self, deliveries: Callable[[], Sequence[Delivery]]) -> Iterator[None]:
        """Note that the calling thread does a step that keeps `deliveries`, as of the time of the call, waiting.

        No lock is needed, since only this thread writes it.
        """
        self._steps[threading.get_ident()] = (self._clock.monotonic(), deliveries)
        try:
            yield
        finally:
            del self._steps[threading.get_ident()]

    def stuck(self, seconds: float) -> list[Delivery]:
        """Return the deliveries in flight that have been in one step for longer than `seconds`."""
        before = self._clock.monotonic() - seconds
        slow = [one for since, deliveries in list(self._steps.values()) if since < before for one in deliveries()]
        return [one for one in slow if one.receipt in self._entries]

    # Waiting

    def wait_for_room(self, most: int, seconds: float) -> int:
        """Return how many more can be held, up to `most`; 0 if none can after `seconds`, or when closed.

        Where there is room for some, this waits for room for `most`, but only for `MORE_ROOM_SECONDS`. What is held
        already must be started first: then it returns 0 at once.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_to_stop_waiting() or self._room() >= 1, seconds)
            self._changed.wait_for(lambda: self._is_to_stop_waiting() or self._room() >= most, MORE_ROOM_SECONDS)
            return 0 if self._is_to_stop_waiting() else min(most, self._room())

    def wait_until_none_started(self, seconds: float) -> bool:
        """Wait until the pipeline is empty; False after `seconds`, or when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._in(_State.STARTED), seconds)
            return not self._closed and not self._in(_State.STARTED)

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until nothing is in flight, closed or not; False after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._entries, seconds)

    def close(self) -> None:
        """End the waits of those who want to take more; what is in flight stays."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_to_stop_waiting(self) -> bool:
        return self._closed or bool(self._in(_State.HELD))

    def _room(self) -> int:
        return max(0, self.capacity - len(self._entries) + min(MAX_POSTPONED, len(self._in(_State.POSTPONED))))

    def _in(self, *states: _State) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.state in states]


MAX_CHECK_SECONDS: Final = 15.0
"""Longest time between two checks: postponed deliveries are given back by one."""

MAX_DUE: Final = 100
"""Postponed deliveries that one check gives back."""

MAX_SECONDS = 12 * 3600 - 60
"""SQS ends an invisibility 12 hours after the receive, however often it is extended.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

LEAVE_SECONDS = (2, 10)
"""A message that is left to its queue is received again after so many seconds, at least and at most."""

_log = logging.getLogger(__name__)


class VisibilityExtender:
    """Extends the visibility timeout of messages in flight, and gives back those that will not be answered.

    One lock covers each decision and its call, so that no message that was given back is hidden again.

    An image that is in one step of the pipeline for more than `max_step_seconds` hangs, and its thread is lost:
    `on_hung` is called with the reason.
    """

    def __init__(
        self,
        queue: Queue,
        in_flight: InFlightMessages,
        visibility_seconds: int,
        max_step_seconds: float,
        on_hung: Callable[[str], None],
        clock: Clock = CLOCK,
        *,
        jitter: Callable[[int, int], int] = random.randint,
    ) -> None:
        self._queue, self._in_flight, self._on_hung = queue, in_flight, on_hung
        self._clock, self._jitter = clock, jitter
        self._visibility_seconds, self._max_step_seconds = visibility_seconds, max_step_seconds
        self._calling = threading.Lock()
        self._ended = threading.Event()
        self._thread = DaemonThread(self._run, name="extender")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._ended.set()

    def check(self) -> None:
        """Extend what has used half of its timeout; drop what hangs; give back what SQS would make visible."""
        for delivery in self._in_flight.stuck(self._max_step_seconds):
            # Its timeout ends, so that the try counts: the image may be the cause.
            if self._in_flight.remove(delivery):
                image = delivery.request.image_id
                _log.error("gave up an image that hangs", extra={"image_id": image})
                self._on_hung(
                    f"image {image} was in one step for more than {self._max_step_seconds:g} s: a thread hangs"
                )
        self.give_back(self._in_flight.older_than(MAX_SECONDS))
        with self._calling:
            by_timeout = defaultdict[int, list[Delivery]](list)
            for delivery in self._in_flight.expiring():
                by_timeout[self._in_flight.timeout(delivery)].append(delivery)
            for seconds, expiring in by_timeout.items():
                self._extend(expiring, seconds)
        # A few: each costs two calls, and meanwhile nothing is extended.
        self.give_back(self._in_flight.due()[:MAX_DUE])

    def give_back(self, deliveries: Sequence[Delivery], delay_seconds: int = 0) -> None:
        """Remove `deliveries` and return them to the queue, as if they had not been received.

        A standard queue delivers them after `delay_seconds`. A FIFO queue cannot delay a message: there, they stay in
        flight for so long, and are returned by the following `check`.

        SQS counts every receive, and does not distinguish a crash from a return. So the request is sent again, with
        the tries that it had before, and only then is the received message deleted. If the worker dies in between,
        there are two messages, which are answered alike. If SQS refuses the send, the message itself is made visible;
        if SQS does not answer, it becomes visible when its timeout ends. Then the try counts.
        """
        is_delayed = delay_seconds and self._queue.fifo
        if is_delayed and self._in_flight.postpone(deliveries, self._clock.monotonic() + delay_seconds):
            return
        for batch in in_batches(deliveries, BATCH):
            with self._calling:
                self._give_back_batch(self._in_flight.take_back(batch), delay_seconds)

    def leave(self, deliveries: Sequence[Delivery]) -> None:
        """Remove `deliveries` and let them be received again after some seconds; the try counts."""
        with self._calling:
            self._show(self._in_flight.take_back(deliveries), self._jitter(*LEAVE_SECONDS))

    def _give_back_batch(self, ours: Sequence[Delivery], delay_seconds: int) -> None:
        copies = [
            OutgoingMessage(delivery.receipt, delivery.given_back().to_json(), delivery.received.group, delay_seconds)
            for delivery in ours
        ]
        try:
            refused = {copy.id for copy in self._queue.send(copies)}
        except BotoCoreError as error:
            _log.warning("could not give back", extra={"messages": len(ours), "error": str(error)})
            return
        except ClientError as error:
            _log.warning("could not send requests again", extra={"messages": len(ours), "error": str(error)})
            refused = {copy.id for copy in copies}
        sent = [delivery.receipt for delivery in ours if delivery.receipt not in refused]
        try:
            self._queue.delete(sent)
        except (BotoCoreError, ClientError) as error:
            # They come back when their visibility timeout ends, and are answered a second time.
            _log.warning(
                "could not delete messages that were sent again", extra={"messages": len(sent), "error": str(error)}
            )
        self._show([delivery for delivery in ours if delivery.receipt in refused], delay_seconds)

    def _show(self, deliveries: Sequence[Delivery], delay_seconds: int) -> None:
        """Make the received messages themselves visible after `delay_seconds`."""
        try:
            self._queue.change_visibility([delivery.receipt for delivery in deliveries], delay_seconds)
        except (BotoCoreError, ClientError) as error:
            # They come back by themselves when their visibility timeout ends.
            _log.warning("could not give back", extra={"messages": len(deliveries), "error": str(error)})

    def _extend(self, expiring: Sequence[Delivery], seconds: int) -> None:
        asked_at = self._clock.monotonic()
        try:
            lost = self._queue.change_visibility([delivery.receipt for delivery in expiring], seconds)
        except (BotoCoreError, ClientError) as error:
            # Tried again at the next check; if that is too late, another worker also classifies them, which is
            # harmless.
            _log.warning("could not extend visibility", extra={"messages": len(expiring), "error": str(error)})
            return
        if lost:
            _log.warning(
                "the visibility timeout has ended: another worker may also classify them",
                extra={"messages": len(lost)},
            )
        self._in_flight.extended(expiring, asked_at, seconds)

    def _run(self) -> None:
        # At an eighth of the shorter timeout: each extension comes between a half and five eighths of it.
        while not self._ended.wait(min(self._in_flight.first_seconds / 8, MAX_CHECK_SECONDS)):
            try:
                self.check()
            except Exception:  # noqa: BLE001 (the edge: without an extender, every image would be classified twice)
                _log.warning("visibility timeouts could not be extended; trying again", exc_info=True)
