"""Decide: how many workers to start, and why. Pure: the same observation and limits give the same plan."""

import math
from dataclasses import dataclass, replace

from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.apply.standby import to_stand_by
from web_tier.controller.autoscaler.decide import reasons
from web_tier.controller.autoscaler.decide.deadline import Want
from web_tier.controller.autoscaler.decide.deadline import wanted as by_deadline
from web_tier.controller.autoscaler.decide.restraint import boots_fail, max_launches, to_renew
from web_tier.controller.autoscaler.decide.schedule import on_schedule
from web_tier.controller.autoscaler.observe.observe import Observation


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        launch: new instances to launch.
        start: ids of stopped instances to start first.
        kind: what sort of decision it is.
        reason: why, in words for people.
        drain: ids of workers to ask that they finish what they have and end.
        stay: ids of workers to ask that they stay when they are idle.
        leave: ids of those that have been asked to, and need not any longer.
    """

    launch: int
    start: tuple[str, ...]
    kind: reasons.Kind
    reason: str
    drain: tuple[str, ...] = ()
    stay: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()


def decide(observation: Observation, limits: FleetConfig) -> Plan:
    """Return the plan that brings the fleet to what the policy wants, within the limits.

    Workers end themselves when they are idle, so a fleet that is larger than wanted is left alone, but by `deadline`
    and `schedule`. While the fleet is paused nothing is started, also below the lower limit.
    """
    limits = on_schedule(observation, limits)
    standby = to_stand_by(observation, limits.max_workers if limits.policy == "fixed" else limits.min_workers)
    if observation.paused is None:
        plan = _sized(observation, limits, standby)
    else:
        plan = Plan(0, (), "paused", reasons.paused(observation, observation.paused))
    standing = observation.standby
    stay = tuple(each for each in standby if each not in standing)
    return replace(plan, stay=stay, leave=tuple(sorted(standing.difference(standby))))


def _sized(observation: Observation, limits: FleetConfig, standby: tuple[str, ...]) -> Plan:
    """Return the plan that makes the fleet as large as wanted."""
    asked = wanted(observation, limits)
    want = Want(*(_clamped(each, limits) for each in (asked.workers, asked.keep)))
    short = max(0, want.workers - observation.serving)
    lacking = min(short, max(0, limits.max_workers - observation.supply))
    launching = min(lacking, max_launches(observation, limits))
    start = _stopped(observation)[:launching]
    kind, reason = reasons.sized(observation, limits, lacking, short=asked.workers > limits.max_workers)
    if launching < lacking or (lacking and boots_fail(observation)):
        kind, reason = reasons.restrained(observation, limits, lacking)
    drain = _surplus(observation, want, standby) if not lacking else ()
    if not short and not drain and (drain := to_renew(observation)):
        kind, reason = "renewing", reasons.renewal(drain, limits)
    return Plan(launching - len(start), start, kind, reason, drain)


def wanted(observation: Observation, limits: FleetConfig) -> Want:
    """Return how many workers the policy asks for, regardless of the limits."""
    match limits.policy:
        case "deadline" | "schedule":
            return by_deadline(observation, limits)
        case "fixed":
            return Want(limits.max_workers, limits.max_workers)
        case "backlog":
            return Want(math.ceil(observation.requests.total / limits.images_per_worker), limits.max_workers)


def _clamped(workers: int, limits: FleetConfig) -> int:
    return max(limits.min_workers, min(limits.max_workers, workers))


def _surplus(observation: Observation, want: Want, standby: tuple[str, ...]) -> tuple[str, ...]:
    """Return the workers that end for want of work: only when nothing waits, and only those that are spare.

    A count of the queue may be wrong for a minute; a worker that has an image in hand is not asked to end by it.
    """
    if observation.requests.waiting:
        return ()
    # One that boots may take long, or never report: it replaces no worker yet.
    ready = observation.serving - len(observation.measured.booting)
    most = max(0, ready - max(want.keep, want.workers))
    return tuple(each for each in observation.measured.spare if each not in standby)[:most] if most else ()


def _stopped(observation: Observation) -> tuple[str, ...]:
    return tuple(
        instance.instance_id
        for instance in observation.instances
        # One that was asked to end before it stopped would end again.
        if instance.state == "stopped" and not instance.draining and instance.instance_id not in observation.coming
    )
