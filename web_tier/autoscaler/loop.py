"""One round of the autoscaler: observe, decide, act, report.

A fleet at rest has no workers, no messages and nothing to start. Its next round follows after `REST_SECONDS`, or at
once after a demand signal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

from botocore.exceptions import BotoCoreError, ClientError

from core.config import FleetSettings
from core.fleet.models import FleetSpending
from core.fleet.store import Commands, FleetStore
from services.demand_signal import DemandListener
from services.sqs import QueueCounts
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.drain import OperatorCommands, WorkerTags
from web_tier.autoscaler.drift import DriftDetector
from web_tier.autoscaler.estimators import ArrivalRateEstimator, MetricsCollector
from web_tier.autoscaler.explain import circuit_problem, explain
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.health import UnhealthyTerminator
from web_tier.autoscaler.later import LaterJobs
from web_tier.autoscaler.launcher import Launcher
from web_tier.autoscaler.observe import Demand, FleetDescription, Observation, Observer
from web_tier.autoscaler.policies import PLANNING_POLICIES
from web_tier.autoscaler.reporting import Reporter, SpendingWatcher

ROUND_CPU_FACTOR = 40.0
"""The next round begins after at least so many times the CPU time of this one: rounds use 2.5% of a core at most.

It makes rounds rarer only for fleets of some hundred workers. Descriptions of the fleet are not counted: they have a
bound of their own.
"""
REST_SECONDS = 1.0
"""Time between two rounds while the fleet is at rest and a demand signal would end the wait."""
SIGNALLED_SECONDS = 5.0
"""How long rounds follow as usual after a demand signal: SQS's counts may show the messages later."""


@dataclass
class Autoscaler:
    """Brings the fleet to what the queue needs, within the limits in force.

    Attributes:
        release: called in each round with the ids of the instances that run or start.
        on_spending: called in each round with the cost beside the spending caps, or None without a cap.
        on_outage: called in each round with the reason why the fleet cannot work, or None if it can.
    """

    config: FleetConfigWatcher
    store: FleetStore
    observer: Observer
    health: UnhealthyTerminator
    launcher: Launcher
    meter: BillingMeter
    reporter: Reporter
    later: LaterJobs
    interval_seconds: float
    signals: DemandListener | None = None
    release: Callable[[frozenset[str]], object] = lambda _capacity_ids: None
    on_spending: Sequence[Callable[[FleetSpending | None], object]] = ()
    on_outage: Sequence[Callable[[str | None], object]] = ()
    _signalled_at: float = field(default=float("-inf"), init=False)
    _arrivals: ArrivalRateEstimator = field(init=False)
    _metrics: MetricsCollector = field(init=False)
    _tags: WorkerTags = field(init=False)
    _commands: OperatorCommands = field(init=False)
    _drift: DriftDetector = field(init=False)
    _spending: SpendingWatcher = field(default_factory=SpendingWatcher, init=False)

    def __post_init__(self) -> None:
        """Make the parts that work with the same fleet, clock and lease."""
        fleet, clock = self.health.fleet, self.observer.clock
        self._arrivals = ArrivalRateEstimator()
        self._metrics = MetricsCollector(self.health.tracker, self.meter)
        self._tags = WorkerTags(fleet, self.health.tenure, clock)
        self._drift = DriftDetector(fleet, self.health.tenure, clock)
        self._commands = OperatorCommands(self.store, self._tags)

    def tick(self) -> float:
        """Run one round; return the seconds until the next.

        Raises:
            BotoCoreError, ClientError: when the fleet could not be observed, so nothing was decided.
        """
        # Signals until now announce messages that this round counts.
        is_listening = self.interval_seconds < REST_SECONDS and self.signals is not None and self.signals.listen()
        began, cpu_began = self.observer.clock.monotonic(), self._cpu_seconds()
        try:
            # First of all: launches of the previous controller count as capacity.
            self.launcher.sync_from_store()
            commands = self._commands.current()
            settings = self.config.current(commands.limits)
            observation = self._observe(settings, commands)
        except (BotoCoreError, ClientError) as error:
            problem = f"the fleet or its queue could not be observed: {error}"
            for observe in self.on_outage:
                observe(problem)
            self.reporter.snapshots.write_problem(problem)
            raise
        plan = decide(observation, settings)
        starting = self.launcher.starting  # before a start is repeated, which may succeed
        self.launcher.apply(plan, observation, settings)
        self.release(observation.capacity_ids)
        reason = explain(plan, observation, settings)
        self._tags.drain(plan.drain, reason)
        self._tags.untag_stopped(observation.instances)
        self._tags.protect(plan.protect, plan.unprotect)
        self._drift.terminate_stopped([each for each in plan.discard if each not in starting])
        self.health.terminate_confirmed()
        self._report(plan, reason, observation, settings)
        pause = max(self.interval_seconds, ROUND_CPU_FACTOR * (self._cpu_seconds() - cpu_began))
        was_signalled = began - self._signalled_at < SIGNALLED_SECONDS
        if self.signals is None or not is_listening or was_signalled or not is_at_rest(observation, plan):
            return pause
        if self.signals.wait(REST_SECONDS):
            self._signalled_at = self.observer.clock.monotonic()
        return max(0.0, pause - (self.observer.clock.monotonic() - began))  # signals never shorten the pause

    def _cpu_seconds(self) -> float:
        """Return the CPU time of this thread without that of descriptions."""
        return self.observer.clock.cpu_seconds() - self.observer.cpu_seconds

    def _observe(self, settings: FleetSettings, commands: Commands) -> Observation:
        fleet = self.observer.describe()
        self.meter.update(fleet)  # before the decision: what has begun to run is metered, and no longer committed
        draining = self._tags.draining(fleet.instances)
        unhealthy = self.health.check(fleet, draining, settings)  # also updates the tracker, which the metrics read
        available, registry = fleet.capacity_ids - draining - unhealthy, self.health.tracker.registry
        metrics = self._metrics.update(fleet, available, settings.max_lifetime_seconds)
        working = available.difference(metrics.unregistered)
        return Observation(
            **{each.name: getattr(fleet, each.name) for each in fields(FleetDescription)},
            draining=draining,
            protected=self._tags.protected(fleet.instances),
            unhealthy=unhealthy,
            demand=self._demand(fleet.requests, settings, registry.answers, registry.clock.monotonic()),
            metrics=metrics,
            pause=commands.pause,
            drifted=self._drift.drifted(fleet.instances, settings.launch_template, working),
            lacks_replacement=self._drift.lacks_replacement,
            spending=self.meter.spending(fleet, settings, commands.allowance),
        )

    def _demand(self, requests: QueueCounts, settings: FleetSettings, answers: int, now: float) -> Demand:
        if settings.policy not in PLANNING_POLICIES:
            return self._arrivals.update(requests, answers, now)
        others = self.later.others(requests, answers)  # the estimates are theirs alone
        return replace(self._arrivals.update(others, answers - self.later.arrived, now), later=self.later.due)

    def _report(self, plan: Plan, reason: str, observation: Observation, settings: FleetSettings) -> None:
        config, health, meter, reporter = self.config, self.health, self.meter, self.reporter
        outage = circuit_problem(observation.metrics.circuit)
        others = (outage, health.last_error, self._drift.problem, config.problem)
        status = _joined(self.launcher.status_text, *others)
        limits = (config.override, config.configured)
        reporter.snapshots.write(
            observation, reason, settings, meter, status, limits, launch_error=self.launcher.last_error
        )
        reporter.metrics.update(observation, settings, meter)
        # After the snapshot, the bill and the metrics: these must not depend on the deletion of commands.
        command_events = [*self._commands.report_resume(), *self._commands.carry_out_drains(observation)]
        # Without the time of the next try, which changes in each round and is no event.
        problem = _joined(self.launcher.last_error, *others)
        spending_events = self._spending.update(observation.spending)
        for observe_spending in self.on_spending:
            observe_spending(observation.spending)
        is_stuck = observation.requests.total > 0 and not observation.capacity
        for observe_outage in self.on_outage:
            observe_outage(outage or (self.launcher.last_error if is_stuck else None))
        events = [*config.drain_events(), *command_events, *spending_events, *health.drain_events()]
        reporter.report(
            observation,
            plan,
            reason,
            problem,
            events,
            unhealthy=health.reasons(),
            billed_since=meter.billed_since,
        )


def is_at_rest(observation: Observation, plan: Plan) -> bool:
    """Return whether the fleet has no workers, no messages and nothing to start."""
    return observation.requests.total + observation.capacity + plan.starts == 0


def _joined(*problems: str | None) -> str | None:
    return "; ".join(problem for problem in problems if problem) or None
