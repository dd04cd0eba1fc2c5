"""Explanations: what was decided and why, in words for operators. Pure."""

from typing import Literal

from core.config import FleetSettings
from core.fleet.models import FleetPause
from core.format import plural
from services.sqs import QueueCounts
from web_tier.autoscaler.observe import FleetMetrics, Observation

DecisionKind = Literal[
    "paused", "starting", "limited", "failing", "rotating", "too_many", "at_maximum", "idle", "enough"
]
"""Kind of a decision. A new event is logged when it changes, not whenever the figures change."""


def explain_pause(observation: Observation, pause: FleetPause) -> str:
    """Return why nothing is launched while the fleet is paused."""
    why = f" ({pause.reason})" if pause.reason else ""
    capacity = observation.capacity
    finish = "finishes what it has" if capacity == 1 else "finish what they have"
    workers = f"{workers_in_words(capacity)} {finish}" if capacity else ""
    left = joined(demand_in_words(observation.requests), workers)
    return f"paused by ops since {pause.since:%H:%M UTC}{why}: {left}"


def explain_launch(observation: Observation, settings: FleetSettings, missing: int, rule: str) -> str:
    """Return why `missing` workers are started."""
    figures = joined(
        demand_in_words(observation.requests), _image_time(observation.metrics), _boot_time(observation.metrics), rule
    )
    workers = workers_in_words(observation.capacity)
    return f"starting {missing} of at most {settings.max_workers}: {figures}, {workers} there"


def explain_no_launch(
    observation: Observation, settings: FleetSettings, rule: str, always_on_rule: str, *, is_capped: bool
) -> tuple[DecisionKind, str]:
    """Return why no worker is started; `is_capped` if the policy asks for more than `max_workers`."""
    requests, metrics = observation.requests, observation.metrics
    images, workers = demand_in_words(requests), workers_in_words(observation.capacity)
    if observation.capacity > settings.max_workers:
        return "too_many", f"{workers}, more than the {settings.max_workers} allowed: they end themselves when idle"
    if is_capped:
        return (
            "at_maximum",
            f"{workers}, the most allowed: {joined(images, _image_time(metrics), _unregistered(metrics))}",
        )
    if requests.total == 0:
        return "idle", f"{workers}: {joined(images, always_on_rule)}"
    return "enough", f"{workers}, enough: {joined(images, rule, _unregistered(metrics))}"


def explain_launch_limit(
    observation: Observation, settings: FleetSettings, missing: int, *, boots_failing: bool
) -> tuple[DecisionKind, str]:
    """Return why fewer workers are started than are `missing`."""
    workers = f"{workers_in_words(observation.capacity)} there, {missing} lacking"
    state = joined(demand_in_words(observation.requests), workers)
    if not boots_failing:
        return "limited", f"{state}: no more than {settings.launches_per_minute} are launched within a minute"
    failed = observation.metrics.failed_boots
    return "failing", (
        f"{state}: the last {failed} workers ended before their first heartbeat: one is tried each minute; "
        "see their console output"
    )


def explain_rotation(drain: tuple[str, ...], settings: FleetSettings) -> str:
    """Return why workers are drained for their age."""
    have, their = ("has", "its") if len(drain) == 1 else ("have", "their")
    longest = f"{settings.max_lifetime_seconds / 3600:.3g} h, the longest allowed"
    return f"{workers_in_words(len(drain))} {have} run for {longest}: asked to end, others take {their} place"


def demand_in_words(requests: QueueCounts) -> str:
    """Return the demand as `100 images waiting`, `80 images waiting, 20 in flight`, or `no images waiting`."""
    words = f"{plural(requests.waiting, 'image') if requests.waiting else 'no images'} waiting"
    return f"{words}, {requests.in_flight:,} in flight" if requests.in_flight else words


def seconds_in_words(seconds: float) -> str:
    """Return seconds to two digits, as `0.03 s`, `1.5 s` or `42 s`."""
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def workers_in_words(count: int) -> str:
    """Return `no workers`, `1 worker` or `5 workers`."""
    return f"{count or 'no'} worker{'' if count == 1 else 's'}"


def joined(*words: str) -> str:
    """Return the parts that are not empty, separated by commas."""
    return ", ".join(word for word in words if word)


def _image_time(metrics: FleetMetrics) -> str:
    return "" if metrics.image_seconds is None else f"{seconds_in_words(metrics.image_seconds)} each"


def _boot_time(metrics: FleetMetrics) -> str:
    return "" if metrics.boot_seconds is None else f"{seconds_in_words(metrics.boot_seconds)} to boot"


def _unregistered(metrics: FleetMetrics) -> str:
    """Return how many workers are still booting, and how long a boot takes."""
    count = len(metrics.unregistered)
    return joined(f"{count} still booting", _boot_time(metrics)) if count else ""
