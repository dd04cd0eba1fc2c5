"""Explanations: what was decided and why, in words for operators. Pure."""

from collections.abc import Callable, Mapping

from core.config import FleetSettings
from core.fleet.models import FleetCircuit, FleetPause, FleetSpending
from core.format import images_in_words, joined, plural, resume_words, seconds_in_words, workers_in_words
from web_tier.autoscaler.decide import DecisionKind, Plan
from web_tier.autoscaler.observe import FleetMetrics, Observation


def explain(plan: Plan, observation: Observation, settings: FleetSettings) -> str:
    """Return why the plan was made, from the observation and the settings it was made from; users read this, too."""
    if plan.kind == "paused" and observation.pause is not None:
        return _paused(observation, observation.pause)
    if plan.kind == "capped" and observation.spending is not None:
        return _capped(observation, observation.spending)
    return _EXPLANATIONS[plan.kind](plan, observation, settings)


def circuit_problem(circuit: FleetCircuit) -> str | None:
    """Return what operators must know while workers end without an answer; it changes only with the reason."""
    if circuit.is_closed:
        return None
    return f"workers end without an answer, so one at a time starts until one answers: {circuit.reason}"


def _paused(observation: Observation, pause: FleetPause) -> str:
    why = f" ({pause.reason})" if pause.reason else ""
    capacity = observation.capacity
    finish = "finishes what it has" if capacity == 1 else "finish what they have"
    workers = f"{workers_in_words(capacity)} {finish}" if capacity else ""
    left = joined(_demand(observation), workers)
    return f"paused by ops since {pause.since:%H:%M UTC}{why}: {left}"


def _capped(observation: Observation, spending: FleetSpending) -> str:
    """Return why nothing is launched while a spending cap is reached, without amounts: they change in each round."""
    capacity, work = observation.capacity, "works" if observation.capacity == 1 else "work"
    workers = f"{workers_in_words(capacity)} {work} until idle" if capacity else ""
    left, until = joined(_demand(observation), workers), resume_words(spending)
    return f"the {spending.reached}'s spending cap is reached, no worker starts until {until}: {left}"


def _failing(_plan: Plan, observation: Observation, _settings: FleetSettings) -> str:
    circuit = observation.metrics.circuit
    failed = f"the last {circuit.failed_runs} ended without an answer"
    return joined(f"starting 1 worker every {circuit.probe_seconds:g} s: {failed}", _demand(observation))


def _limited(plan: Plan, observation: Observation, settings: FleetSettings) -> str:
    missing = plan.missing if plan.max_launches is None else min(plan.missing, plan.max_launches)
    needed = f"{plural(missing, 'more worker')} needed for {_images(observation)}"
    return f"starting at most {plural(settings.launches_per_minute, 'worker')} a minute: {needed}"


def _starting(plan: Plan, observation: Observation, settings: FleetSettings) -> str:
    left = f"{_images(observation)} left" if observation.requests.total else ""
    cap = "the spending cap allows no more" if plan.starts < plan.missing else ""
    change = f"({observation.capacity} → {observation.capacity + plan.starts}, limit {settings.max_workers})"
    return f"starting {plural(plan.starts, 'worker')} {change}: {joined(left, plan.rule, cap)}"


def _too_many(_plan: Plan, observation: Observation, settings: FleetSettings) -> str:
    return f"{workers_in_words(observation.capacity)}, above the limit of {settings.max_workers}: they end when idle"


def _at_maximum(_plan: Plan, observation: Observation, _settings: FleetSettings) -> str:
    metrics, left = observation.metrics, f"{_images(observation)} left"
    image_time = "" if metrics.image_seconds is None else f"{seconds_in_words(metrics.image_seconds)} each"
    workers = workers_in_words(observation.capacity)
    return f"{workers}, the limit: {joined(left, image_time, _unregistered(metrics))}"


def _idle(plan: Plan, observation: Observation, _settings: FleetSettings) -> str:
    if observation.capacity == 0:
        return "idle. Workers start when you upload"
    workers = f"{_workers_are(observation.capacity)} idle"
    if plan.rule:
        return joined(workers, plan.rule)
    return f"{workers} and {'ends by itself' if observation.capacity == 1 else 'end by themselves'}"


def _enough(_plan: Plan, observation: Observation, _settings: FleetSettings) -> str:
    capacity, images = observation.capacity, _images(observation)
    if capacity == 0 and not observation.requests.waiting:
        return f"{workers_in_words(capacity)}, {images} in flight: received again after the visibility timeout"
    enough = f"{_workers_are(capacity)} enough for {images}"
    return joined(enough, _unregistered(observation.metrics))


def _draining(plan: Plan, observation: Observation, _settings: FleetSettings) -> str:
    left = observation.available - len(plan.drain)
    return f"draining {plural(len(plan.drain), 'idle worker')}: {_workers_are(left)} enough"


def _rotating(plan: Plan, _observation: Observation, settings: FleetSettings) -> str:
    have, others = ("it has", "another takes its") if len(plan.drain) == 1 else ("they have", "others take their")
    longest = f"{settings.max_lifetime_seconds / 3600:.3g} h"
    return f"draining {plural(len(plan.drain), 'worker')}: {have} run for {longest}, the limit; {others} place"


def _replacing(plan: Plan, _observation: Observation, _settings: FleetSettings) -> str:
    count, others = len(plan.drain), "another takes its" if len(plan.drain) == 1 else "others take their"
    version = "another version of the launch template than the default"
    return f"draining {plural(count, 'worker')} of {version}: {others} place"


_EXPLANATIONS: Mapping[DecisionKind, Callable[[Plan, Observation, FleetSettings], str]] = {
    "failing": _failing,
    "limited": _limited,
    "starting": _starting,
    "too_many": _too_many,
    "at_maximum": _at_maximum,
    "idle": _idle,
    "enough": _enough,
    "draining": _draining,
    "rotating": _rotating,
    "replacing": _replacing,
}


def _images(observation: Observation) -> str:
    return images_in_words(observation.requests.total, observation.packs.total)


def _demand(observation: Observation) -> str:
    """Return the demand as `100 images waiting`, `80 images waiting, 20 in flight`, or `no images waiting`."""
    requests = observation.requests
    images = images_in_words(requests.waiting, observation.packs.waiting) if requests.waiting else "no images"
    words = f"{images} waiting"
    return f"{words}, {requests.in_flight:,} in flight" if requests.in_flight else words


def _workers_are(count: int) -> str:
    return f"{workers_in_words(count)} {'is' if count == 1 else 'are'}"


def _unregistered(metrics: FleetMetrics) -> str:
    """Return how many workers are still booting, and how long a boot takes."""
    boot_time = "" if metrics.boot_seconds is None else f"{seconds_in_words(metrics.boot_seconds)} to boot"
    count = len(metrics.unregistered)
    return joined(f"{workers_in_words(count)} still booting", boot_time) if count else ""
