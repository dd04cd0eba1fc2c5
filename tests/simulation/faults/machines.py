"""The instances of a simulated cloud, the workers on them and the queues that they share, second by second."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from core.messages import ClassificationResult, Heartbeat, WorkerState
from services.metadata import DRAIN_TAG, PROTECTED_TAG
from services.sqs import QueueCounts
from tests.support.memory_aws.calls import refusal

PENDING_SECONDS: Final = 5.0
"""From the launch to `running`."""
ENDING_SECONDS: Final = 5.0
"""From `shutting-down` to `terminated`, and from `stopping` to `stopped`."""
BEAT_SECONDS: Final = 10.0
"""Between two heartbeats, as `app_tier.heartbeat` sends them."""
NOTICE_SECONDS: Final = 5.0
"""Interval at which a worker polls for a request to drain, as `app_tier.lifecycle` does."""
NEVER: Final = math.inf
ALIVE: Final = ("pending", "running")
VISIBILITY_SECONDS: Final = 30.0
REMEMBERED_SECONDS: Final = 120
"""How old counts may be."""

_ANSWER: Final = ClassificationResult(
    job_id="0" * 26, image_id="0" * 26, status="done", label="stop", score=1.0, worker="-", attempts=1
)
_BEAT: Final = Heartbeat(worker="-", at=datetime(2026, 1, 1, tzinfo=UTC), state="ready", images=0, in_hand=0)


@dataclass(frozen=True, slots=True)
class FailureMode:
    """When each fault hits an instance, in seconds after its launch; `NEVER` for none.

    Attributes:
        boots: its worker is ready.
        hangs: its worker stops and reports nothing more, while its machine runs.
        dies: its machine ends in the middle of its work.
        noticed: EC2 takes it back two minutes later, if it is a Spot instance.
        powers_off: whether the machine ends when its worker has.
    """

    boots: float = 30.0
    hangs: float = NEVER
    dies: float = NEVER
    noticed: float = NEVER
    powers_off: bool = True


@dataclass
class SimulatedQueues:
    """The request queue and the response queue, with counts that may be old or wrong, and a listener that may lag.

    Attributes:
        counts_lag: the counts are those of so many seconds ago.
        counts_factor: and so many times what they should be.
        counts_fail: they cannot be had.
        listener_lag: the collector is so many seconds behind.
    """

    now: Callable[[], float]
    counts_lag: float = 0.0
    counts_factor: float = 1.0
    counts_fail: bool = False
    listener_lag: float = 0.0
    sent: int = 0
    answered: int = 0
    visible: int = 0
    in_hand: int = 0
    lost: list[float] = field(default_factory=list)
    responses: deque[tuple[float, ClassificationResult | Heartbeat]] = field(default_factory=deque)
    _past: deque[tuple[float, QueueCounts]] = field(default_factory=lambda: deque(maxlen=REMEMBERED_SECONDS))

    def send(self, images: int) -> None:
        """Accept images."""
        self.sent += images
        self.visible += images

    def live(self) -> None:
        """Make visible what workers have lost, once its visibility timeout is over."""
        back = [at for at in self.lost if at <= self.now()]
        self.lost = [at for at in self.lost if at > self.now()]
        self.visible += len(back)
        self._past.append((self.now(), QueueCounts(self.visible, self.in_hand + len(self.lost), 0)))

    # What workers do

    def take(self) -> bool:
        """Receive an image; return whether there was one."""
        if not self.visible:
            return False
        self.visible -= 1
        self.in_hand += 1
        return True

    def answer(self) -> None:
        """Delete the image that was received."""
        self.in_hand -= 1
        self.answered += 1

    def lose(self) -> None:
        """Let the image that was received come again."""
        self.in_hand -= 1
        self.lost.append(self.now() + VISIBILITY_SECONDS)

    def send_response(self, message: ClassificationResult | Heartbeat) -> None:
        """Put a message into the response queue."""
        self.responses.append((self.now(), message))

    # What the controller sees

    def counts(self) -> QueueCounts:
        """Return the approximate counts."""
        if self.counts_fail:
            raise refusal("ServiceUnavailable", "GetQueueAttributes")
        moment = self.now() - self.counts_lag
        then = next((counts for at, counts in reversed(self._past) if at <= moment), QueueCounts(0, 0, 0))
        if self.counts_factor == 1.0:
            return then
        return QueueCounts(round(then.visible * self.counts_factor), round(then.in_flight * self.counts_factor), 0)

    def receive_responses(self) -> tuple[list[ClassificationResult | Heartbeat], bool]:
        """Return what the collector receives now, and whether that was all there is."""
        moment, received = self.now() - self.listener_lag, list[ClassificationResult | Heartbeat]()
        while self.responses and self.responses[0][0] <= moment:
            received.append(self.responses.popleft()[1])
        return received, not self.responses


@dataclass
class SimulatedWorker:
    """The worker of one boot: takes an image, answers it, takes the next, until it is idle or asked to end."""

    name: str
    ready_at: float
    image_seconds: float
    idle_seconds: float
    images: int = 0
    in_hand_until: float | None = None
    silent: bool = False
    _idle_since: float = field(init=False)
    _next_beat: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin to be idle, and to beat, when the boot is over."""
        self._idle_since = self._next_beat = self.ready_at

    @property
    def works(self) -> bool:
        """Whether it has an image in flight and will answer it."""
        return self.in_hand_until is not None and not self.silent

    def live(self, now: float, queue: SimulatedQueues, *, ending: bool, wanted: bool) -> bool:
        """Do what was due by `now`; return whether the worker still runs.

        Args:
            now: seconds.
            queue: of images.
            ending: whether it knows that it is asked to end.
            wanted: whether its instance is marked as one that stays.
        """
        if self.silent or now < self.ready_at:
            return True
        if self.in_hand_until is not None and self.in_hand_until <= now:
            self._idle_since, self.in_hand_until = self.in_hand_until or self.ready_at, None
            self.images += 1
            queue.answer()
            queue.send_response(_ANSWER.model_copy(update={"worker": self.name}))
        if self.in_hand_until is None and not ending and queue.take():
            self.in_hand_until = now + self.image_seconds
        if self._has_nothing_left(now, ending=ending, wanted=wanted):
            self._say("ended", queue)
            return False
        if now >= self._next_beat:
            self._next_beat = now + BEAT_SECONDS
            self._say("draining" if ending else "busy" if self.in_hand_until else "ready", queue)
        return True

    def fall_silent(self, queue: SimulatedQueues) -> None:
        """Hang, or be cut off: what was in flight comes again."""
        self.silent = True
        if self.in_hand_until is not None:
            self.in_hand_until = None
            queue.lose()

    def _has_nothing_left(self, now: float, *, ending: bool, wanted: bool) -> bool:
        if self.in_hand_until is not None:
            return False
        if ending:
            return True
        if now - self._idle_since < self.idle_seconds:
            return False
        self._idle_since = now
        return not wanted

    def _say(self, state: WorkerState, queue: SimulatedQueues) -> None:
        in_hand = int(self.in_hand_until is not None)
        at = _BEAT.at + timedelta(seconds=queue.now())
        said = {"worker": self.name, "at": at, "state": state, "images": self.images, "in_hand": in_hand}
        queue.send_response(_BEAT.model_copy(update=said))


@dataclass(frozen=True, slots=True)
class Shown:
    """What EC2 reports of an instance, `since` some moment. Its launch time is the time of its last boot."""

    since: float
    state: str
    booted_at: float
    tags: dict[str, str]


@dataclass
class SimulatedInstance:
    """One instance, with the history that DescribeInstances may lag behind.

    Attributes:
        spot: whether EC2 may take it back.
        stops: whether it stops when it powers itself off, and can be started again.
        since: when it got its present state.
        booted_at: when its last boot began.
    """

    instance_id: str
    instance_type: str
    spot: bool
    stops: bool
    fate: FailureMode
    launched_at: float
    image_seconds: float
    idle_seconds: float
    client_token: str
    tags: dict[str, str] = field(default_factory=dict)
    state: str = "pending"
    since: float = field(init=False)
    booted_at: float = field(init=False)
    worker: SimulatedWorker = field(init=False)
    noticed_at: float | None = None
    history: list["Shown"] = field(default_factory=list)
    _asked_at: float | None = None

    def __post_init__(self) -> None:
        """Boot for the first time."""
        self.boot(self.launched_at, self.fate)

    @property
    def alive(self) -> bool:
        """Whether it is pending or running."""
        return self.state in ALIVE

    def boot(self, now: float, fate: FailureMode) -> None:
        """Boot, for the first time or again."""
        self.fate, self.booted_at, self.noticed_at, self._asked_at = fate, now, None, None
        self.worker = SimulatedWorker(self.instance_id, now + fate.boots, self.image_seconds, self.idle_seconds)
        self.become("pending", now)

    def become(self, state: str, now: float) -> None:
        """Change the state."""
        self.state, self.since = state, now
        self.remember(now)

    def remember(self, now: float) -> None:
        """Note what a description of this moment says."""
        self.history.append(Shown(now, self.state, self.booted_at, dict(self.tags)))

    def as_of(self, moment: float) -> "Shown | None":
        """Return what a description of `moment` says; None before the launch."""
        return next((shown for shown in reversed(self.history) if shown.since <= moment), None)

    def live(self, now: float, queue: SimulatedQueues) -> None:
        """Do what was due by `now`."""
        age = now - self.booted_at
        if self.state == "pending" and age >= PENDING_SECONDS:
            self.become("running", now)
        elif self.state in {"shutting-down", "stopping"} and now - self.since >= ENDING_SECONDS:
            self.become("terminated" if self.state == "shutting-down" else "stopped", now)
        if self.state == "running":
            self._run(now, age, queue)

    def end(self, now: float, queue: SimulatedQueues) -> None:
        """Be ended by EC2, in the middle of its work."""
        if self.state not in {"shutting-down", "terminated"}:
            self.worker.fall_silent(queue)
            self.become("shutting-down", now)

    def _run(self, now: float, age: float, queue: SimulatedQueues) -> None:
        if age >= self.fate.dies or (self.noticed_at is not None and now - self.noticed_at >= 120.0):
            self.end(now, queue)
            return
        if self.spot and self.noticed_at is None and age >= self.fate.noticed:
            self.noticed_at = now
        if age >= self.fate.hangs:
            self.worker.fall_silent(queue)
        is_asked = DRAIN_TAG in self.tags or self.noticed_at is not None
        self._asked_at = (self._asked_at or now) if is_asked else None
        is_ending = self._asked_at is not None and now - self._asked_at >= NOTICE_SECONDS
        if not self.worker.live(now, queue, ending=is_ending, wanted=PROTECTED_TAG in self.tags):
            self.worker.silent = True
            if self.fate.powers_off:
                self.become("stopping" if self.stops else "shutting-down", now)
