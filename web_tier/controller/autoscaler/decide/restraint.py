"""Restraint: how fast a fleet may grow, also if its policy wants more, and how fast old workers make room. Pure."""

from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.observe.observe import Observation

MAX_FAILED_BOOTS = 5
"""After so many in a row, all that more launches can do is cost: one a minute shows whether it is over."""

RENEWED_PART = 10
"""Of the fleet, one in so many workers, or one, is replaced for its age at a time."""


def boots_fail(observation: Observation) -> bool:
    """Return whether instances end again and again before their workers say a word."""
    return observation.measured.failed_boots >= MAX_FAILED_BOOTS


def max_launches(observation: Observation, limits: FleetConfig) -> int:
    """Return how many instances may be launched or started now."""
    a_minute = 1 if boots_fail(observation) else limits.launches_per_minute
    return max(0, a_minute - observation.launched_lately)


def why_restrained(observation: Observation, limits: FleetConfig) -> str:
    """Say why no more are launched."""
    if boots_fail(observation):
        failed = observation.measured.failed_boots
        return (
            f"the last {failed} workers ended before they said a word: one is tried each minute; "
            "see their console output"
        )
    return f"no more than {limits.launches_per_minute} are launched within a minute"


def to_renew(observation: Observation) -> tuple[str, ...]:
    """Return the workers to ask that they end for their age, oldest first.

    Those that are on their way out, and those that have come and not been heard of yet, count among the few at a
    time: so the next one goes when the one before has ended and another worker works in its place.
    """
    serving = observation.served_by
    changing = len(observation.supplied - serving) + observation.measured.silent
    room = max(1, len(serving) // RENEWED_PART) - changing
    return tuple(each for each in observation.measured.outlived if each in serving)[: max(0, room)]
