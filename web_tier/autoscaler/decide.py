"""The decision: how many workers to start, drain or protect, and why. Pure: equal input gives an equal plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core.config import FleetSettings
from services.ec2 import ALIVE
from web_tier.autoscaler.observe import Observation
from web_tier.autoscaler.policies import POLICIES, DesiredCapacity

ROTATED_FRACTION = 10
"""One worker in so many, or one, is replaced for its age at a time."""

DRIFTED_FRACTION = 4
"""One worker in so many, or one, is replaced at a time because its launch template has another default version."""

DecisionKind = Literal[
    "paused",
    "capped",
    "starting",
    "limited",
    "failing",
    "draining",
    "rotating",
    "replacing",
    "too_many",
    "at_maximum",
    "idle",
    "enough",
]
"""Kind of a decision. A new event is logged when it changes, not whenever the figures change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do in this round; `explain` says why in words.

    Attributes:
        start: ids of stopped instances to start first.
        rule: the policy's rule, or the minimum, that makes the fleet so large; if idle, why workers are kept.
        missing: workers to start within `max_workers`; the spending caps or the launch rate may allow fewer.
        unprotect: ids of workers that need this protection no longer.
        discard: ids of stopped instances to terminate, because they would start again as an earlier version.
        max_launches: how many launches the spending caps, and failed runs, leave room for; None for no limit.
        is_patient: whether what is launched may wait for Spot capacity, if the fleet is of Spot Instances.
    """

    launch: int
    start: tuple[str, ...]
    kind: DecisionKind
    rule: str = ""
    missing: int = 0
    drain: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()
    discard: tuple[str, ...] = ()
    max_launches: int | None = None
    is_patient: bool = False

    @property
    def starts(self) -> int:
        """Number of instances to launch and to start."""
        return self.launch + len(self.start)


def decide(observation: Observation, settings: FleetSettings) -> Plan:
    """Return the plan that brings the fleet to what the policy asks for, within the limits.

    Workers stop by themselves when they are idle, so surplus workers are drained only where the policy has a
    `maximum`. While workers end without an answer, one at a time is started, after the circuit's pause. While the
    fleet is paused nothing is started, not even to reach `min_workers`.

    While a spending cap is reached nothing is started either, and no worker is kept without work: each ends when it
    is idle, or has run for `max_lifetime_seconds`. So what is spent beyond the cap is bounded.
    """
    desired = POLICIES[settings.policy](observation, settings)
    always_on = 0 if observation.is_capped else desired.kept_without_work(settings)
    keep = workers_to_protect(observation, always_on)
    if observation.pause is not None:
        plan = Plan(0, (), "paused")
    elif observation.is_capped:
        spare = _surplus(observation, min(settings.max_workers, desired.maximum), ())
        aged = [each for each in observation.metrics.past_lifetime if each in observation.available_ids]
        drain = tuple(dict.fromkeys((*spare, *aged)))
        plan = Plan(0, (), "capped", drain=drain)
    else:
        plan = _size(observation, settings, desired, always_on, keep)
        # While new workers cannot work, those that do are not replaced.
        if not plan.drain and observation.metrics.circuit.is_closed:
            plan = _replace_some(plan, observation)
    protect = tuple(each for each in keep if each not in observation.protected)
    unprotect = tuple(sorted(observation.protected.difference(keep)))
    return replace(plan, protect=protect, unprotect=unprotect, discard=_stopped_drifted(observation))


def workers_to_protect(observation: Observation, count: int) -> tuple[str, ...]:
    """Return `count` workers to protect from scale-in: protected ones first, then registered ones, oldest first.

    A booting worker is protected only if there are too few others, so that it knows before it is idle for the first
    time. Workers that are about to end, or do not work, are never protected.
    """
    available, unregistered = observation.available_ids, observation.metrics.unregistered
    alive = [
        each.instance_id for each in observation.instances if each.state in ALIVE and each.instance_id in available
    ]
    return tuple(sorted(alive, key=lambda key: (key not in observation.protected, key in unregistered))[:count])


def _size(
    observation: Observation,
    settings: FleetSettings,
    desired: DesiredCapacity,
    always_on: int,
    protected: tuple[str, ...],
) -> Plan:
    """Return the plan that makes the fleet as large as desired."""
    minimum = max(always_on, min(settings.max_workers, desired.minimum))
    shortfall = max(0, minimum - observation.available)
    missing = allowed = min(shortfall, max(0, settings.max_workers - observation.capacity))
    circuit = observation.metrics.circuit
    is_probing = not circuit.is_closed
    affordable = None if observation.spending is None else observation.spending.launches_left
    if affordable is not None:
        allowed = min(allowed, affordable)
    if is_probing:
        allowed = affordable = min(allowed, 0 if observation.available else 1)
    launching = min(allowed, max(0, settings.launches_per_minute - observation.recent_launches))
    if is_probing and observation.since_launch < circuit.probe_seconds:
        launching = 0
    unfit = {*observation.launching, *observation.drifted}
    start = tuple(
        each.instance_id
        for each in observation.instances
        # A worker that was drained before it stopped would end again at once.
        if each.state == "stopped" and not each.draining and each.instance_id not in unfit
    )[:launching]
    kind: DecisionKind
    if is_probing and (shortfall or observation.requests.total):
        kind = "failing"
    elif launching < allowed:
        kind = "limited"
    elif allowed:
        kind = "starting"
    elif observation.capacity > settings.max_workers:
        kind = "too_many"
    elif desired.minimum > settings.max_workers:
        kind = "at_maximum"
    else:
        kind = "enough" if observation.requests.total else "idle"
    rule = "" if kind == "idle" and not always_on else _why(desired, settings, always_on)
    keep = max(minimum, min(settings.max_workers, desired.maximum))
    if drain := _surplus(observation, keep, protected):
        kind = "draining"
    is_patient = desired.is_patient and observation.available >= always_on
    return Plan(
        launching - len(start), start, kind, rule, missing, drain, max_launches=affordable, is_patient=is_patient
    )


def _why(desired: DesiredCapacity, settings: FleetSettings, always_on: int) -> str:
    """Return what makes the fleet so large: the policy's rule for the work, or a minimum above it."""
    if always_on <= min(settings.max_workers, desired.minimum):
        return desired.rule
    return desired.always_on_rule or f"the minimum is {always_on}"


def _surplus(observation: Observation, keep: int, protected: tuple[str, ...]) -> tuple[str, ...]:
    """Return the spare workers beyond `keep`, while no image waits.

    A count of the queue may be wrong for a minute; therefore no worker that has an image is drained.
    """
    if observation.requests.waiting:
        return ()
    # A booting worker replaces none: it may take long, or never report.
    spare = [each for each in observation.metrics.spare if each not in protected]
    return tuple(spare[: max(0, observation.ready - keep)])


def _replace_some(plan: Plan, observation: Observation) -> Plan:
    """Return the plan with the workers to drain because of their launch template, or else for their age.

    While workers are missing, one at a time is drained for its template, if another works in the place of the last.
    """
    drain = _workers_to_replace(observation, observation.drifted, DRIFTED_FRACTION)
    if plan.missing:
        drain = () if observation.lacks_replacement else drain[:1]
    if drain:
        return replace(plan, drain=drain, kind="replacing")
    if plan.missing:
        return plan
    if drain := _workers_to_replace(observation, observation.metrics.past_lifetime, ROTATED_FRACTION):
        return replace(plan, drain=drain, kind="rotating")
    return plan


def _stopped_drifted(observation: Observation) -> tuple[str, ...]:
    drifted = {*observation.drifted} - observation.launching
    stopped = (each.instance_id for each in observation.instances if each.state == "stopped")
    return tuple(instance_id for instance_id in stopped if instance_id in drifted)


def _workers_to_replace(observation: Observation, candidates: Sequence[str], fraction: int) -> tuple[str, ...]:
    """Return the workers among `candidates` to drain now, in their order: one in `fraction`, or one, at a time.

    Draining, unhealthy and booting workers count towards the number that is replaced at a time. So the next worker is
    drained when the one before has ended and another one works in its place.
    """
    available = observation.available_ids
    changing = len(observation.capacity_ids - available) + len(observation.metrics.unregistered)
    room = max(1, len(available) // fraction) - changing
    return tuple(each for each in candidates if each in available)[: max(0, room)]
