"""The policies of the comparison: the product's own `decide`, and the rules of others, for simulated fleets only.

**KEDA's ScaledJob** with the `accurate` strategy, over an SQS queue. Sources: kedacore/keda
`pkg/scaling/executor/scale_jobs.go` (``accurateScalingStrategy.GetEffectiveMaxScale`` and ``createJobs``),
https://keda.sh/docs/latest/reference/scaledjob-spec/ (polling every 30 s; `accurate` is for queues with a length
that leaves out what is being processed) and https://keda.sh/docs/latest/scalers/aws-sqs/ (`queueLength` 5 by
default; `scaleOnInFlight: false` leaves out what is in flight).

**Ray Serve's queue policy** with its defaults. Source: ray-project/ray `python/ray/serve/autoscaling_policy.py`
(``replica_queue_length_autoscaling_policy``: cold start, scaling factors, bounds, delays) and `AutoscalingConfig`
(https://docs.ray.io/en/latest/serve/api/): 2 ongoing requests a replica, up after 30 s, down after 600 s, metrics
averaged over 30 s, factors 1. Two things are in its favour here: from zero, the queue is seen at once, and replicas
that it removes finish what they have first. Replicas that are removed are the last started, as in its scheduler.
Ray's loop runs every 0.1 s; here it runs once a second, with its delays counted in seconds all the same.

**AWS's target tracking** on the backlog per instance, in an EC2 Auto Scaling group. Sources: "Scaling policy based
on Amazon SQS" and "Target tracking scaling policies" in the EC2 Auto Scaling user guide
(https://docs.aws.amazon.com/autoscaling/ec2/userguide/: as-using-sqs-queue, as-scaling-target-tracking): backlog per
instance = ApproximateNumberOfMessages ÷ instances in service; its target = acceptable latency ÷ time of a message;
out in proportion to the metric, in more gradually, results rounded so that rather too many stay; an instance that
warms up counts as capacity, and nothing is removed while one does; by default it warms up for the group's cooldown,
300 s. Not documented, and derived from the alarms that it creates: above the target for 3 datapoints of a minute it
scales out, below 0.9 of the target for 15 it scales in, and an alarm that stays acts again each minute. In its
favour here: an instance that is removed finishes what it has first. Without an instance there is no backlog per
instance, so the group keeps one, which is ready before the trace begins.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from core.config import FleetSettings, PriceSettings
from services.ec2 import Instance
from services.sqs import QueueCounts
from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.estimators import ArrivalRateEstimator
from web_tier.autoscaler.observe import FleetMetrics, Observation
from web_tier.autoscaler.policies import POLICIES

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When a simulated trace begins by the wall clock, which launch times are told by."""
IDLE_SECONDS: Final = 10.0
"""After which an idle worker ends itself, in the comparison."""
MINIMUM_SECONDS: Final = 60.0
"""Billed at least for each start, as in config.yaml's price table."""


class Ours:
    """Passes one view after the other to `decide`, and turns its plans into actions.

    Args:
        settings: the fleet section of config.yaml; its policy decides.
        terms: how workers are run, `idle_seconds` as in the worker section.
        prices: of config.yaml, for the spending caps; without them there are none.
    """

    def __init__(self, settings: FleetSettings, terms: PolicyTerms, prices: PriceSettings | None = None) -> None:
        self.terms = terms
        self._settings = settings
        self._now = 0.0
        self._meter = None if prices is None else self._metered(prices)
        self._arrivals = ArrivalRateEstimator(clock=lambda: self._now)
        self._instances: tuple[Instance, ...] = ()
        self._changes = -1

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what the controller would do."""
        self._now = view.now
        if view.changes != self._changes:
            self._changes = view.changes
            self._instances = tuple(
                Instance(
                    instance_id=worker.name,
                    state="running" if worker.running_at <= view.now else "pending",
                    instance_type=self._settings.instance_types[0],
                    zone="us-east-1a",
                    launched_at=BEGIN + timedelta(seconds=worker.launched_at),
                    draining=worker.draining,
                    spot=self._settings.market == "spot",
                )
                for worker in view.workers
            )
        requests = QueueCounts(view.visible, view.in_flight, 0)
        observation = Observation(
            requests=requests,
            dead_letters=0,
            instances=self._instances,
            draining=frozenset(each.name for each in view.workers if each.draining),
            protected=frozenset(each.name for each in view.workers if each.protected),
            demand=self._arrivals.update(requests, view.answered),
            metrics=metrics(view),
            at=BEGIN + timedelta(seconds=view.now),
        )
        if self._meter is not None:
            self._meter.update(observation)
            observation = replace(observation, spending=self._meter.spending(observation, self._settings))
        plan = decide(observation, self._settings)
        return ScalingAction(plan.launch + len(plan.start), plan.drain, plan.protect, plan.unprotect)

    def _metered(self, prices: PriceSettings) -> BillingMeter | None:
        """Return a meter of the simulated bill; None if no cap needs one."""
        if not self._settings.has_spending_cap:
            return None
        return BillingMeter(
            prices.minimum_billed_seconds,
            lambda each: prices.hourly(each.instance_type, spot=each.spot),
            clock=lambda: self._now,
            now=lambda: BEGIN + timedelta(seconds=self._now),
            on_demand=prices.hourly,
        )


def metrics(view: FleetView) -> FleetMetrics:
    """Return what the controller would have measured."""
    available = [each for each in view.workers if not each.draining]
    booting = [each for each in available if each.ready_at > view.now]
    spare_since = view.now - MINIMUM_SECONDS
    return FleetMetrics(
        image_seconds=view.image_seconds,
        boot_seconds=view.boot_seconds,
        unregistered={each.name: view.now - each.launched_at for each in booting},
        spare=tuple(each.name for each in available if each.running_at <= spare_since and each.name in view.idle),
    )


def ours(
    settings: FleetSettings,
    interval_seconds: float = 1.0,
    idle_seconds: float = IDLE_SECONDS,
    prices: PriceSettings | None = None,
) -> NamedPolicy:
    """Return the policy that `settings` names, by that name; with `prices`, the spending caps hold."""
    without_work = Observation(QueueCounts(0, 0, 0), 0, (), at=BEGIN)
    floor = POLICIES[settings.policy](without_work, settings).kept_without_work(settings)
    terms = PolicyTerms(interval_seconds, idle_seconds, floor)
    return NamedPolicy(settings.policy, lambda: Ours(settings, terms, prices))


@dataclass
class OnePerMessage:
    """Launches a worker for each message that waits or is in flight, up to the maximum; what most peers do."""

    terms: PolicyTerms
    max_workers: int

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what is lacking."""
        lacking = min(view.visible + view.in_flight, self.max_workers) - len(view.workers)
        return ScalingAction(max(0, lacking))


@dataclass
class Fixed:
    """Keeps what was prepared before the trace began, all the time."""

    terms: PolicyTerms

    def decide(self, view: FleetView) -> ScalingAction:  # noqa: ARG002 - the seam's
        """Return nothing to do."""
        return NO_ACTION


def one_per_message(max_workers: int, idle_seconds: float = 10.0) -> NamedPolicy:
    """Return the rule that launches one worker for each message up to `max_workers`."""
    terms = PolicyTerms(idle_seconds=idle_seconds)
    return NamedPolicy("one per message", lambda: OnePerMessage(terms, max_workers))


def fixed(workers: int) -> NamedPolicy:
    """Return the rule that keeps `workers`, booted and billed before the trace begins."""
    terms = PolicyTerms(floor=workers, prepared=workers)
    return NamedPolicy(f"fixed {workers}", lambda: Fixed(terms))


POLLING_SECONDS: Final = 30.0
QUEUE_LENGTH: Final = 5


def jobs_to_create(queue: int, running: int, pending: int, maximum: int, queue_length: int = QUEUE_LENGTH) -> int:
    """Return how many jobs KEDA creates.

    Args:
        queue: messages that wait.
        running: jobs that have not finished, those that have not started among them (as in KEDA's count).
        pending: of these, the ones that have not started.
        maximum: `maxReplicaCount`.
        queue_length: messages that one job is for.
    """
    max_scale = min(maximum, math.ceil(queue / queue_length))
    effective = maximum - running if max_scale + running > maximum else max_scale - pending
    return max(0, min(max_scale, effective))


@dataclass
class Keda:
    """Creates jobs, each a worker that takes messages until there are none; they end themselves."""

    terms: PolicyTerms
    maximum: int
    _next_poll: float = 0.0

    def decide(self, view: FleetView) -> ScalingAction:
        """Return the jobs to create, once in a polling interval."""
        if view.now < self._next_poll:
            return NO_ACTION
        self._next_poll = view.now + POLLING_SECONDS
        pending = sum(worker.ready_at > view.now for worker in view.workers)
        return ScalingAction(jobs_to_create(view.visible, len(view.workers), pending, self.maximum))


def keda_accurate(max_workers: int, idle_seconds: float = 10.0) -> NamedPolicy:
    """Return KEDA's accurate strategy with its defaults."""
    terms = PolicyTerms(idle_seconds=idle_seconds)
    return NamedPolicy("KEDA accurate", lambda: Keda(terms, max_workers))


@dataclass(frozen=True, slots=True)
class RaySettings:
    """`AutoscalingConfig`, with the names and defaults that Ray gives."""

    max_replicas: int
    min_replicas: int = 0
    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0


def desired_replicas(ongoing: float, running: int, settings: RaySettings) -> int:
    """Return the replicas that Ray desires for so many ongoing requests, before its delays."""
    raw = ongoing / settings.target_ongoing_requests
    delta = raw - running
    factor = settings.upscaling_factor if delta > 0 else settings.downscaling_factor
    scaled = math.ceil(running + factor * delta)
    if math.ceil(raw) < running and scaled == running:
        scaled -= 1
    return max(settings.min_replicas, min(settings.max_replicas, scaled))


@dataclass
class RayServe:
    """Decides once a second with Ray's counters."""

    settings: RaySettings
    terms: PolicyTerms = field(default_factory=PolicyTerms)
    _target: int = 0
    _counter: int = 0
    _ongoing: deque[int] = field(default_factory=deque)

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what brings the fleet to Ray's target."""
        self._ongoing.append(view.visible + view.in_flight)
        if len(self._ongoing) > self.settings.look_back_period_s / self.terms.interval_seconds:
            self._ongoing.popleft()
        ongoing = sum(self._ongoing) / len(self._ongoing)
        if view.ready:
            self._target = self._delayed(desired_replicas(ongoing, view.ready, self.settings))
        elif ongoing > 0:
            self._target = max(math.ceil(self.settings.upscaling_factor), self._target)
        supply = view.supply
        if self._target < supply:
            return ScalingAction(drain=view.surplus(supply - self._target))
        room = self.settings.max_replicas - len(view.workers)
        return ScalingAction(min(self._target - supply, room)) if self._target > supply else NO_ACTION

    def _delayed(self, desired: int) -> int:
        """Return the target once a wish in the same direction has lasted for its delay."""
        periods = 1 / self.terms.interval_seconds
        if desired > self._target:
            self._counter = max(self._counter, 0) + 1
            if self._counter > int(self.settings.upscale_delay_s * periods):
                self._counter = 0
                return desired
        elif desired < self._target:
            self._counter = min(self._counter, 0) - 1
            if self._counter < -int(self.settings.downscale_delay_s * periods):
                self._counter = 0
                # To zero only from one.
                return desired if self._target == 1 else max(1, desired)
        else:
            self._counter = 0
        return self._target


def ray_serve(max_workers: int) -> NamedPolicy:
    """Return Ray Serve's rule with its defaults, from zero replicas."""
    return NamedPolicy("Ray Serve", lambda: RayServe(RaySettings(max_workers)))


PERIOD_SECONDS: Final = 60.0
DATAPOINTS_OUT: Final = 3
DATAPOINTS_IN: Final = 15
IN_BELOW: Final = 0.9
WARMUP_SECONDS: Final = 300.0
COOLDOWN_SECONDS: Final = 300.0
ACCEPTABLE_SECONDS: Final = 10.0
"""The acceptable latency of AWS's own example."""


def acceptable_backlog(acceptable_seconds: float, image_seconds: float) -> float:
    """Return the target value: messages that an instance may have before it."""
    return acceptable_seconds / image_seconds


def wanted(messages: int, instances: int, target: float) -> int:
    """Return the capacity that brings the backlog per instance to `target`: in proportion, rounded up."""
    backlog_per_instance = messages / instances
    # Rounded first, so that 150 ÷ 100 · 10 is 15 in spite of floats.
    return math.ceil(round(instances * backlog_per_instance / target, 9))


@dataclass
class TargetTracking:
    """An Auto Scaling group of at least one instance."""

    target: float
    maximum: int
    terms: PolicyTerms = field(default_factory=lambda: PolicyTerms(floor=1, prepared=1))
    _metric: deque[float] = field(default_factory=lambda: deque(maxlen=DATAPOINTS_IN))
    _next_datapoint: float = 0.0
    _desired: int = 1
    _not_in_before: float = 0.0

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what the alarms and the group's desired capacity ask for."""
        if view.now >= self._next_datapoint:
            self._next_datapoint += PERIOD_SECONDS
            self._evaluate(view)
        supply = view.supply
        if self._desired < supply:
            return ScalingAction(drain=view.surplus(supply - self._desired))
        lacking = min(self._desired - supply, self.maximum - len(view.workers))
        return ScalingAction(lacking) if lacking > 0 else NO_ACTION

    def _evaluate(self, view: FleetView) -> None:
        in_service = view.ready
        if in_service == 0:
            return  # no datapoint: the alarms have insufficient data
        self._metric.append(view.visible / in_service)
        want = max(1, min(self.maximum, wanted(view.visible, in_service, self.target)))
        latest = list(self._metric)[-DATAPOINTS_OUT:]
        is_high = len(latest) == DATAPOINTS_OUT and min(latest) > self.target
        is_low = len(self._metric) == DATAPOINTS_IN and max(self._metric) < IN_BELOW * self.target
        if is_high and want > self._desired:
            self._desired = want
            self._not_in_before = view.now + WARMUP_SECONDS
        elif is_low and want < self._desired and view.now >= self._not_in_before:
            self._desired = want
            self._not_in_before = view.now + COOLDOWN_SECONDS


def target_tracking(
    max_workers: int, image_seconds: float, acceptable_seconds: float = ACCEPTABLE_SECONDS
) -> NamedPolicy:
    """Return AWS's rule for images that take `image_seconds` and may wait `acceptable_seconds`."""
    target = acceptable_backlog(acceptable_seconds, image_seconds)
    return NamedPolicy("target tracking", lambda: TargetTracking(target, max_workers))
