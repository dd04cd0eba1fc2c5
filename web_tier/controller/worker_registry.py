"""The registry: what the workers have said of themselves, by heartbeats and by their answers.

The collector writes it, the autoscaler and the reconciler read it, each in a thread of its own.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from core.fleet import FleetInstance
from core.messages import Heartbeat, Response, WorkerState

MAX_WORKERS = 2_000
"""Workers that are remembered: twice as many as a fleet may have. Those that were heard of last stay."""

BEATING_SECONDS = 30.0
"""Three heartbeats: one that has not been heard of for longer is not expected to be sending any."""

ENDED_SECONDS = 60.0
"""How long a worker that has ended is remembered: EC2 goes on to tell of its instance for a while."""


@dataclass(frozen=True, slots=True)
class Word:
    """What is known of one worker.

    Attributes:
        images: answered so far: what its heartbeats say, or as many answers as were seen where that is more.
        state, in_hand, images_per_second: of the last heartbeat; None before the first.
        heard_at: when it was last heard of, by this process's wall clock.
        since: when it was first heard of, in monotonic seconds; None where another controller heard it first.
        until: when it was last heard of, in monotonic seconds.
    """

    images: int
    state: WorkerState | None
    in_hand: int | None
    heard_at: datetime
    since: float | None
    until: float
    images_per_second: float | None = None


@dataclass
class WorkerRegistry:
    """Remembers each worker's last word, until a while after it has said that it ends.

    Attributes:
        max_workers: bound of what is remembered.
    """

    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    max_workers: int = MAX_WORKERS
    _words: "OrderedDict[str, Word]" = field(default_factory=OrderedDict, init=False)
    _answers: int = field(default=0, init=False)
    _heard_until: float | None = field(default=None, init=False)
    _turn: threading.Lock = field(default_factory=threading.Lock, init=False)

    def adopt(self, instances: Iterable[FleetInstance]) -> None:
        """Begin with what an earlier controller has told of the fleet."""
        long_ago = self.clock() - BEATING_SECONDS
        with self._turn:
            for each in instances:
                if each.heard_at is not None:
                    word = Word(each.images or 0, each.worker, each.in_hand, each.heard_at, None, long_ago)
                    self._words.setdefault(each.instance_id, word)
            self._keep_to_the_bound()

    def note(self, told: Iterable[Response | Heartbeat]) -> None:
        """Take in what came out of the response queue."""
        with self._turn:
            for each in told:
                if isinstance(each, Response):
                    self._note_answer(each.worker)
                else:
                    self._note_heartbeat(each)
            self._keep_to_the_bound()

    def heard_all(self, until: float) -> None:
        """Take in that everything which had been sent by `until`, in monotonic seconds, has been noted."""
        self._heard_until = until if self._heard_until is None else max(until, self._heard_until)

    @property
    def heard_until(self) -> float | None:
        """The moment up to which everything has been heard, in monotonic seconds; None before the first.

        A worker that was silent until then has been silent; heartbeats since then may be in the queue.
        """
        return self._heard_until

    def words(self) -> dict[str, Word]:
        """Return the last word of each worker, by its id."""
        with self._turn:
            return dict(self._words)

    @property
    def answers(self) -> int:
        """How many answers have been seen, of all workers."""
        return self._answers

    def beating(self) -> int:
        """Return how many workers may have a heartbeat on its way."""
        oldest = self.clock() - BEATING_SECONDS
        with self._turn:
            return sum(word.until > oldest and word.state != "ended" for word in self._words.values())

    def _note_answer(self, worker: str) -> None:
        self._answers += 1
        word = self._heard(worker)
        self._words[worker] = replace(word, images=word.images + 1)

    def _note_heartbeat(self, beat: Heartbeat) -> None:
        before = self._words.get(beat.worker)
        if before is not None and before.state == "ended":
            if beat.images:
                return  # SQS keeps no order: it was said before the end
            del self._words[beat.worker]  # its instance was started again
        word = self._heard(beat.worker)
        images = max(word.images, beat.images)
        rate = beat.images_per_second
        told = replace(word, images=images, state=beat.state, in_hand=beat.in_hand, images_per_second=rate)
        self._words[beat.worker] = told

    def _heard(self, worker: str) -> Word:
        """Return the worker's word, heard of just now, after all the others."""
        at, clock = self.now(), self.clock()
        before = self._words.pop(worker, None)
        if before is None:
            return Word(0, None, None, at, clock, clock)
        return replace(before, heard_at=at, until=clock)

    def _keep_to_the_bound(self) -> None:
        long_ago = self.clock() - ENDED_SECONDS
        for worker in [key for key, word in self._words.items() if word.state == "ended" and word.until < long_ago]:
            del self._words[worker]
        while len(self._words) > self.max_workers:
            self._words.popitem(last=False)
