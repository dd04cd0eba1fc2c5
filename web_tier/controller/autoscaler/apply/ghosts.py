"""Ghosts: instances that bill and do not work.

A ghost is one that

1. was never heard of within `fleet.boot_allowance_seconds`,
2. was heard of and has been silent for `fleet.silent_seconds`, or its worker has ended while its machine goes on,
3. was asked to end longer ago than a worker takes for that at most, and is still there.

How long a worker was silent is measured as `lives` has it, so that no fault of the listener makes a ghost. No worker
is silent before the boot allowance is over: of an instance that was started again, words from before may come late.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.config import Fleet as FleetConfig
from web_tier.controller.autoscaler.observe.lives import HeartbeatCoverage, Life

DRAIN_MARGIN_SECONDS = 60.0
"""To see the tag, to finish beyond `worker.drain_seconds`, and to power the machine off."""


@dataclass(frozen=True, slots=True)
class HealthIssue:
    """Why an instance may be a ghost: `words` for people, and whether that was told by listening to it."""

    words: str
    by_ear: bool = True


def suspects(
    lives: Mapping[str, Life], hearing: HeartbeatCoverage, limits: FleetConfig, drain_seconds: float, at: float
) -> dict[str, HealthIssue]:
    """Return which instances bill and do not work, as far as can be told at the moment `at`.

    Args:
        lives: of all instances; only those that are described as alive are suspected.
        hearing: how far their workers were heard.
        limits: how long a worker may be silent.
        drain_seconds: longest that a worker takes to end when it is asked to.
        at: now, in monotonic seconds.
    """
    found = {
        instance_id: _suspicion(life, hearing, limits, drain_seconds, at)
        for instance_id, life in lives.items()
        if life.alive
    }
    return {instance_id: suspicion for instance_id, suspicion in found.items() if suspicion is not None}


def _suspicion(
    life: Life, hearing: HeartbeatCoverage, limits: FleetConfig, drain_seconds: float, at: float
) -> HealthIssue | None:
    if life.asked is not None and at - life.asked >= drain_seconds + DRAIN_MARGIN_SECONDS:
        return HealthIssue(
            f"asked to end {_duration(drain_seconds + DRAIN_MARGIN_SECONDS)} ago and still there", False
        )
    if _heard_nothing(hearing, life.begun, life.begun_listened) < limits.boot_allowance_seconds:
        return None
    if life.heard is None:
        return HealthIssue(f"not heard of for {_duration(limits.boot_allowance_seconds)}")
    since, listened = max(life.heard, life.begun), max(life.heard_listened, life.begun_listened)
    if _heard_nothing(hearing, since, listened) < limits.silent_seconds:
        return None
    silent = _duration(limits.silent_seconds)
    if life.said == "ended":
        return HealthIssue(f"its worker ended {silent} ago and its machine goes on")
    return HealthIssue(f"silent for {silent}")


def _heard_nothing(hearing: HeartbeatCoverage, since: float, listened: float) -> float:
    """Return for how long there was nothing to hear: no longer than the time since, or than anybody listened."""
    if hearing.until is None:
        return 0.0
    return min(hearing.until - since, hearing.listened - listened)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes >= 2 else f"{seconds:.3g} s"
