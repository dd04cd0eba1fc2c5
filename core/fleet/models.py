"""Values of the fleet: snapshot, limits, billing periods, instances, launch journal, decisions and history."""

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Final, Literal, Self, get_args

from pydantic import AwareDatetime, Field, model_validator

from core.config import MAX_CAP_DOLLARS, MAX_WORKERS, FleetSettings
from core.messages import WireModel, WorkerState
from services.ec2 import LaunchSpec

Span = Literal["minutes", "hour", "day"]

CapPeriod = Literal["day", "month"]

FleetHalt = Literal["paused", "cap reached", "workers fail", "limit 0", "launches fail"]
"""What keeps workers from starting, in the words of the header."""

MAX_LAST_WORDS = 300
"""Maximum characters of the last words of a controller."""
MAX_ENDS = 10
ENDS_WINDOW = timedelta(minutes=10)
"""Time for which the end of a controller is remembered."""

MAX_REASON_CHARACTERS = 200
"""Maximum characters of the reason for a pause, or for limits or an allowance that operators set."""


class FleetPause(WireModel):
    """A pause of the fleet: no instance is launched or started since that time; `reason` may be empty.

    It ends at `until`, if not before; None for a pause that lasts until it is ended.
    """

    version: Literal[1] = 1
    since: AwareDatetime
    until: AwareDatetime | None = None
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class FleetResume(WireModel):
    """The end of a pause: its time, and the name of the user or command that ended it, for operators."""

    version: Literal[1] = 1
    at: AwareDatetime
    by: str


class WorkerLimits(WireModel):
    """The minimum and maximum number of workers, within the bounds of config.yaml."""

    min_workers: int = Field(ge=0, le=MAX_WORKERS)
    max_workers: int = Field(ge=0, le=MAX_WORKERS)

    @classmethod
    def configured(cls, settings: FleetSettings) -> "WorkerLimits":
        """Return the limits of config.yaml."""
        return WorkerLimits(min_workers=settings.min_workers, max_workers=settings.max_workers)

    @model_validator(mode="after")
    def _minimum_is_at_most_maximum(self) -> Self:
        if self.min_workers > self.max_workers:
            raise ValueError(f"min_workers ({self.min_workers}) must be at most max_workers ({self.max_workers})")
        return self


class LimitsOverride(WorkerLimits):
    """Limits that operators have set, with time and reason; `reason` may be empty.

    They override those of config.yaml until they are reset.
    """

    version: Literal[1] = 1
    since: AwareDatetime
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class SpendingAllowance(WireModel):
    """Dollars by which operators raise the spending caps on one day (UTC); `reason` may be empty."""

    version: Literal[1] = 1
    day: date
    dollars: float = Field(gt=0, le=MAX_CAP_DOLLARS)
    since: AwareDatetime
    reason: str = Field(default="", max_length=MAX_REASON_CHARACTERS)


class FleetSpending(WireModel):
    """What the instances have cost in the current day and month (UTC), and the spending caps.

    All amounts are US dollars by the price table of config.yaml. A running instance counts with the minimum that EC2
    bills from its first second on.

    Attributes:
        today, month: metered cost of the instances since midnight, and since the first of the month.
        committed: minimum cost of the instances that are starting, which are not metered yet.
        launch: the most that one more launch costs at least.
        dollars_per_day, dollars_per_month: the configured caps; None for no cap.
        allowance: dollars by which operators have raised both caps for `day`.
    """

    day: date
    today: float
    month: float
    committed: float = 0.0
    launch: float = 0.0
    dollars_per_day: float | None = None
    dollars_per_month: float | None = None
    allowance: SpendingAllowance | None = None

    def cap(self, period: CapPeriod) -> float | None:
        """Return the cap that applies today, with the allowance; None for no cap."""
        configured = self.dollars_per_day if period == "day" else self.dollars_per_month
        if configured is None or self.allowance is None or self.allowance.day != self.day:
            return configured
        return configured + self.allowance.dollars

    def spent(self, period: CapPeriod) -> float:
        """Return the metered cost of the day or the month until now."""
        return self.today if period == "day" else self.month

    def used(self, period: CapPeriod) -> float:
        """Return what counts towards the cap: the metered cost, and the minimum of the instances that start."""
        return self.spent(period) + self.committed

    def is_reached(self, period: CapPeriod) -> bool:
        """Return whether the cap leaves no room for a launch; False without a cap."""
        return self._launches_left(period) == 0

    @property
    def largest_share(self) -> float:
        """The larger share of the day's and the month's cap that is used; 0 without a cap."""
        caps = ((self.used(period), self.cap(period)) for period in get_args(CapPeriod))
        return max((used / cap for used, cap in caps if cap is not None), default=0.0)

    def start_of(self, period: CapPeriod) -> date:
        """Return the current day, or the first day of the month."""
        return self.day if period == "day" else self.day.replace(day=1)

    def end_of(self, period: CapPeriod) -> datetime:
        """Return when the day or the month ends."""
        following = self.day + timedelta(days=1)
        if period == "month":
            following = (self.day.replace(day=1) + timedelta(days=32)).replace(day=1)
        return datetime.combine(following, time(), UTC)

    @property
    def launches_left(self) -> int | None:
        """How many launches the caps leave room for, each at its minimum cost; None if they do not limit any."""
        of_day, of_month = self._launches_left("day"), self._launches_left("month")
        return min((left for left in (of_day, of_month) if left is not None), default=None)

    @property
    def reached(self) -> CapPeriod | None:
        """The cap that leaves no room for a launch, of both the one that ends later; None if there is none."""
        if self.is_reached("month"):
            return "month"
        return "day" if self.is_reached("day") else None

    def _launches_left(self, period: CapPeriod) -> int | None:
        if (cap := self.cap(period)) is None:
            return None
        left = cap - self.used(period)
        if self.launch <= 0:  # by the price table, launches cost nothing
            return 0 if left <= 0 else None
        # A sum of floats may be below the cap by a rounding error.
        return max(0, math.floor(left / self.launch + 1e-9))


class ControllerStatus(WireModel):
    """What a controller reports of itself without the lease.

    Attributes:
        ends: when controllers ended that were not asked to, oldest first, at most `MAX_ENDS` of one `ENDS_WINDOW`.
        last_words: exit status of the one that ended last, and the last error that it has logged.
    """

    version: Literal[1] = 1
    ends: tuple[AwareDatetime, ...] = ()
    last_words: str = Field(default="", max_length=MAX_LAST_WORDS)

    def problem(self, reported_at: datetime | None) -> str | None:
        """Return what operators must know of the controllers, or None.

        `reported_at` is the time of the last report of the fleet, also by a controller's clock.
        """
        if len(self.ends) < 2 or (reported_at is not None and reported_at - self.ends[-1] > ENDS_WINDOW):
            return None
        minutes = f"{ENDS_WINDOW.total_seconds() / 60:.0f} minutes"
        last = f"last at {self.ends[-1].astimezone(UTC):%H:%M:%S} UTC with {self.last_words}"
        return f"the controller has ended {len(self.ends)} times within {minutes}, {last}"


class BillingPeriod(WireModel):
    """A period in which the fleet had work, from one idle time to the next, or an hour of it.

    Its images share its cost, including boots, idle time and the billed minimum.

    Attributes:
        number: number of the period, one more than of the period before.
        images: answered by workers in the period.
        billed_seconds: instance-seconds that were billed in the period.
        cost: cost of the billed seconds in US dollars.
        is_open: whether the period continues.
        saved: what Spot saved: the On-Demand price of the billed seconds minus `cost`.
        day: the day (UTC) on which the period began; None in periods of an older release.
    """

    number: int = Field(ge=1)
    images: int = Field(default=0, ge=0)
    billed_seconds: float = 0.0
    cost: float = 0.0
    is_open: bool = True
    saved: float = 0.0
    day: date | None = None


class FleetDay(WireModel):
    """What the fleet did on a day (UTC).

    Attributes:
        images: answered by workers on the day.
        billed_seconds: instance-seconds that were billed on the day.
        cost: cost of the billed seconds in US dollars.
        saved: what Spot saved: the On-Demand price of the billed seconds minus `cost`.
        requests_cost: cost of the requests of these images in US dollars, as if all were uploaded.
    """

    day: date
    images: int = 0
    billed_seconds: float = 0.0
    cost: float = 0.0
    saved: float = 0.0
    requests_cost: float = 0.0

    @property
    def dollars(self) -> float:
        """The cost of instances and requests."""
        return self.cost + self.requests_cost


class CircuitState(StrEnum):
    """The state of the fleet's circuit breaker; `web_tier/autoscaler/circuit_breaker.py` explains each."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


MAX_FAILED_RUNS: Final = 3
"""Failed runs in a row that open the circuit: the least that Amazon ECS takes. One or two may be an accident."""

PROBE_SECONDS: Final = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Pauses before the first probe, the second one, and so on. EC2 bills at least a minute for each."""


class FleetCircuit(WireModel):
    """The fleet's circuit breaker.

    Attributes:
        failed_runs: workers in a row that ended without an answer.
        own_failures: those of them that ended by a fault of their own: no signal, stop or Spot notice ended them.
        reason: why the last of them has failed, in its own words if it has sent some.
        since: when the circuit was opened; None while it is closed.
    """

    state: CircuitState = CircuitState.CLOSED
    failed_runs: int = Field(default=0, ge=0)
    own_failures: int = Field(default=0, ge=0)
    reason: str = ""
    since: AwareDatetime | None = None

    @property
    def is_closed(self) -> bool:
        """Whether workers start as they are needed."""
        return self.state is CircuitState.CLOSED

    @property
    def probe_seconds(self) -> float:
        """Shortest time from a launch to the next one while the circuit is not closed.

        Ends from outside do not prove a fault: the first pause is short, and each further end doubles it.
        """
        further = len(PROBE_SECONDS) if self.own_failures >= MAX_FAILED_RUNS else self.failed_runs - MAX_FAILED_RUNS
        return PROBE_SECONDS[max(0, min(further, len(PROBE_SECONDS) - 1))]


class LaterImages(WireModel):
    """A number of images that may be finished `by` that time, to the minute."""

    by: AwareDatetime
    images: int


class FleetSnapshot(WireModel):
    """The observation and the decision of the autoscaler in one round.

    Attributes:
        running, pending, stopped: instances of the fleet by state.
        visible, in_flight, delayed: images in the request queue by the state of their messages.
        packs: the messages in which they are; 0 if not known.
        dead_letters: messages that were received too often.
        min_workers, max_workers: the limits in force.
        policy: name of the policy that decides the size of the fleet.
        limits_order: the limits in force if operators have set them; None if they are those of config.yaml.
        configured: the limits of config.yaml.
        peak_workers: maximum of running and pending since the fleet was last at zero and its queue empty.
        billed_seconds: instance-seconds since the fleet's first launch, each instance at least the billed minimum.
        cost: cost of the billed seconds in US dollars, each instance at the price of its type and market.
        saved: what Spot saved: the On-Demand price of the billed seconds minus `cost`.
        images: answered by workers since then.
        requests_cost: cost of the requests of these images in US dollars, as if all were uploaded.
        run: the current or last billing period; None before the first.
        reason: the last decision in words.
        problem: what operators must know, such as why the last launch failed, in words; None if there is nothing.
        launch_error: why the last launch failed, in words; None if it succeeded.
        image_seconds: measured time that one worker takes for an image; None if it is not known yet.
        boot_seconds: measured time from a launch to the worker's first heartbeat; None if it is not known yet.
        circuit: whether workers end one after another without an answer, and why.
        images_per_second: answers of all workers in the last seconds.
        failed_models: digests of the models that some worker could not load lately and none has loaded.
        today: images and cost of the day of `at`; None in reports of an older release.
        spending: cost of day and month beside the spending caps; None if no cap is configured.
        later_images: those of `visible` that may be finished later.
    """

    version: Literal[1] = 1
    at: AwareDatetime
    running: int
    pending: int
    stopped: int = 0
    visible: int
    in_flight: int
    delayed: int = 0
    packs: int = 0
    dead_letters: int = 0
    min_workers: int
    max_workers: int
    peak_workers: int
    billed_seconds: float
    cost: float = 0.0
    saved: float = 0.0
    images: int = 0
    requests_cost: float = 0.0
    run: BillingPeriod | None = None
    reason: str
    problem: str | None = None
    launch_error: str | None = None
    paused: FleetPause | None = None
    image_seconds: float | None = None
    boot_seconds: float | None = None
    policy: str | None = None
    limits_order: LimitsOverride | None = None
    configured: WorkerLimits | None = None
    circuit: FleetCircuit = FleetCircuit()
    images_per_second: float = 0.0
    failed_models: tuple[str, ...] = ()
    today: FleetDay | None = None
    spending: FleetSpending | None = None
    later_images: tuple[LaterImages, ...] = ()

    @property
    def is_capped(self) -> bool:
        """Whether a spending cap is reached, so that nothing is launched."""
        return self.spending is not None and self.spending.reached is not None

    @property
    def halt(self) -> FleetHalt | None:
        """What keeps workers from starting, or None if nothing is known to."""
        if self.paused is not None:
            return "paused"
        if self.is_capped:
            return "cap reached"
        if not self.circuit.is_closed:
            return "workers fail"
        if not self.max_workers:
            return "limit 0"
        return "launches fail" if self.launch_error else None


class FleetInstance(WireModel):
    """An instance of the fleet, with the last status of its worker.

    Attributes:
        state: as EC2 names it.
        launched_at: by EC2's clock.
        worker: the worker's own state; None before its first heartbeat.
        images: answered so far; None before the first heartbeat.
        in_hand: images that it has received and not answered yet.
        images_per_second: answered between its last two heartbeats.
        heard_at: time of its last heartbeat or response, by the controller's clock; None before the first.
        draining: whether the worker was asked to finish its images and end.
        spot: whether it is a Spot Instance.
        marked: why it is unhealthy and what happens next, in words; None while it is healthy.
        billed_since: since when it runs and is billed; None if it does not.
    """

    instance_id: str
    state: str
    instance_type: str
    zone: str
    launched_at: AwareDatetime
    worker: WorkerState | None = None
    images: int | None = None
    in_hand: int | None = None
    images_per_second: float | None = None
    heard_at: AwareDatetime | None = None
    draining: bool = False
    spot: bool = False
    marked: str | None = None
    billed_since: AwareDatetime | None = None


class FleetInstances(WireModel):
    """The fleet's instances, newest first; `total` may be more than are listed."""

    version: Literal[1] = 1
    total: int = 0
    instances: tuple[FleetInstance, ...] = ()


ENDED_LISTED = timedelta(hours=1)
"""Time for which an ended instance is listed. EC2 keeps the output of a console for at least an hour.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
"""


class EndedInstance(WireModel):
    """An instance of the fleet that has ended.

    Attributes:
        launched_at: by EC2's clock.
        ended_at: when the controller found that it had ended, by the controller's clock.
        images: answered by its worker; None if it has sent no heartbeat.
    """

    instance_id: str
    instance_type: str
    zone: str
    launched_at: AwareDatetime
    ended_at: AwareDatetime
    images: int | None = None


class EndedInstances(WireModel):
    """The instances that ended last, newest first."""

    version: Literal[1] = 1
    instances: tuple[EndedInstance, ...] = ()

    def since(self, start: datetime) -> tuple[EndedInstance, ...]:
        """Return those that ended after `start`."""
        return tuple(each for each in self.instances if each.ended_at > start)


class JournalEntry(WireModel):
    """A call that launches instances, or starts stopped ones, recorded before it is made.

    Attributes:
        token: ClientToken of a launch; a unique name for a start.
        count: maximum number of instances of the call.
        at: when it was recorded, by the writer's wall clock.
        spec: launch parameters, so that the same call can be repeated; None for a start, and once `instance_ids` are
            known.
        starts: ids of the stopped instances that it starts; empty for a launch.
        launched: when each of these was last launched, by EC2's clock; a start makes it later.
        instance_ids: the launched instances; None while the outcome is unknown, or the call is not made.
    """

    token: str
    count: int
    at: AwareDatetime
    spec: LaunchSpec | None = None
    starts: tuple[str, ...] = ()
    launched: tuple[AwareDatetime, ...] = ()
    instance_ids: tuple[str, ...] | None = None

    @property
    def former(self) -> dict[str, datetime]:
        """When each of `starts` was last launched, by its id."""
        return dict(zip(self.starts, self.launched, strict=True))


class LaunchJournal(WireModel):
    """The calls of the last minutes that launched, or may have launched, instances; see `FleetStore.put_journal`.

    Attributes:
        revision: number of writes of all processes; 0 before the first.
        writer: unique name of the controller that wrote it last.
        entries: in the order in which they were first recorded.
    """

    version: Literal[1] = 1
    revision: int = 0
    writer: str = ""
    entries: tuple[JournalEntry, ...] = ()


class Decision(WireModel):
    """A decision of the autoscaler, or an obstacle to it, with its time."""

    at: AwareDatetime
    words: str


class Decisions(WireModel):
    """The last decisions, newest first."""

    version: Literal[1] = 1
    decisions: tuple[Decision, ...] = ()


class HistoryPoint(WireModel):
    """Workers (running and starting) and images in the queue (waiting and in flight), from `at` to the next point.

    If they changed within a few seconds, the maximum of each counts.
    """

    at: AwareDatetime
    workers: int
    queue: int


class HistoryBlock(WireModel):
    """Points of one time span, in their order: the content of one item of the table.

    Attributes:
        number: number of the span, counted from the epoch; a later span reuses the item.
        points: each as seconds since the epoch, workers, and images.
    """

    version: Literal[1] = 1
    number: int
    points: tuple[tuple[int, int, int], ...] = ()


def points_since(blocks: Sequence[HistoryBlock], start: datetime) -> list[HistoryPoint]:
    """Return the points of `blocks` in their order from `start` on, and the values at `start` if they are known."""
    ordered = sorted({at: (workers, queue) for block in blocks for at, workers, queue in block.points}.items())
    first = int(start.timestamp())
    before = [figures for at, figures in ordered if at <= first][-1:]
    kept = [(first, figures) for figures in before] + [point for point in ordered if point[0] > first]
    return [
        HistoryPoint(at=datetime.fromtimestamp(at, start.tzinfo), workers=workers, queue=queue)
        for at, (workers, queue) in kept
    ]
