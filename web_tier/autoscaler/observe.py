"""What the autoscaler knows when it decides: images in the queue, the fleet as EC2 describes it, what was measured.

If a call fails there is no observation and therefore no decision. A failed call never means "nothing is running".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from core.fleet.models import FleetCircuit, FleetPause, FleetSpending
from services.clock import CLOCK, Clock
from services.ec2 import ALIVE, Fleet, Instance
from services.sqs import Queue, QueueCounts
from web_tier.autoscaler.outstanding import OutstandingPacks

LISTED = (*ALIVE, "stopping", "stopped")
ENDED = ("shutting-down", "terminated")
GONE = (*ENDED, "stopping", "stopped")
LAUNCH_VISIBLE_SECONDS = 120.0
"""How long DescribeInstances, which is eventually consistent, may omit a launched instance that still counts."""
DESCRIPTION_SECONDS = 1.0
"""How long a description of the fleet is reused while demand does not grow.

To describe 19 instances costs some ten times as much as to count messages. The only error of an old description is to
name workers that have ended since, so a decision by it may launch too late but never too many.
"""
DESCRIPTION_CPU_FACTOR = 20.0
"""A description is reused for at least so many times the CPU time that it took, so that it uses 5% of a core at most.

botocore parses 3.4 KB of XML for each instance, and other threads of the controller cannot run Python meanwhile.
"""
MAX_DESCRIPTION_SECONDS = 20.0
"""Longest reuse of a description. An ended worker that it shows as alive must not be silent long enough to be
terminated as unhealthy, which takes at least 75 s: a minute of silence, then a second check.
"""
REST_DESCRIPTION_SECONDS = 5.0
"""How long a description without instances is reused while there are no messages: it omits at most instances that
another program has launched."""
RECENT_SECONDS = 60.0
"""How long a launch counts towards those of a minute."""
DEAD_LETTER_SECONDS = 2.0
"""How long a count of the dead-letter queue is reused: the figure is only displayed."""
REST_DEAD_LETTER_SECONDS = 10.0
"""The same while there are neither messages nor instances, so that no message can become a dead letter."""
EPOCH = datetime.fromtimestamp(0, UTC)
NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Demand:
    """Images in the queue and images to come.

    Attributes:
        waiting: waiting images by arrival: pairs of age in seconds and number of images, oldest first.
        rate: estimated arrivals, in images/s.
        later: other images, of jobs that say when they may be finished: pairs of seconds from now and their number.
    """

    waiting: tuple[tuple[float, int], ...] = ()
    rate: float = 0.0
    later: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class FleetMetrics:
    """What was measured of the workers.

    Attributes:
        image_seconds: time of one worker for one image; None until it was measured.
        boot_seconds: time from launch to first heartbeat; None until it was measured.
        unregistered: seconds since launch of each available worker that has sent no heartbeat yet, by instance id.
        spare: ids of idle workers that have run for the minimum that EC2 bills, so that ending them saves money;
            oldest first.
        past_lifetime: ids of workers that have run for a day; oldest first.
        circuit: whether workers end one after another without an answer.
        images_per_second: answers of all workers in the last seconds; only displayed.
        failed_models: digests of what some worker could not load lately and none has loaded; only displayed.
    """

    image_seconds: float | None = None
    boot_seconds: float | None = None
    unregistered: Mapping[str, float] = field(default_factory=dict)
    spare: tuple[str, ...] = ()
    past_lifetime: tuple[str, ...] = ()
    circuit: FleetCircuit = field(default_factory=FleetCircuit)
    images_per_second: float = 0.0
    failed_models: tuple[str, ...] = ()


@dataclass(frozen=True)
class FleetDescription:
    """What SQS and EC2 report in one round.

    Attributes:
        requests: images by the state of the messages that request them.
        instances: instances as DescribeInstances reports them, oldest first.
        launching: ids of instances that were launched or started and are not described as alive yet.
        launched: ids of all instances that were launched or started lately; some may have ended already.
        at: time of the round by the wall clock; only schedules use it.
        recent_launches: instances launched or started within the last 60 s.
        since_launch: seconds since the last launch or start; infinite if there was none within 60 s.
        messages: those of the request queue, each of which requests a pack; None: one for each image.
    """

    requests: QueueCounts
    dead_letters: int
    instances: tuple[Instance, ...]
    launching: frozenset[str] = frozenset()
    launched: frozenset[str] = frozenset()
    at: datetime = EPOCH
    recent_launches: int = 0
    since_launch: float = math.inf
    messages: QueueCounts | None = None

    @property
    def packs(self) -> QueueCounts:
        """The packs in which `requests` are: a worker takes a whole one."""
        return self.messages or self.requests

    def count(self, *states: str) -> int:
        """Return how many instances are in any of `states`."""
        return sum(instance.state in states for instance in self.instances)

    @cached_property
    def capacity_ids(self) -> frozenset[str]:
        """Ids of all workers that run or start: running, pending and launching instances."""
        return self.launching.union(each.instance_id for each in self.instances if each.state in ALIVE)

    @property
    def capacity(self) -> int:
        """Number of all workers that run or start."""
        return len(self.capacity_ids)


@dataclass(frozen=True)
class Observation(FleetDescription):
    """Everything that a decision is made from.

    Attributes:
        draining: ids of workers that were asked to finish their images and end.
        protected: ids of instances that are protected from scale-in: their workers stay when they are idle.
        unhealthy: ids of instances that run but do not work, and are replaced.
        demand: images in the queue and images to come.
        pause: the pause that operators have set, or None.
        drifted: ids of instances that were launched from another version of the launch template than its default;
            oldest first.
        lacks_replacement: whether a drifted worker has ended, and no worker of the default version has begun to work
            in its place.
        spending: the instances' cost beside the spending caps; None if no cap is configured.
    """

    draining: frozenset[str] = frozenset()
    protected: frozenset[str] = frozenset()
    unhealthy: frozenset[str] = frozenset()
    demand: Demand = Demand()
    metrics: FleetMetrics = field(default_factory=FleetMetrics)
    pause: FleetPause | None = None
    drifted: tuple[str, ...] = ()
    lacks_replacement: bool = False
    spending: FleetSpending | None = None

    @cached_property
    def available_ids(self) -> frozenset[str]:
        """Ids of the workers that take images now or will once they have booted."""
        return self.capacity_ids - self.draining - self.unhealthy

    @property
    def is_capped(self) -> bool:
        """Whether a spending cap is reached, so that nothing may be launched."""
        return self.spending is not None and self.spending.reached is not None

    @property
    def available(self) -> int:
        """Number of workers that take images now or will once they have booted."""
        return len(self.available_ids)

    @property
    def ready(self) -> int:
        """Number of workers that take images now: the available ones that have sent a heartbeat."""
        return self.available - len(self.metrics.unregistered)


@dataclass
class RecentLaunches:
    """Instances that were launched or started recently, which DescribeInstances may not show as alive.

    DescribeInstances is eventually consistent: an instance that one reply contains may be missing from the next. Only
    a description of its end is believed at once. For an instance that was started again, descriptions of the time
    before the start are ignored: their launch time is the former one.
    """

    clock: Clock = CLOCK
    _since: dict[str, float] = field(default_factory=dict, init=False)
    _former_launch: dict[str, datetime] = field(default_factory=dict, init=False)
    _batches: list[tuple[float, int]] = field(default_factory=list, init=False)

    def __bool__(self) -> bool:
        """Return whether any launch is still tracked."""
        return bool(self._since)

    @property
    def instance_ids(self) -> frozenset[str]:
        """The ids of the tracked instances."""
        return frozenset(self._since)

    def add(
        self, instance_ids: Sequence[str], former: Mapping[str, datetime] | None = None, *, ago: float = 0.0
    ) -> None:
        """Track instances that EC2 has accepted to launch or to start.

        Args:
            instance_ids: ids of the instances.
            former: for each instance that is started again, its last launch time by EC2's clock; None if none is.
            ago: age of the launch in seconds if another controller made it. Only the launch rate uses it: the
                instances are tracked from now on in any case.
        """
        self._since |= dict.fromkeys(instance_ids, self.clock.monotonic())
        self._former_launch |= former or {}
        self._batches.append((self.clock.monotonic() - ago, len(instance_ids)))

    def recent(self) -> int:
        """Return how many instances were launched or started within the last minute."""
        oldest = self.clock.monotonic() - RECENT_SECONDS
        self._batches = [(at, count) for at, count in self._batches if at > oldest]
        return sum(count for _, count in self._batches)

    def since_last(self) -> float:
        """Return the seconds since the last launch or start, or infinity if none is remembered."""
        return min((self.clock.monotonic() - at for at, _ in self._batches), default=math.inf)

    def launching(self, instances: list[Instance], described_at: float | None = None) -> frozenset[str]:
        """Return the tracked ids that `instances` does not show as alive; forget those that have ended or expired.

        `described_at` is when EC2 was asked for `instances`, by `clock`; None for just now. A launch expires only by
        a description that was made long enough after it, however long that is reused.
        """
        states = {
            each.instance_id: each.state
            for each in instances
            # A terminated instance cannot be restarted; any other description may be older than the restart.
            if each.state in ENDED or each.launched_at > self._former_launch.get(each.instance_id, NEVER)
        }
        alive = {key for key in self._since if states.get(key) in ALIVE}
        oldest = (self.clock.monotonic() if described_at is None else described_at) - LAUNCH_VISIBLE_SECONDS
        self._since = {
            key: since for key, since in self._since.items() if since > oldest and states.get(key) not in GONE
        }
        self._former_launch = {key: at for key, at in self._former_launch.items() if key in self._since}
        return frozenset(self._since.keys() - alive)


@dataclass
class Observer:
    """Counts messages, and the images that they request, and describes the fleet.

    Attributes:
        cpu_seconds: CPU time that all descriptions have taken so far.
    """

    requests: Queue
    dead_letters: Queue
    fleet: Fleet
    launches: RecentLaunches
    outstanding: OutstandingPacks
    clock: Clock = CLOCK
    cpu_seconds: float = field(default=0.0, init=False)
    _instances: list[Instance] = field(default_factory=list, init=False)
    _described_at: float = field(default=float("-inf"), init=False)
    _described_demand: int = field(default=0, init=False)
    _min_reuse_seconds: float = field(default=0.0, init=False)
    _dead_letters: int = field(default=0, init=False)
    _dead_letters_at: float = field(default=float("-inf"), init=False)

    def describe(self) -> FleetDescription:
        """Return the state of queues and fleet.

        Raises:
            BotoCoreError, ClientError: when SQS, DynamoDB or EC2 did not answer.
        """
        # Demand is read before capacity: an instance that is launched in between counts as capacity, and an image
        # that is classified in between causes no launch.
        messages = self.requests.counts()
        requests = self.outstanding.images_of(messages)
        at = self.clock.monotonic()
        is_at_rest = not (requests.total or self._instances or self.launches)
        has_grown = requests.total > self._described_demand
        usual_seconds = REST_DESCRIPTION_SECONDS if is_at_rest else DESCRIPTION_SECONDS
        reuse_seconds = self._min_reuse_seconds if has_grown else max(usual_seconds, self._min_reuse_seconds)
        if at - self._described_at >= reuse_seconds:
            self._describe_fleet()
            self._described_at, self._described_demand = at, requests.total
        if at - self._dead_letters_at >= (REST_DEAD_LETTER_SECONDS if is_at_rest else DEAD_LETTER_SECONDS):
            self._dead_letters, self._dead_letters_at = self.dead_letters.counts().total, at
        launched = self.launches.instance_ids  # before those that have ended are forgotten
        return FleetDescription(
            requests,
            self._dead_letters,
            tuple(self._instances),
            self.launches.launching(self._instances, self._described_at),
            launched,
            at=self.clock.utc_now(),
            recent_launches=self.launches.recent(),
            since_launch=self.launches.since_last(),
            messages=messages,
        )

    def _describe_fleet(self) -> None:
        began = self.clock.cpu_seconds()
        # Ended instances matter only while a launch is tracked, which may have ended already.
        self._instances = self.fleet.instances((*LISTED, *ENDED) if self.launches else LISTED)
        took = self.clock.cpu_seconds() - began
        self.cpu_seconds += took
        self._min_reuse_seconds = min(MAX_DESCRIPTION_SECONDS, DESCRIPTION_CPU_FACTOR * took)
