"""Decide: how many workers to start, and why. Pure: the same observation and limits give the same plan."""

import math
from dataclasses import dataclass

from services.config import Fleet as FleetConfig
from services.sqs import QueueCounts
from web_tier.controller.autoscaler.observe import Observation


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    Attributes:
        launch: new instances to launch.
        start: ids of stopped instances to start first.
        reason: why, in words for people.
    """

    launch: int
    start: tuple[str, ...]
    reason: str


def decide(observation: Observation, limits: FleetConfig) -> Plan:
    """Return the plan that brings the fleet to what the policy wants, within the limits.

    Workers end themselves when they are idle, so a fleet that is larger than wanted is left alone.
    """
    want = backlog(observation.requests.total, limits)
    lacking = max(0, want - observation.supply)
    start = _stopped(observation)[:lacking]
    return Plan(lacking - len(start), start, _reason(observation, limits, lacking))


def backlog(demand: int, limits: FleetConfig) -> int:
    """Return the workers wanted for `demand` images: one for each `images_per_worker`, within the limits."""
    return max(limits.min_workers, min(limits.max_workers, math.ceil(demand / limits.images_per_worker)))


def _stopped(observation: Observation) -> tuple[str, ...]:
    return tuple(
        instance.instance_id
        for instance in observation.instances
        if instance.state == "stopped" and instance.instance_id not in observation.coming
    )


def _reason(observation: Observation, limits: FleetConfig, lacking: int) -> str:
    images, supply = demand_in_words(observation.requests), observation.supply
    if lacking:
        return (
            f"starting {lacking} of at most {limits.max_workers}: {images}, "
            f"{limits.images_per_worker} images a worker, {_workers(supply)} there"
        )
    if supply > limits.max_workers:
        return f"{_workers(supply)}, more than the {limits.max_workers} allowed: they end themselves when idle"
    unclamped = math.ceil(observation.requests.total / limits.images_per_worker)
    if unclamped > limits.max_workers:
        return f"{_workers(supply)}, the most allowed: {images}"
    if observation.requests.total == 0:
        return f"{_workers(supply)}: {images}"
    return f"{_workers(supply)}, enough: {images}, {limits.images_per_worker} images a worker"


def demand_in_words(requests: QueueCounts) -> str:
    """Return the demand as `100 images waiting`, `80 images waiting, 20 in hand`, or `no images waiting`."""
    waiting = requests.visible + requests.delayed
    words = f"{waiting or 'no'} image{'' if waiting == 1 else 's'} waiting"
    return f"{words}, {requests.in_flight} in hand" if requests.in_flight else words


def _workers(count: int) -> str:
    return f"{count or 'no'} worker{'' if count == 1 else 's'}"
