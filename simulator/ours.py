"""The product's own policies: the very `decide` that the controller runs, shown the simulated fleet."""

from datetime import UTC, datetime, timedelta
from typing import Final

from core.config import FleetSettings
from services.ec2 import Instance
from services.sqs import QueueCounts
from simulator.policy import FleetView, NamedPolicy, PolicyTerms, ScalingAction, Worker
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.estimators import ArrivalRateEstimator
from web_tier.autoscaler.observe import FleetMetrics, Observation

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
    """

    def __init__(self, settings: FleetSettings, terms: PolicyTerms) -> None:
        self.terms = terms
        self._settings = settings
        self._now = 0.0
        self._arrivals = ArrivalRateEstimator(clock=lambda: self._now)
        self._instances: tuple[Instance, ...] = ()
        self._changes = -1

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what the controller would do."""
        self._now = view.now
        plan = decide(self._observation(view), self._settings)
        return ScalingAction(plan.launch + len(plan.start), plan.drain, plan.protect, plan.unprotect)

    def _observation(self, view: FleetView) -> Observation:
        """Return what the controller would have observed."""
        if view.changes != self._changes:
            self._instances = tuple(_described(each, view.now, self._settings) for each in view.workers)
            self._changes = view.changes
        requests = QueueCounts(view.visible, view.in_flight, 0)
        return Observation(
            requests=requests,
            dead_letters=0,
            instances=self._instances,
            draining=frozenset(each.name for each in view.workers if each.draining),
            protected=frozenset(each.name for each in view.workers if each.protected),
            demand=self._arrivals.update(requests, view.answered),
            metrics=metrics(view),
            at=BEGIN + timedelta(seconds=view.now),
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


def ours(settings: FleetSettings, interval_seconds: float = 1.0, idle_seconds: float = IDLE_SECONDS) -> NamedPolicy:
    """Return the policy that `settings` names, by that name."""
    floor = settings.max_workers if settings.policy == "fixed" else settings.min_workers
    terms = PolicyTerms(interval_seconds, idle_seconds, floor)
    return NamedPolicy(settings.policy, lambda: Ours(settings, terms))


def _described(worker: Worker, now: float, settings: FleetSettings) -> Instance:
    return Instance(
        instance_id=worker.name,
        state="running" if worker.running_at <= now else "pending",
        instance_type=settings.instance_types[0],
        zone="us-east-1a",
        launched_at=BEGIN + timedelta(seconds=worker.launched_at),
        draining=worker.draining,
    )
