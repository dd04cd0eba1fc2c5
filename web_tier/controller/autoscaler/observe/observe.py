"""Observe: what the queues and the fleet look like now.

A call that fails means no observation, and so no decision; never "nothing is running".
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from core.messages import FleetPause
from services.ec2 import ALIVE, Fleet, Instance
from services.sqs import Queue, QueueCounts
from web_tier.controller.autoscaler.observe.demand import Demand

LISTED = (*ALIVE, "stopping", "stopped")
ENDED = ("shutting-down", "terminated")
GONE = (*ENDED, "stopping", "stopped")
NO_FORMER: Mapping[str, datetime] = {}
UNSEEN_SECONDS = 120.0
"""How long a launched instance may be missing from DescribeInstances, which lags, and still counts as coming."""
FLEET_SECONDS = 1.0
"""How old the description of the fleet may be while demand does not grow.

To describe 19 instances costs some ten times as much as to count messages. An old description can only name workers
that have ended since, so a decision by it may launch too late, never too many.
"""
LATELY_SECONDS = 60.0
"""For how long a launch counts as one of the last minute."""
DEAD_LETTER_SECONDS = 2.0
"""How often dead letters are counted: the figure is only shown."""
EPOCH = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of the workers by now; None as long as something is not.

    Attributes:
        image_seconds: that one worker takes for an image.
        boot_seconds: from a launch to the worker's first word.
        silent: workers of the supply that have not been heard of yet.
        booting: how long ago each of these was launched, in seconds.
        spare: ids of workers that had no image in hand by their last heartbeat, and that have run for the time that
            EC2 bills at least, so that ending them saves money; oldest first.
        unheard: ids of the workers that are `silent`.
        outlived: ids of workers that have run for longer than a worker may; oldest first.
        failed_boots: instances in a row that have ended without a word of their worker.
    """

    image_seconds: float | None = None
    boot_seconds: float | None = None
    silent: int = 0
    booting: tuple[float, ...] = ()
    spare: tuple[str, ...] = ()
    unheard: frozenset[str] = frozenset()
    outlived: tuple[str, ...] = ()
    failed_boots: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """One look.

    Attributes:
        requests: the request queue's messages by state.
        dead_letters: messages in the dead-letter queue.
        instances: the fleet as DescribeInstances tells it, oldest first.
        coming: ids of instances that were launched or started, and are not described as such yet.
        draining: ids of workers that have been asked to end; they finish what they have.
        standby: ids of instances with workers that have been asked to stay when they are idle.
        lost: ids of instances that bill and do not work, as far as it is known; others take their place.
        launched_lately: instances that were launched or started within the last 60 s.
        demand: how long images wait, and how many come.
        measured: of the workers, so far.
        paused: the pause that is on, if ops have paused the fleet.
        at: when it was, by the wall clock; only a schedule asks.
    """

    requests: QueueCounts
    dead_letters: int
    instances: tuple[Instance, ...]
    coming: frozenset[str] = frozenset()
    draining: frozenset[str] = frozenset()
    demand: Demand = field(default_factory=Demand)
    measured: Measured = Measured()
    paused: FleetPause | None = None
    at: datetime = EPOCH
    standby: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    launched_lately: int = 0

    def count(self, *states: str) -> int:
        """Return how many instances are in any of `states`."""
        return sum(instance.state in states for instance in self.instances)

    @property
    def supplied(self) -> frozenset[str]:
        """Ids of the workers that there are or are about to be: running, pending, and coming."""
        return self.coming.union(each.instance_id for each in self.instances if each.state in ALIVE)

    @property
    def supply(self) -> int:
        """How many these are."""
        return len(self.supplied)

    @property
    def served_by(self) -> frozenset[str]:
        """Ids of those of them that take images, or will."""
        return self.supplied - self.draining - self.lost

    @property
    def serving(self) -> int:
        """How many these are."""
        return len(self.served_by)


@dataclass
class RecentLaunches:
    """Instances that were launched or started a moment ago, which DescribeInstances may not show, or no longer.

    Descriptions come from replicas that lag by different times, so that one which has been shown may be missing from
    the next. Only a description that says it has ended is believed at once; of an instance that was started again,
    what is told of the time before the start, which its launch time gives away, is none of it.
    """

    clock: Callable[[], float] = time.monotonic
    _since: dict[str, float] = field(default_factory=dict, init=False)
    _former: dict[str, datetime] = field(default_factory=dict, init=False)
    _given: list[tuple[float, int]] = field(default_factory=list, init=False)

    def __bool__(self) -> bool:
        """Return whether any are awaited."""
        return bool(self._since)

    def add(
        self, instance_ids: Sequence[str], former: Mapping[str, datetime] = NO_FORMER, *, ago: float = 0.0
    ) -> None:
        """Remember instances that EC2 has just said it launches, or starts again.

        Args:
            instance_ids: of these instances.
            former: when each that is started had been launched last, by EC2's clock.
            ago: it said so before, where another controller heard it; they are awaited from now on nevertheless.
        """
        self._since |= dict.fromkeys(instance_ids, self.clock())
        self._former |= former
        self._given.append((self.clock() - ago, len(instance_ids)))

    def lately(self) -> int:
        """Return how many were launched or started within the last minute."""
        oldest = self.clock() - LATELY_SECONDS
        self._given = [(at, count) for at, count in self._given if at > oldest]
        return sum(count for _, count in self._given)

    def unseen(self, instances: list[Instance]) -> frozenset[str]:
        """Return those that `instances` does not show as alive, forgetting what has ended and the very old."""
        states = {each.instance_id: each.state for each in instances if not self._is_of_before(each)}
        alive = {key for key in self._since if states.get(key) in ALIVE}
        oldest = self.clock() - UNSEEN_SECONDS
        self._since = {
            key: since for key, since in self._since.items() if since > oldest and states.get(key) not in GONE
        }
        self._former = {key: launched for key, launched in self._former.items() if key in self._since}
        return frozenset(self._since.keys() - alive)

    def _is_of_before(self, instance: Instance) -> bool:
        """Return whether a description is older than the start of its instance; none that has ended starts again."""
        launched = self._former.get(instance.instance_id)
        return launched is not None and instance.launched_at <= launched and instance.state not in ENDED


@dataclass(frozen=True, slots=True)
class _Description:
    """The fleet as it was described at `at` (monotonic seconds), when `demand` images waited or were in flight."""

    instances: list[Instance]
    at: float
    demand: int


@dataclass
class Observer:
    """Looks at the queues and the fleet."""

    requests: Queue
    dead_letters: Queue
    fleet: Fleet
    launches: RecentLaunches
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _last: _Description | None = field(default=None, init=False)
    _dead: tuple[int, float] | None = field(default=None, init=False)

    def observe(self) -> Observation:
        """Return what there is now; botocore's errors pass through."""
        # Demand before supply: what is launched in between is counted, what is classified in between is not wanted.
        counts = self.requests.counts()
        instances = self._instances(counts.total)
        coming = self.launches.unseen(instances)
        lately = self.launches.lately()
        return Observation(
            counts, self._dead_letters(), tuple(instances), coming, at=self.now(), launched_lately=lately
        )

    def _instances(self, demand: int) -> list[Instance]:
        now, last = self.clock(), self._last
        if last is None or demand > last.demand or now - last.at >= FLEET_SECONDS:
            # Ended ones are of interest only to learn that an awaited instance has come and gone.
            described = self.fleet.instances((*LISTED, *ENDED) if self.launches else LISTED)
            last = self._last = _Description(described, now, demand)
        return last.instances

    def _dead_letters(self) -> int:
        now = self.clock()
        if self._dead is None or now >= self._dead[1]:
            self._dead = (self.dead_letters.counts().total, now + DEAD_LETTER_SECONDS)
        return self._dead[0]
