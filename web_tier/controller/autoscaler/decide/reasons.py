"""Reasons: what was decided, and by which figures, in words for people. Pure."""

from typing import Literal

from core.config import Fleet as FleetConfig
from core.messages import FleetPause
from services.sqs import QueueCounts
from web_tier.controller.autoscaler.decide.restraint import boots_fail, why_restrained
from web_tier.controller.autoscaler.observe.observe import Measured, Observation

Kind = Literal["paused", "starting", "limited", "failing", "renewing", "too_many", "most", "idle", "enough"]
"""What sort of decision it is; while that stays the same, figures may change and there is no news."""


def paused(observation: Observation, pause: FleetPause) -> str:
    """Return why nothing is started while the fleet is paused."""
    why = f" ({pause.reason})" if pause.reason else ""
    supply = observation.supply
    finish = "finishes what it has" if supply == 1 else "finish what they have"
    workers = f"{_workers(supply)} {finish}" if supply else ""
    left = _listed(demand_in_words(observation.requests), workers)
    return f"paused by ops since {pause.since:%H:%M UTC}{why}: {left}"


def sized(observation: Observation, limits: FleetConfig, lacking: int, *, short: bool) -> tuple[Kind, str]:
    """Return why so many workers are `lacking`, or none; `short` when the policy asks for more than are allowed."""
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


def restrained(observation: Observation, limits: FleetConfig, lacking: int) -> tuple[Kind, str]:
    """Return why fewer are started than are `lacking`."""
    kind: Kind = "failing" if boots_fail(observation) else "limited"
    there = _listed(demand_in_words(observation.requests), f"{_workers(observation.supply)} there, {lacking} lacking")
    return kind, f"{there}: {why_restrained(observation, limits)}"


def renewal(drain: tuple[str, ...], limits: FleetConfig) -> str:
    """Return why workers are asked to end for their age."""
    have, their = ("has", "its") if len(drain) == 1 else ("have", "their")
    longest = f"{limits.max_lifetime_seconds / 3600:.3g} h, the longest allowed"
    return f"{_workers(len(drain))} {have} run for {longest}: asked to end, others take {their} place"


def demand_in_words(requests: QueueCounts) -> str:
    """Return the demand as `100 images waiting`, `80 images waiting, 20 in hand`, or `no images waiting`."""
    waiting = requests.waiting
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
