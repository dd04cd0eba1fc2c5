"""Explanations: what was decided and why, in words for operators. Pure."""

from typing import Literal

from core.config import FleetSettings
from core.fleet.models import FleetCircuit, FleetPause, FleetSpending
from core.format import plural, resume_words
from services.sqs import QueueCounts
from web_tier.autoscaler.observe import FleetMetrics, Observation

DecisionKind = Literal[
    "paused",
    "capped",
    "starting",
    "limited",
    "failing",
    "draining",
    "rotating",
    "too_many",
    "at_maximum",
    "idle",
    "enough",
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


def explain_cap(observation: Observation, spending: FleetSpending) -> str:
    """Return why nothing is launched while a spending cap is reached.

    Users read this, too, and amounts change in each round, so it contains none.
    """
    capacity, are = observation.capacity, "works" if observation.capacity == 1 else "work"
    workers = f"{workers_in_words(capacity)} {are} until idle" if capacity else ""
    left, until = joined(demand_in_words(observation.requests), workers), resume_words(spending)
    return f"the {spending.reached}'s spending cap is reached, no worker starts until {until}: {left}"


def explain_launch(observation: Observation, settings: FleetSettings, missing: int, why: str) -> str:
    """Return why `missing` workers are started; `why` is the policy's rule, or the minimum."""
    left = plural(observation.requests.total, "image") + " left" if observation.requests.total else ""
    capacity, target = observation.capacity, observation.capacity + missing
    change = f"({capacity} → {target}, limit {settings.max_workers})"
    return f"starting {plural(missing, 'worker')} {change}: {joined(left, why)}"


def explain_no_launch(
    observation: Observation, settings: FleetSettings, always_on_rule: str, *, is_capped: bool
) -> tuple[DecisionKind, str]:
    """Return why no worker is started; `is_capped` if the policy asks for more than `max_workers`."""
    requests, metrics, capacity = observation.requests, observation.metrics, observation.capacity
    workers, are = workers_in_words(capacity), "is" if capacity == 1 else "are"
    if capacity > settings.max_workers:
        return "too_many", f"{workers}, above the limit of {settings.max_workers}: they end when idle"
    if is_capped:
        left = plural(requests.total, "image") + " left"
        return "at_maximum", f"{workers}, the limit: {joined(left, _image_time(metrics), _unregistered(metrics))}"
    if requests.total == 0:
        if capacity == 0:
            return "idle", "idle. Workers start when you upload"
        return "idle", joined(f"{workers} {are} idle", always_on_rule)
    if capacity == 0 and not requests.waiting:
        held = plural(requests.in_flight, "image")
        return "enough", f"{workers}, {held} in flight: received again after the visibility timeout"
    enough = f"{workers} {are} enough for {plural(requests.total, 'image')}"
    return "enough", joined(enough, _unregistered(metrics))


def explain_launch_limit(observation: Observation, settings: FleetSettings, missing: int) -> str:
    """Return why fewer workers are started than are `missing`."""
    needed = f"{plural(missing, 'more worker')} needed for {plural(observation.requests.total, 'image')}"
    return f"starting at most {plural(settings.launches_per_minute, 'worker')} a minute: {needed}"


def explain_probing(observation: Observation, circuit: FleetCircuit) -> str:
    """Return why at most one worker runs while workers end without an answer; users read this, too."""
    failed = f"the last {circuit.failed_runs} ended without an answer"
    return joined(f"starting 1 worker a minute: {failed}", demand_in_words(observation.requests))


def circuit_problem(circuit: FleetCircuit) -> str | None:
    """Return what operators must know while workers end without an answer; it changes only with the reason."""
    if circuit.is_closed:
        return None
    return f"no worker can work, so at most one starts a minute until one answers: {circuit.reason}"


def explain_surplus(drain: tuple[str, ...], observation: Observation) -> str:
    """Return why spare workers are drained."""
    left = observation.available - len(drain)
    are = "is" if left == 1 else "are"
    return f"draining {plural(len(drain), 'idle worker')}: {workers_in_words(left)} {are} enough"


def explain_rotation(drain: tuple[str, ...], settings: FleetSettings) -> str:
    """Return why workers are drained for their age."""
    have, others = ("it has", "another takes its") if len(drain) == 1 else ("they have", "others take their")
    longest = f"{settings.max_lifetime_seconds / 3600:.3g} h"
    return f"draining {plural(len(drain), 'worker')}: {have} run for {longest}, the limit; {others} place"


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
