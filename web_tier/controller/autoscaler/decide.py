"""Decide: how many workers to start, and why. Pure: the same observation and limits give the same plan."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from services.config import Fleet as FleetConfig
from services.messages import FleetPause
from services.sqs import QueueCounts
from web_tier.controller.autoscaler.deadline import Want
from web_tier.controller.autoscaler.deadline import wanted as by_deadline
from web_tier.controller.autoscaler.observe import Measured, Observation
from web_tier.controller.autoscaler.restraint import boots_fail, most_launches, to_renew, why_restrained
from web_tier.controller.autoscaler.schedule import on_schedule
from web_tier.controller.autoscaler.standby import to_stand_by

Kind = Literal["paused", "starting", "limited", "failing", "renewing", "too_many", "most", "idle", "enough"]
"""What sort of decision it is; while that stays the same, figures may change and there is no news."""


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
    kind: Kind
    reason: str
    drain: tuple[str, ...] = ()
    stay: tuple[str, ...] = ()
    leave: tuple[str, ...] = ()


def decide(observation: Observation, limits: FleetConfig) -> Plan:
    """Return the plan that brings the fleet to what the policy wants, within the limits.

    Workers end themselves when they are idle, so a fleet that is larger than wanted is left alone, but by `deadline`
    and `schedule`. While the fleet is paused nothing is started, whatever the limits say.
    """
    limits = on_schedule(observation, limits)
    standby = to_stand_by(observation, limits.max_workers if limits.policy == "fixed" else limits.min_workers)
    if observation.paused is None:
        plan = _sized(observation, limits, standby)
    else:
        plan = Plan(0, (), "paused", _paused_reason(observation, observation.paused))
    standing = observation.standby
    stay = tuple(each for each in standby if each not in standing)
    return replace(plan, stay=stay, leave=tuple(sorted(standing.difference(standby))))


def _sized(observation: Observation, limits: FleetConfig, standby: tuple[str, ...]) -> Plan:
    """Return the plan that makes the fleet as large as wanted."""
    asked = wanted(observation, limits)
    want = Want(*(_clamped(each, limits) for each in (asked.workers, asked.keep)))
    short = max(0, want.workers - observation.serving)
    lacking = min(short, max(0, limits.max_workers - observation.supply))
    launching = min(lacking, most_launches(observation, limits))
    start = _stopped(observation)[:launching]
    kind, reason = _reason(observation, limits, lacking, short=asked.workers > limits.max_workers)
    if launching < lacking or (lacking and boots_fail(observation)):
        kind, reason = _restrained(observation, limits, lacking)
    drain = _surplus(observation, want, standby) if not lacking else ()
    if not short and not drain and (drain := to_renew(observation)):
        kind, reason = "renewing", _renewal(drain, limits)
    return Plan(launching - len(start), start, kind, reason, drain)


def wanted(observation: Observation, limits: FleetConfig) -> Want:
    """Return how many workers the policy asks for, whatever the limits."""
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
    """Return the workers that end for want of work: only when nothing waits, and only those whose end saves money."""
    if observation.requests.visible + observation.requests.delayed:
        return ()
    most = max(0, observation.serving - max(want.keep, want.workers))
    return tuple(each for each in observation.measured.paid if each not in standby)[:most] if most else ()


def _stopped(observation: Observation) -> tuple[str, ...]:
    return tuple(
        instance.instance_id
        for instance in observation.instances
        # One that was asked to end before it stopped would end again.
        if instance.state == "stopped" and not instance.draining and instance.instance_id not in observation.coming
    )


def _paused_reason(observation: Observation, pause: FleetPause) -> str:
    why = f" ({pause.reason})" if pause.reason else ""
    supply = observation.supply
    finish = "finishes what it has" if supply == 1 else "finish what they have"
    workers = f"{_workers(supply)} {finish}" if supply else ""
    left = _listed(demand_in_words(observation.requests), workers)
    return f"paused by ops since {pause.since:%H:%M UTC}{why}: {left}"


def _reason(observation: Observation, limits: FleetConfig, lacking: int, *, short: bool) -> tuple[Kind, str]:
    requests, supply, measured = observation.requests, observation.supply, observation.measured
    images, workers = demand_in_words(requests), _workers(supply)
    if lacking:
        figures = _listed(images, _each(measured), _boot(measured), _rule(limits))
        return "starting", f"starting {lacking} of at most {limits.max_workers}: {figures}, {workers} there"
    if supply > limits.max_workers:
        return "too_many", f"{workers}, more than the {limits.max_workers} allowed: they end themselves when idle"
    if short:
        return "most", f"{workers}, the most allowed: {_listed(images, _each(measured), _awaited(measured))}"
    if requests.total == 0:
        return "idle", f"{workers}: {_listed(images, _on_schedule(limits))}"
    figures = _listed(images, _rule(limits), _awaited(measured))
    return "enough", f"{workers}, enough: {figures}"


def _restrained(observation: Observation, limits: FleetConfig, lacking: int) -> tuple[Kind, str]:
    kind: Kind = "failing" if boots_fail(observation) else "limited"
    there = _listed(demand_in_words(observation.requests), f"{_workers(observation.supply)} there, {lacking} lacking")
    return kind, f"{there}: {why_restrained(observation, limits)}"


def _renewal(drain: tuple[str, ...], limits: FleetConfig) -> str:
    have, their = ("has", "its") if len(drain) == 1 else ("have", "their")
    longest = f"{limits.max_lifetime_seconds / 3600:.3g} h, the longest allowed"
    return f"{_workers(len(drain))} {have} run for {longest}: asked to end, others take {their} place"


def demand_in_words(requests: QueueCounts) -> str:
    """Return the demand as `100 images waiting`, `80 images waiting, 20 in hand`, or `no images waiting`."""
    waiting = requests.visible + requests.delayed
    words = f"{waiting or 'no'} image{'' if waiting == 1 else 's'} waiting"
    return f"{words}, {requests.in_flight} in hand" if requests.in_flight else words


def seconds_in_words(seconds: float) -> str:
    """Return seconds to two digits, as `0.03 s`, `1.5 s` or `42 s`."""
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def _rule(limits: FleetConfig) -> str:
    match limits.policy:
        case "schedule":
            answered = f"to be answered within {seconds_in_words(limits.target_seconds)}"
            return _listed(answered, _on_schedule(limits))
        case "deadline":
            return f"to be answered within {seconds_in_words(limits.target_seconds)}"
        case "fixed":
            return f"always {_workers(limits.max_workers)}"
        case "backlog":
            return f"{limits.images_per_worker} images a worker"


def _on_schedule(limits: FleetConfig) -> str:
    least = limits.min_workers if limits.policy == "schedule" else 0
    return f"at least {least} at this time of day" if least else ""


def _each(measured: Measured) -> str:
    return "" if measured.image_seconds is None else f"{seconds_in_words(measured.image_seconds)} each"


def _boot(measured: Measured) -> str:
    return "" if measured.boot_seconds is None else f"{seconds_in_words(measured.boot_seconds)} to boot"


def _awaited(measured: Measured) -> str:
    """Say what there is to wait for while workers boot."""
    return _listed(f"{measured.silent} not heard of yet", _boot(measured)) if measured.silent else ""


def _listed(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _workers(count: int) -> str:
    return f"{count or 'no'} worker{'' if count == 1 else 's'}"
