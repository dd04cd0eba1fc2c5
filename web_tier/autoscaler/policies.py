"""Scaling policies: how many workers `fleet.policy` asks for, and the rule in words.

A policy is a pure function of what is observed and configured. It must ask for at least one worker while an image
waits, or the image waits forever. `CONTRIBUTING.md` shows how to add one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from core.config import FleetSettings
from core.format import joined, seconds_in_words, short_date, workers_in_words
from web_tier.autoscaler.deadline import can_wait, desired_range
from web_tier.autoscaler.observe import Observation
from web_tier.autoscaler.schedule import scheduled_minimum

KEEP_ALL = 1_000_000
"""As `maximum`: no worker is drained for lack of work; workers stop by themselves when they are idle."""


@dataclass(frozen=True, slots=True)
class DesiredCapacity:
    """What a policy asks for. `decide` keeps it within `min_workers` and `max_workers`.

    Attributes:
        minimum: workers that the work needs; missing ones are launched.
        rule: the rule behind it in words, for operators.
        maximum: while no image waits, spare workers above this are drained.
        always_on: workers that are kept also without work, if more than `min_workers`.
        always_on_rule: why, in words; empty if the policy keeps none.
        is_patient: whether missing workers are only for images that may be finished later, and half of the fleet
            would do, so that there is time to wait for Spot capacity.
    """

    minimum: int
    rule: str
    maximum: int = KEEP_ALL
    always_on: int = 0
    always_on_rule: str = ""
    is_patient: bool = False

    def kept_without_work(self, settings: FleetSettings) -> int:
        """Return how many workers are kept also without work, within the limits."""
        return min(settings.max_workers, max(settings.min_workers, self.always_on))


def backlog(observation: Observation, settings: FleetSettings) -> DesiredCapacity:
    """One worker for each `images_per_worker` images that wait, or that ready workers have in flight.

    Images in flight never cause a launch: the ready workers hold them, or a worker that has ended did, and no other
    worker can receive them until their visibility timeout ends. Then they wait. A worker takes whole packs.
    """
    held = min(observation.requests.in_flight, observation.ready * settings.images_per_worker)
    packs = observation.packs.waiting + min(observation.packs.in_flight, observation.ready)
    workers = min(packs, math.ceil((observation.requests.waiting + held) / settings.images_per_worker))
    return DesiredCapacity(workers, f"{settings.images_per_worker} per worker")


def fixed(_observation: Observation, settings: FleetSettings) -> DesiredCapacity:
    """`max_workers`, always."""
    workers = settings.max_workers
    rule = f"always {workers_in_words(workers)}"
    return DesiredCapacity(workers, rule, always_on=workers, always_on_rule=rule)


def deadline(observation: Observation, settings: FleetSettings) -> DesiredCapacity:
    """The fewest workers that answer each image within `target_seconds`; see the module `deadline`."""
    minimum, soon, maximum = desired_range(observation, settings)
    rule = f"to be answered within {seconds_in_words(settings.target_seconds)}"
    if minimum > soon:
        first = observation.at + timedelta(seconds=min(observation.demand.later)[0])
        rule = f"to be finished by {short_date(first)}"
    is_patient = observation.available >= soon and 2 * minimum <= settings.max_workers
    is_patient = is_patient and can_wait(observation, settings)
    return DesiredCapacity(minimum, rule, maximum, is_patient=is_patient)


def schedule(observation: Observation, settings: FleetSettings) -> DesiredCapacity:
    """As `deadline`, with a minimum by the time of day.

    The minimum holds one boot time earlier than it begins, so that the workers are ready then.
    """
    desired = deadline(observation, settings)
    boot = timedelta(seconds=observation.metrics.boot_seconds or settings.boot_seconds)
    always_on = max(settings.min_workers, scheduled_minimum(settings.schedule, settings.zone, observation.at, boot))
    always_on = min(settings.max_workers, always_on)
    rule = f"at least {always_on} at this time of day" if always_on else ""
    return replace(desired, rule=joined(desired.rule, rule), always_on=always_on, always_on_rule=rule)


POLICIES: Mapping[str, Callable[[Observation, FleetSettings], DesiredCapacity]] = {
    policy.__name__: policy for policy in (backlog, deadline, fixed, schedule)
}

PLANNING_POLICIES = frozenset({"deadline", "schedule"})
"""Policies for which it matters when jobs may be finished; under the others they are as soon as possible."""
