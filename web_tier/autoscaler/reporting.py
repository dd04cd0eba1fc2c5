"""Reporting: what pages, commands and metrics show of the fleet, each part stored when it has changed.

| Part                 | Shown as                                                         |
|----------------------|------------------------------------------------------------------|
| `SnapshotWriter`     | the fleet's figures now                                          |
| `InstanceListWriter` | the instances with their workers' status; those that ended last  |
| `EventLog`           | the last decisions and other events, in words                    |
| `HistoryTrack`       | workers and queue over time, as a chart                          |
| `MetricsLogger`      | Prometheus's metrics; and one log line a minute for CloudWatch   |
"""

import logging
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.config import FleetSettings
from core.embedded_metrics import CONTROLLER_METRICS, embedded_metrics
from core.fleet.models import (
    ENDED_LISTED,
    Decision,
    Decisions,
    EndedInstance,
    EndedInstances,
    FleetDay,
    FleetInstance,
    FleetInstances,
    FleetSnapshot,
    FleetSpending,
    HistoryBlock,
    LaterImages,
    LimitsOverride,
    Span,
    SpendingAllowance,
    WorkerLimits,
)
from core.fleet.store import FleetStore
from core.format import allowance_words, cap_words
from core.logs import METRICS_LOGGER
from services.clock import CLOCK, Clock
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.decide import DecisionKind, Plan
from web_tier.autoscaler.liveness import WorkerRegistry, WorkerStatus
from web_tier.autoscaler.metrics import CAUSES, REFUSALS, REPAIRS, ControllerMetrics, total_of
from web_tier.autoscaler.observe import LISTED, Observation

_log = logging.getLogger(__name__)

MIN_SNAPSHOT_SECONDS = 0.25
"""Shortest time between two snapshots."""
MAX_SNAPSHOT_SECONDS = 5.0
"""Longest time between two snapshots: pages recognise a controller that has stopped by the age of the snapshot."""

_ALWAYS_CHANGING = (
    "at",
    "billed_seconds",
    "cost",
    "saved",
    "run",
    "today",
    "spending",
)
"""Fields of a snapshot that change without an event, and are no reason to store it."""

MAX_LISTED = 100
"""Instances that are listed, the newest: some 25 KB of an item's 400 KB."""
MIN_LIST_SECONDS = 1.0
"""Shortest time between two lists."""

MAX_ENDED = 20
"""Ended instances that are listed, the newest."""
MAX_DECISIONS = 20
MIN_EVENTS_SECONDS = 1.0
"""Shortest time between two writes of the event log."""
MERGE_SECONDS = 3.0
"""While images arrive, workers are started again and again: of such decisions within this time the last one stays."""

METRICS_MESSAGE = "fleet"
METRICS_SECONDS = 60.0
"""Time between two metrics lines: CloudWatch's shortest period of an alarm at the standard price."""

_NOT_LOGGED_BEFORE_ENOUGH: frozenset[DecisionKind] = frozenset(
    {"starting", "rotating", "replacing", "at_maximum", "idle", "enough"}
)
"""Kinds of decisions after which "enough workers" is no event."""


@dataclass
class SnapshotWriter:
    """Stores snapshots: a changed one after `MIN_SNAPSHOT_SECONDS`, an unchanged one after `MAX_SNAPSHOT_SECONDS`."""

    store: FleetStore
    clock: Clock = CLOCK
    _stored: FleetSnapshot | None = field(default=None, init=False)
    _stored_at: float = field(default=float("-inf"), init=False)

    def write(
        self,
        observation: Observation,
        reason: str,
        settings: FleetSettings,
        meter: BillingMeter,
        problem: str | None,
        limits: tuple[LimitsOverride | None, WorkerLimits],
        *,
        launch_error: str | None = None,
    ) -> None:
        """Store the snapshot of one round, and the billing periods that have ended.

        `reason`, `problem` and `launch_error` are in words. `limits` are those that operators have set, or None, and
        of config.yaml.
        """
        attribution = meter.attribution
        current = attribution.current  # read first, so that all periods before it are stored before the snapshot
        for period in attribution.unsaved():
            self.store.put_run(period)
            attribution.mark_saved(period)
        for day in meter.daily.unsaved():
            self.store.put_day(day)
            meter.daily.mark_saved(day)
        bill = meter.bill
        self._store_if_due(
            FleetSnapshot(
                at=self.clock.utc_now(),
                running=observation.count("running"),
                pending=observation.capacity - observation.count("running"),
                stopped=observation.count("stopped"),
                visible=observation.requests.visible,
                in_flight=observation.requests.in_flight,
                delayed=observation.requests.delayed,
                packs=observation.packs.total,
                dead_letters=observation.dead_letters,
                min_workers=settings.min_workers,
                max_workers=settings.max_workers,
                peak_workers=meter.peak_workers,
                billed_seconds=round(bill.seconds, 3),
                cost=round(bill.dollars, 8),
                saved=round(bill.saved, 8),
                images=attribution.images,
                requests_cost=round(bill.requests_dollars, 8),
                run=current,
                reason=reason,
                problem=problem,
                launch_error=launch_error,
                paused=observation.pause,
                image_seconds=_two_digits(observation.metrics.image_seconds),
                boot_seconds=_two_digits(observation.metrics.boot_seconds),
                policy=settings.policy,
                limits_order=limits[0],
                configured=limits[1],
                circuit=observation.metrics.circuit,
                images_per_second=_two_digits(observation.metrics.images_per_second) or 0.0,
                failed_models=observation.metrics.failed_models,
                today=_rounded(meter.daily.today),
                spending=_rounded_spending(observation.spending),
                later_images=tuple(_later(observation.at, *each) for each in observation.demand.later),
            )
        )

    def write_problem(self, problem: str) -> None:
        """Store the last snapshot again with a problem that made this round impossible."""
        if self._stored is not None:
            self._store_if_due(self._stored.model_copy(update={"at": self.clock.utc_now(), "problem": problem}))

    def _store_if_due(self, snapshot: FleetSnapshot) -> None:
        always_changing = {name: getattr(snapshot, name) for name in _ALWAYS_CHANGING}
        is_unchanged = self._stored is not None and self._stored.model_copy(update=always_changing) == snapshot
        min_seconds = MAX_SNAPSHOT_SECONDS if is_unchanged else MIN_SNAPSHOT_SECONDS
        if self.clock.monotonic() - self._stored_at >= min_seconds:
            self.store.put_snapshot(snapshot)
            self._stored, self._stored_at = snapshot, self.clock.monotonic()


def _rounded(day: FleetDay | None) -> FleetDay | None:
    if day is None:
        return None
    dollars = {name: round(getattr(day, name), 8) for name in ("cost", "saved", "requests_cost")}
    return day.model_copy(update={"billed_seconds": round(day.billed_seconds, 3), **dollars})


def _rounded_spending(spending: FleetSpending | None) -> FleetSpending | None:
    if spending is None:
        return None
    names = ("today", "month", "committed", "launch")
    return spending.model_copy(update={name: round(getattr(spending, name), 8) for name in names})


def _later(at: datetime, seconds: float, images: int) -> LaterImages:
    """Return images that may be finished `seconds` after `at`, by the nearest minute: the same in each round."""
    by = (at + timedelta(seconds=seconds + 30)).replace(second=0, microsecond=0)
    return LaterImages(by=by, images=images)


def _two_digits(seconds: float | None) -> float | None:
    """Round, so that an estimate that hardly moves causes no write."""
    return None if seconds is None else float(f"{seconds:.2g}")


@dataclass
class InstanceListWriter:
    """Stores the list of instances when it has changed, and the listed ones that have ended."""

    store: FleetStore
    stored: FleetInstances = field(default_factory=FleetInstances)
    clock: Clock = CLOCK
    ended: EndedInstances = field(default_factory=EndedInstances)
    _stored_at: float = field(default=float("-inf"), init=False)

    def update(
        self,
        observation: Observation,
        statuses: Mapping[str, WorkerStatus],
        unhealthy: Mapping[str, str],
        billed_since: Mapping[str, datetime],
    ) -> None:
        """Store the list if it has changed; see `instance_list`."""
        if self.clock.monotonic() - self._stored_at < MIN_LIST_SECONDS:
            return
        instances = instance_list(observation, statuses, unhealthy, billed_since)
        if instances != self.stored:
            self._stored_at = self.clock.monotonic()
            self._store_ended({each.instance_id for each in observation.instances if each.state in LISTED})
            self.store.put_instances(instances)
            self.stored = instances

    def _store_ended(self, present: Set[str]) -> None:
        """Store the instances that have ended since the list was stored, before the list without them is stored."""
        now = self.clock.utc_now()
        gone = [each for each in self.stored.instances if each.instance_id not in present]
        known = {each.instance_id for each in gone} | present  # a lagging description omits instances for a while
        before = [each for each in self.ended.since(now - ENDED_LISTED) if each.instance_id not in known]
        ended_now = [EndedInstance.copied_from(each, ended_at=now) for each in gone]
        ended = EndedInstances(instances=(*ended_now, *before)[:MAX_ENDED])
        if gone or len(before) < len(self.ended.instances):
            self.store.put_ended(ended)
            self.ended = ended


def instance_list(
    observation: Observation,
    statuses: Mapping[str, WorkerStatus],
    unhealthy: Mapping[str, str],
    billed_since: Mapping[str, datetime],
) -> FleetInstances:
    """Return the instances that have not ended, newest first, at most `MAX_LISTED`.

    By instance id, `unhealthy` has the reason of each unhealthy instance in words, and `billed_since` when each began
    to run.
    """
    present = [each for each in reversed(observation.instances) if each.state in LISTED]
    listed = []
    for instance in present[:MAX_LISTED]:
        status = statuses.get(instance.instance_id)
        listed.append(
            FleetInstance.copied_from(
                instance,
                status,
                worker=status and status.state,
                in_hand=status and status.in_flight,
                heard_at=status and status.seen_at,
                draining=instance.instance_id in observation.draining,
                marked=unhealthy.get(instance.instance_id),
                billed_since=billed_since.get(instance.instance_id),
            )
        )
    return FleetInstances(total=len(present), instances=tuple(listed))


@dataclass(frozen=True, slots=True)
class FleetEvent:
    """Something that has happened, in words, and since when if that is known."""

    words: str
    since: datetime | None = None


@dataclass
class SpendingWatcher:
    """Logs when a spending cap is reached and when it ends, and returns new allowances of operators as events."""

    _was_reached: str | None = field(default=None, init=False)
    _allowance: SpendingAllowance | None = field(default=None, init=False)

    def update(self, spending: FleetSpending | None) -> list[FleetEvent]:
        """Apply the cost and the caps of this round; return the events."""
        reached = None if spending is None else spending.reached
        if reached != self._was_reached and spending is not None and reached is not None:
            _log.warning("a spending cap is reached: nothing is launched", extra={"cap": cap_words(spending)})
        elif reached != self._was_reached and reached is None:
            _log.info("no spending cap is reached any more: workers may start")
        self._was_reached = reached
        words = "" if spending is None else allowance_words(spending)
        allowance = spending.allowance if spending is not None and words else None
        before, self._allowance = self._allowance, allowance
        if allowance is None or allowance == before:
            return []
        return [FleetEvent(f"the spending caps of today are raised, {words}", allowance.since)]


@dataclass
class EventLog:
    """Keeps the last `MAX_DECISIONS` decisions and events, continued from what is stored."""

    store: FleetStore
    clock: Clock = CLOCK
    _kind: DecisionKind | None = field(default=None, init=False)
    _target: int = field(default=0, init=False)
    _problem: str | None = field(default=None, init=False)
    _decided_at: float = field(default=float("-inf"), init=False)
    _written_at: float = field(default=float("-inf"), init=False)
    _is_written: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        """Continue the log of the previous controller."""
        self._decisions = self.store.decisions().decisions

    def update(self, plan: Plan, reason: str, capacity: int, problem: str | None) -> None:
        """Log a decision if it is new, given the capacity it was made for, and a problem if it is new."""
        target = capacity + plan.starts
        grows = plan.kind == "starting" and target > self._target
        is_logged = plan.kind == "enough" and self._kind in _NOT_LOGGED_BEFORE_ENOUGH
        if (plan.kind != self._kind or grows) and not is_logged:
            replaces_last = plan.kind == self._kind and self.clock.monotonic() - self._decided_at < MERGE_SECONDS
            self._append(reason, replaces_last=replaces_last)
            self._kind, self._decided_at = plan.kind, self.clock.monotonic()
        self._target = target
        if problem is not None and problem != self._problem:
            self._append(problem)
            self._decided_at = float("-inf")  # the next decision does not replace it
        self._problem = problem
        if not self._is_written and self.clock.monotonic() - self._written_at >= MIN_EVENTS_SECONDS:
            self._written_at = self.clock.monotonic()
            self.store.put_decisions(Decisions(decisions=self._decisions))
            self._is_written = True

    def add(self, event: FleetEvent) -> None:
        """Log an event, unless the previous controller has logged it."""
        is_known = event.since and any(
            each.words == event.words and each.at >= event.since for each in self._decisions
        )
        if not is_known:
            self._append(event.words)
            self._decided_at = float("-inf")  # the next decision does not replace it

    def _append(self, words: str, *, replaces_last: bool = False) -> None:
        if self._decisions and self._decisions[0].words == words:
            return  # logged by the previous controller
        before = self._decisions[1:] if replaces_last else self._decisions
        self._decisions = (Decision(at=self.clock.utc_now(), words=words), *before)[:MAX_DECISIONS]
        self._is_written = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a span of the history is stored.

    Attributes:
        step: seconds between two points.
        block_seconds: seconds in one block, which is one item of the table.
        blocks: number of blocks, used in turn: one more than the span needs, since the newest is not full.
    """

    span: Span
    step: int
    block_seconds: int
    blocks: int = 7


RESOLUTIONS = (Resolution("hour", 5, 600), Resolution("day", 120, 14_400), Resolution("minutes", 1, 60, 11))
"""120 points in a block, some 3 KB; 60 of the last minutes, since that block is written each second of a change."""


@dataclass
class HistoryTrack:
    """The history in one resolution, continued from what is stored.

    A point is stored when something has changed, at most one in each step, with the maximum in that step. So an idle
    fleet writes nothing, and a batch of three seconds is still visible.
    """

    store: FleetStore
    resolution: Resolution
    block: HistoryBlock = field(init=False)
    _step: int | None = field(default=None, init=False)
    _maximum: tuple[int, int] = field(default=(0, 0), init=False)

    def __post_init__(self) -> None:
        """Continue the history of the previous controller."""
        stored = self.store.blocks(self.resolution.span)
        self.block = max(stored, key=lambda block: block.number, default=HistoryBlock(number=0))
        self._last = self.block.points[-1][1:] if self.block.points else (0, 0)

    def update(self, now: float, workers: int, queue: int) -> None:
        """Apply the number of workers and of images in the queue at `now`, in seconds since the epoch."""
        step = int(now) // self.resolution.step
        last_step, maximum = self._step, self._maximum
        if step == last_step:
            self._maximum = (max(maximum[0], workers), max(maximum[1], queue))
            return
        self._step, self._maximum = step, (workers, queue)
        if last_step is not None and maximum != self._last:
            self._last = maximum
            at = last_step * self.resolution.step
            number = at // self.resolution.block_seconds
            # A block begins with the point before it: its value may be in no other block any more.
            before = self.block.points if number == self.block.number else self.block.points[-1:]
            self.block = HistoryBlock(number=number, points=(*before, (at, *maximum)))
            self.store.put_block(self.resolution.span, number % self.resolution.blocks, self.block)


@dataclass
class MetricsLogger:
    """Updates Prometheus's metrics in each round; writes the metrics line in the first, then each `METRICS_SECONDS`.

    The holder of the lease writes the line: if none arrives, no controller works. With a `namespace` CloudWatch makes
    metrics of it; `infra/stack.yaml` finds them by their names.

    Attributes:
        namespace: of the metrics in CloudWatch; None for a line without metrics.
    """

    clock: Clock = CLOCK
    namespace: str | None = None
    metrics: ControllerMetrics = field(default_factory=ControllerMetrics)
    _written_at: float = field(default=float("-inf"), init=False)

    def update(self, observation: Observation, settings: FleetSettings, meter: BillingMeter) -> None:
        """Update the metrics; write the line if it is due."""
        self.metrics.observe_round(observation, settings, meter.last_bill)
        if self.clock.monotonic() - self._written_at >= METRICS_SECONDS:
            self._written_at = self.clock.monotonic()
            counted, logged = counted_so_far(self.metrics), self.metrics.logged
            since = {name: round(total - logged.get(name, 0.0), 3) for name, total in counted.items()}
            self.metrics.logged = counted
            directive = embedded_metrics(self.namespace, CONTROLLER_METRICS)
            extra = directive | fleet_metrics(observation, settings, meter) | since
            logging.getLogger(METRICS_LOGGER).info(METRICS_MESSAGE, extra=extra)


def fleet_metrics(observation: Observation, settings: FleetSettings, meter: BillingMeter) -> dict[str, float]:
    """Return the metrics of the fleet by name.

    `workers` is the number of running and starting workers, `maximum` their limit; `at_maximum` is 1 if that is
    reached while images wait. `circuit_open` is 1 while workers end without an answer, and `capped` while a spending
    cap is reached; `cap_percent` is the larger share of the day's and the month's cap that is used. `waiting` and
    `in_flight` are images, `dead_letters` messages, and `oldest_seconds` is the age of the oldest waiting image.
    `answered` and `dollars` are the images, and the cost of the instances, since the first launch.
    """
    requests, waiting = observation.requests, observation.demand.waiting
    return {
        "workers": observation.capacity,
        "maximum": settings.max_workers,
        "at_maximum": int(observation.capacity >= settings.max_workers and requests.waiting > 0),
        "waiting": requests.waiting,
        "in_flight": requests.in_flight,
        "dead_letters": observation.dead_letters,
        "oldest_seconds": round(waiting[0][0], 1) if waiting else 0.0,
        "paused": int(observation.pause is not None),
        "circuit_open": int(not observation.metrics.circuit.is_closed),
        "capped": int(observation.is_capped),
        "cap_percent": 0.0 if observation.spending is None else round(100 * observation.spending.largest_share, 1),
        "answered": meter.attribution.images,
        "dollars": round(meter.bill.dollars, 6),
    }


def counted_so_far(metrics: ControllerMetrics) -> dict[str, float]:
    """Return what this process has counted so far, by the names in the metrics line, which has the differences.

    `images_done` and `images_failed` are results without those of cancelled jobs. `waiting_seconds` are image-seconds
    of waiting, and `boot_waiting_seconds` those that boots cause. `repairs` are images, `refused_launches` calls.
    """
    return {
        "images_done": total_of(metrics.results, {"done"}),
        "images_failed": total_of(metrics.results, {"failed"}),
        "waiting_seconds": total_of(metrics.waiting, CAUSES),
        "boot_waiting_seconds": total_of(metrics.waiting, {"boot"}),
        "repairs": total_of(metrics.repairs, REPAIRS),
        "refused_launches": total_of(metrics.launch_calls, REFUSALS),
    }


@dataclass
class Reporter:
    """Reports each round of the autoscaler; it continues where the previous controller ended.

    Attributes:
        namespace: of the metrics in CloudWatch; None for none.
    """

    store: FleetStore
    registry: WorkerRegistry
    namespace: str | None = None
    counts: ControllerMetrics = field(default_factory=ControllerMetrics)
    snapshots: SnapshotWriter = field(init=False)
    metrics: MetricsLogger = field(init=False)
    _instances: InstanceListWriter = field(init=False)
    _events: EventLog = field(init=False)
    _history: list[HistoryTrack] = field(init=False)

    def __post_init__(self) -> None:
        """Read what the previous controller has stored; `registry` adopts the statuses of its workers."""
        stored, clock = self.store.instances(), self.registry.clock
        self.registry.adopt(stored.instances)
        self.counts.fleet.begin(self.registry.statuses)
        self.snapshots = SnapshotWriter(self.store, clock)
        self.metrics = MetricsLogger(clock, self.namespace, self.counts)
        self._instances = InstanceListWriter(self.store, stored, clock, self.store.ended())
        self._events = EventLog(self.store, clock)
        self._history = [HistoryTrack(self.store, resolution) for resolution in RESOLUTIONS]

    def report(
        self,
        observation: Observation,
        plan: Plan,
        reason: str,
        problem: str | None,
        events: Iterable[FleetEvent],
        *,
        unhealthy: Mapping[str, str],
        billed_since: Mapping[str, datetime],
    ) -> None:
        """Report the instances, the events and the history of one round.

        `reason` and `problem` are in words; a problem that changes in each round would be an event each time.
        `events` has what happened besides the decision, `unhealthy` why instances are unhealthy, and `billed_since`
        when each began to run, by instance id.
        """
        self.counts.decisions.labels(plan.kind).inc()
        for event in events:
            self._events.add(event)
        self._instances.update(observation, self.registry.statuses(), unhealthy, billed_since)
        self._events.update(plan, reason, observation.capacity, problem)
        for track in self._history:
            track.update(self.registry.clock.utc_now().timestamp(), observation.capacity, observation.requests.total)
