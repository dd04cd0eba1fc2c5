"""Decide: how many workers to start, and why. Pure: the same observation and limits give the same plan."""

import math
from dataclasses import dataclass
from typing import Literal

from services.config import Fleet as FleetConfig
from services.messages import FleetPause
from services.sqs import QueueCounts
from web_tier.controller.autoscaler.deadline import Want
from web_tier.controller.autoscaler.deadline import wanted as by_deadline
from web_tier.controller.autoscaler.observe import Measured, Observation

Kind = Literal["paused", "starting", "too_many", "most", "idle", "enough"]
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
    """

    launch: int
    start: tuple[str, ...]
    kind: Kind
    reason: str
    drain: tuple[str, ...] = ()


def decide(observation: Observation, limits: FleetConfig) -> Plan:
    """Return the plan that brings the fleet to what the policy wants, within the limits.

    Workers end themselves when they are idle, so a fleet that is larger than wanted is left alone, but by the policy
    `deadline`. While the fleet is paused nothing is started, whatever the limits say.
    """
    if observation.paused is not None:
        return Plan(0, (), "paused", _paused_reason(observation, observation.paused))
    asked = wanted(observation, limits)
    want = Want(*(_clamped(each, limits) for each in (asked.workers, asked.keep)))
    room = max(0, limits.max_workers - observation.supply)
    lacking = min(max(0, want.workers - observation.serving), room)
    start = _stopped(observation)[:lacking]
    kind, reason = _reason(observation, limits, lacking, short=asked.workers > limits.max_workers)
    drain = _surplus(observation, want) if not lacking else ()
    return Plan(lacking - len(start), start, kind, reason, drain)


def wanted(observation: Observation, limits: FleetConfig) -> Want:
    """Return how many workers the policy asks for, whatever the limits."""
    match limits.policy:
        case "deadline":
            return by_deadline(observation, limits)
        case "fixed":
            return Want(limits.max_workers, limits.max_workers)
        case "backlog":
            return Want(math.ceil(observation.requests.total / limits.images_per_worker), limits.max_workers)


def _clamped(workers: int, limits: FleetConfig) -> int:
    return max(limits.min_workers, min(limits.max_workers, workers))


def _surplus(observation: Observation, want: Want) -> tuple[str, ...]:
    """Return the workers that end for want of work: only when nothing waits, and only those whose end saves money."""
    if observation.requests.visible + observation.requests.delayed:
        return ()
    return observation.measured.paid[: max(0, observation.serving - max(want.keep, want.workers))]


def _stopped(observation: Observation) -> tuple[str, ...]:
    return tuple(
        instance.instance_id
        for instance in observation.instances
        if instance.state == "stopped" and instance.instance_id not in observation.coming
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
        return "idle", f"{workers}: {images}"
    figures = _listed(images, _rule(limits), _awaited(measured))
    return "enough", f"{workers}, enough: {figures}"


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
        case "deadline":
            return f"to be answered within {seconds_in_words(limits.target_seconds)}"
        case "fixed":
            return f"always {_workers(limits.max_workers)}"
        case "backlog":
            return f"{limits.images_per_worker} images a worker"


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
