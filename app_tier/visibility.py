"""Messages in flight: what this worker has received and not yet answered, kept invisible to other workers."""

import logging
import math
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.task import Delivery, Task
from core.messages import ClassificationResult
from services.batches import in_batches
from services.clock import CLOCK, Clock
from services.sqs import BATCH, MAX_VISIBILITY_SECONDS, OutgoingMessage, Queue
from services.threads import DaemonThread

PRIORITY_SHARE = 0.1
"""The share of the images in flight up to which a group's messages have priority, and all such messages together.
SQS's fair queues distinguish quiet groups from noisy ones by the same share (`OutgoingMessage.group`)."""

FIRST_SECONDS: Final = 2
"""How long SQS hides a message that no heartbeat has named yet: only this timeout returns it if its worker is killed.
Named ones return when the instance is gone. A busy worker answers most messages sooner, without an extension."""

MORE_ROOM_SECONDS = 0.02
"""How long a receive waits until it can be a full one: SQS charges for each, but an urgent image may wait."""

MAX_POSTPONED: Final = 1_000
"""Postponed deliveries for which there is room besides the others: they take little memory, and keep no worker from
images of other models. SQS allows all workers together 120,000."""


@dataclass(slots=True)
class _Entry:
    delivery: Delivery
    hidden_until: float
    held_since: float
    hidden_seconds: int
    is_named: bool = False
    is_started: bool = True
    model: str | None = None
    postponed_until: float = math.inf
    answers: dict[int, Task[ClassificationResult] | None] = field(default_factory=dict)
    """By place; None for an image that is left out."""

    @property
    def images(self) -> int:
        """Its images without an answer; one while the answers are on their way, which bounds their number."""
        return max(1, self.delivery.images - len(self.answers))


class InFlightMessages:
    """Deliveries by receipt, from their receive until they are answered, given back or left.

    A delivery that waits until its model is loaded is in no stage of the pipeline, so it does not count as started.

    Each gathers the answers of its images. While `capacity` images are in flight, nothing is received: it bounds the
    worker's memory, and how many images idle workers do not get. A last pack may exceed it.
    `first_seconds` is the visibility timeout of a message that no heartbeat has named yet.
    """

    def __init__(self, capacity: int, first_seconds: int, clock: Clock = CLOCK) -> None:
        self.capacity, self.first_seconds, self._clock = capacity, first_seconds, clock
        self._entries: dict[str, _Entry] = {}
        self._last_sizes = deque[int](maxlen=BATCH)
        self._steps: dict[int, tuple[float, Callable[[], Sequence[Delivery]]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._busy_until = clock.monotonic()

    def __len__(self) -> int:
        """Return the number of images in flight."""
        return self._images(lambda _: True)

    @property
    def started(self) -> int:
        """Images in the pipeline."""
        return self._images(lambda entry: entry.is_started)

    def hold(self, deliveries: Sequence[Delivery], asked_at: float) -> list[Delivery]:
        """Add deliveries, which are started, and return them, each with priority or without.

        A message has priority if at most `PRIORITY_SHARE` of all images in flight are of its group, and more of
        them are of another group. So an image of a user who sends few does not wait for the images of a user who
        sends many. Where many users send alike, none has priority.

        Their first timeout began at `asked_at`, with the receive, at the earliest.
        """
        with self._changed:
            for delivery in deliveries:
                self._last_sizes.append(delivery.images)
                hidden_until, held_since = asked_at + self.first_seconds, self._clock.monotonic()
                self._entries[delivery.receipt] = _Entry(delivery, hidden_until, held_since, self.first_seconds)
            groups = Counter[str | None]()
            for entry in self._entries.values():
                groups[entry.delivery.received.group] += entry.images
            quiet_images = PRIORITY_SHARE * groups.total()
            has_noisy_group = max(groups.values(), default=0) > quiet_images
            room = int(PRIORITY_SHARE * self.capacity) - self._images(lambda entry: entry.delivery.has_priority)
            for entry in (held := [self._entries[delivery.receipt] for delivery in deliveries]):
                group = entry.delivery.received.group
                is_quiet = group is not None and groups[group] <= quiet_images
                if has_noisy_group and is_quiet and entry.images <= room:
                    room -= entry.images
                    entry.delivery = replace(entry.delivery, has_priority=True)
            return [entry.delivery for entry in held]

    def start(self, delivery: Delivery) -> bool:
        """Note that the pipeline gets `delivery`, which waited; return False if it was removed, or when closed."""
        with self._changed:
            if self._closed or (entry := self._entries.get(delivery.receipt)) is None:
                return False
            entry.is_started = True
            return True

    def remove(self, deliveries: Sequence[Delivery], *, only_hidden: bool = False) -> list[Delivery]:
        """Remove `deliveries`; return those that were in flight, so that only one caller decides what follows.

        Those that are neither deleted nor given back are received again after their visibility timeout. With
        `only_hidden`, those are left out that other workers may have received by now, since it has ended.
        """
        now = self._clock.monotonic()
        with self._changed:
            found = [(each, self._entries.pop(each.receipt, None)) for each in deliveries]
            self._busy_until = now if found else self._busy_until
            self._changed.notify_all()
        return [each for each, entry in found if entry and (entry.hidden_until > now or not only_hidden)]

    def set_aside(self, deliveries: Sequence[Delivery], until: float = math.inf) -> bool:
        """Note that `deliveries` leave the pipeline, and need no loaded model; return False if the worker ends.

        They wait until their model is loaded, or are postponed until `until`, when they are `due`.
        """
        with self._changed:
            for delivery in deliveries:
                if (entry := self._entries.get(delivery.receipt)) is not None:
                    entry.delivery, entry.postponed_until = delivery, until
                    entry.is_started, entry.model = False, None
                    entry.answers = {place: each for place, each in entry.answers.items() if each is not None}
            self._changed.notify_all()
            return not self._closed

    def due(self) -> list[Delivery]:
        """Return the postponed deliveries with a time that has come."""
        now = self._clock.monotonic()
        return self._where(lambda entry: entry.postponed_until <= now)

    # Answers

    def add_answer(self, answer: Task[ClassificationResult]) -> list[Task[ClassificationResult]] | None:
        """Add the answer of an image; return those of all images of its delivery if this is the last, else None.

        An answer of a delivery that was removed is dropped: its message comes again.
        """
        return None if answer.place is None else self._gather(answer.delivery, answer.place, answer)

    def leave_out(self, delivery: Delivery, place: int) -> list[Task[ClassificationResult]] | None:
        """Note that a later message asks for the image at `place`; return what `add_answer` returns.

        The answers are those of the other images, and none if all are left out.
        """
        return self._gather(delivery, place, None)

    def left_out(self, delivery: Delivery) -> list[int]:
        """Return the places of the images of `delivery` that are left out; none if it was removed."""
        with self._changed:
            entry = self._entries.get(delivery.receipt)
            return [] if entry is None else sorted(place for place, each in entry.answers.items() if each is None)

    def _gather(
        self, delivery: Delivery, place: int, answer: Task[ClassificationResult] | None
    ) -> list[Task[ClassificationResult]] | None:
        with self._changed:
            if (entry := self._entries.get(delivery.receipt)) is None:
                return None
            entry.answers[place] = answer
            if len(entry.answers) < delivery.images:
                self._changed.notify_all()
                return None
            gathered = (entry.answers[place] for place in delivery.request.places)
            return [each for each in gathered if each is not None]

    def open_places(self, delivery: Delivery) -> list[int]:
        """Return the places of the images of `delivery` without an answer; none if it was removed."""
        with self._changed:
            entry = self._entries.get(delivery.receipt)
            return [] if entry is None else [each for each in delivery.request.places if each not in entry.answers]

    # Models

    def assign(self, delivery: Delivery, model: str) -> None:
        """Note that `delivery` needs the loaded `model`, a digest, until it is removed or waits for a model."""
        with self._changed:
            if (entry := self._entries.get(delivery.receipt)) is not None:
                entry.model = model

    def models(self) -> set[str]:
        """Return the digests of the loaded models that deliveries in flight need."""
        with self._changed:
            return {entry.model for entry in self._entries.values() if entry.model is not None}

    def wait_until_unneeded(self, models: Collection[str], seconds: float) -> None:
        """Wait until nothing in flight needs any of `models`, for up to `seconds`, or until closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self.models().isdisjoint(models), seconds)

    def outside(self) -> list[Delivery]:
        """Return the deliveries that are in no stage of the pipeline."""
        return self._where(lambda entry: not entry.is_started)

    def everything(self) -> list[Delivery]:
        """Return all deliveries in flight."""
        return self._where(lambda _: True)

    # Names

    def has_unnamed(self, seconds: float) -> bool:
        """Return whether a delivery has been in flight for `seconds`, and no heartbeat has named it."""
        before = self._clock.monotonic() - seconds
        return bool(self._where(lambda entry: not entry.is_named and entry.held_since <= before))

    def mark_named(self, receipts: Iterable[str]) -> None:
        """Note that a heartbeat has named the deliveries of `receipts`, so that they may be hidden for longer."""
        with self._changed:
            for receipt in self._entries.keys() & receipts:
                self._entries[receipt].is_named = True

    # Time

    def idle_seconds(self) -> float:
        """Return for how long nothing has been in flight; 0 while something is."""
        with self._changed:
            return 0.0 if self._entries else self._clock.monotonic() - self._busy_until

    def expiring(self, *, is_named: bool) -> list[Delivery]:
        """Return the deliveries, named or not, that have used half of their visibility timeout or more.

        Not those with a timeout that SQS did not extend since it had ended.
        """
        now = self._clock.monotonic()
        return self._where(
            lambda entry: (
                entry.is_named == is_named and -math.inf < entry.hidden_until <= now + entry.hidden_seconds / 2
            )
        )

    def extended(self, deliveries: Sequence[Delivery], lost: Collection[str], asked_at: float, seconds: int) -> None:
        """Note that the visibility timeout of `deliveries` is `seconds` from `asked_at`; that of `lost` had ended.

        Other workers may have received these by now: what is given back is not sent again.
        """
        with self._changed:
            for delivery in deliveries:
                if entry := self._entries.get(delivery.receipt):
                    entry.hidden_until = -math.inf if delivery.receipt in lost else asked_at + seconds
                    entry.hidden_seconds = seconds

    # Steps of the pipeline

    @contextmanager
    def step(self, deliveries: Callable[[], Sequence[Delivery]]) -> Iterator[None]:
        """Note that the calling thread does a step that keeps `deliveries`, as of the time of the call, waiting.

        No lock is needed, since only this thread writes it. A step within it ends it.
        """
        self._steps[threading.get_ident()] = (self._clock.monotonic(), deliveries)
        try:
            yield
        finally:
            self._steps.pop(threading.get_ident(), None)

    def stuck(self, seconds: float) -> list[Delivery]:
        """Return the deliveries in flight that have been in one step for longer than `seconds`."""
        before = self._clock.monotonic() - seconds
        slow = [one for since, deliveries in list(self._steps.values()) if since < before for one in deliveries()]
        return [one for one in slow if one.receipt in self._entries]

    # Waiting

    def wait_for_room(self, most: int, seconds: float | None = None) -> int:
        """Return how many more messages can be held, up to `most`; 0 if none can after `seconds`, or when closed.

        Where there is room for some, this waits for room for `most`, but only for `MORE_ROOM_SECONDS`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._room() >= 1, seconds)
            most = min(most, self._messages(self.capacity))
            self._changed.wait_for(lambda: self._closed or self._room() >= most, MORE_ROOM_SECONDS)
            return 0 if self._closed else min(most, self._room())

    def wait_until_empty(self, seconds: float) -> bool:
        """Wait until nothing is in flight, closed or not; False after `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._entries, seconds)

    def close(self) -> None:
        """End the waits of those who want to take more; what is in flight stays."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _where(self, condition: Callable[[_Entry], bool]) -> list[Delivery]:
        with self._changed:
            return [entry.delivery for entry in self._entries.values() if condition(entry)]

    def _images(self, condition: Callable[[_Entry], bool]) -> int:
        with self._changed:
            return sum(entry.images for entry in self._entries.values() if condition(entry))

    def _room(self) -> int:
        postponed = [entry.images for entry in self._entries.values() if entry.postponed_until < math.inf]
        return self._messages(self.capacity - len(self) + sum(postponed[:MAX_POSTPONED]))

    def _messages(self, images: int) -> int:
        """Return how many messages so many images are, at least one, by the last requests; a first may be large."""
        mean = sum(self._last_sizes) / len(self._last_sizes) if self._last_sizes else self.capacity
        return max(1, int(images / mean)) if images > 0 else 0


MAX_CHECK_SECONDS: Final = 15.0
"""Longest time between two checks: postponed deliveries are given back by one."""

_log = logging.getLogger(__name__)


class VisibilityExtender:
    """Extends the visibility timeout of messages in flight, and gives back those that will not be answered.

    The timeout of a message that a heartbeat has named is random, `visibility_seconds` to twice that: what a worker
    had in flight does not come back together, nor in step with what ends workers. One lock covers each decision and
    its call, so that no message that was given back is hidden again.

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
        """Extend the timeouts that end soon; drop what hangs; give back what was postponed until now."""
        # Their timeouts end, so they are received again: one may be the cause.
        for delivery in self._in_flight.remove(self._in_flight.stuck(self._max_step_seconds)):
            pack = delivery.request.pack_id
            _log.error("gave up a pack that hangs", extra={"pack_id": pack})
            self._on_hung(f"pack {pack} was in one step for more than {self._max_step_seconds:g} s: a thread hangs")
        with self._calling:
            self._extend(self._in_flight.expiring(is_named=False), self._in_flight.first_seconds)
            seconds = self._jitter(self._visibility_seconds, 2 * self._visibility_seconds)
            self._extend(self._in_flight.expiring(is_named=True), min(seconds, MAX_VISIBILITY_SECONDS))
        self.give_back(self._in_flight.due())

    def give_back(self, deliveries: Sequence[Delivery], delay_seconds: int = 0) -> None:
        """Remove `deliveries` and return them to the queue, as if they had not been received.

        A standard queue delivers them after `delay_seconds`. A FIFO queue cannot delay a message: there, they stay in
        flight for so long, and are returned by the following `check`.

        The request is sent again, as a message that no worker has received, and only then is the received message
        deleted. If the worker dies in between, there are two messages, which are answered alike. If SQS refuses the
        send, the message itself is made visible; if SQS does not answer, it becomes visible when its timeout ends.
        """
        until = self._clock.monotonic() + delay_seconds
        if delay_seconds and self._queue.fifo and self._in_flight.set_aside(deliveries, until):
            return
        for batch in in_batches(deliveries, BATCH):
            with self._calling:
                self._replace(self._in_flight.remove(batch, only_hidden=True), delay_seconds)

    def _replace(self, ours: Sequence[Delivery], delay_seconds: int) -> None:
        copies = [
            OutgoingMessage(
                delivery.receipt,
                delivery.request.model_copy(update={"suspect": delivery.is_suspect}).to_json(),
                delivery.received.group,
                delay_seconds,
            )
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
        try:
            self._queue.change_visibility(sorted(refused), delay_seconds)
            self._queue.delete([copy.id for copy in copies if copy.id not in refused])
        except (BotoCoreError, ClientError) as error:
            # They come back when their visibility timeout ends; what was sent again is answered a second time.
            _log.warning("could not give back", extra={"messages": len(ours), "error": str(error)})

    def _extend(self, expiring: Sequence[Delivery], seconds: int) -> None:
        asked_at = self._clock.monotonic()
        try:
            lost = self._queue.change_visibility([delivery.receipt for delivery in expiring], seconds)
        except (BotoCoreError, ClientError) as error:
            # Tried again at the next check; if that is too late, another worker classifies them too, without harm.
            _log.warning("could not extend visibility", extra={"messages": len(expiring), "error": str(error)})
            return
        if lost:
            _log.warning("timeouts have ended: another worker may also classify", extra={"messages": len(lost)})
        self._in_flight.extended(expiring, lost, asked_at, seconds)

    def _run(self) -> None:
        # At an eighth of the shortest timeout: each extension comes between a half and five eighths of its own.
        while not self._ended.wait(min(self._in_flight.first_seconds / 8, MAX_CHECK_SECONDS)):
            try:
                self.check()
            except Exception:  # noqa: BLE001 (the edge: without an extender, every image would be classified twice)
                _log.warning("visibility timeouts could not be extended; trying again", exc_info=True)
