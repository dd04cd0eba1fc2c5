"""Ray Serve's queue policy with its defaults.

Source: ray-project/ray `python/ray/serve/autoscaling_policy.py` (``replica_queue_length_autoscaling_policy``: cold
start, scaling factors, bounds, delays) and `AutoscalingConfig` (https://docs.ray.io/en/latest/serve/api/): 2 ongoing
requests a replica, up after 30 s, down after 600 s, metrics averaged over 30 s, factors 1.

Two things are in its favour here: from zero, the queue is seen at once, and replicas that it removes finish what they
have first. Replicas that are removed are the last started, as in its scheduler. Ray's loop runs every 0.1 s; here it
runs once a second, with its delays counted in seconds all the same.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from simulator.policy import NO_ACTION, FleetView, NamedPolicy, PolicyTerms, ScalingAction


@dataclass(frozen=True, slots=True)
class RaySettings:
    """`AutoscalingConfig`, with the names and defaults that Ray gives."""

    max_replicas: int
    min_replicas: int = 0
    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    look_back_period_s: float = 30.0
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0


def desired_replicas(ongoing: float, running: int, settings: RaySettings) -> int:
    """Return the replicas that Ray desires for so many ongoing requests, before its delays."""
    raw = ongoing / settings.target_ongoing_requests
    delta = raw - running
    factor = settings.upscaling_factor if delta > 0 else settings.downscaling_factor
    scaled = math.ceil(running + factor * delta)
    if math.ceil(raw) < running and scaled == running:
        scaled -= 1
    return max(settings.min_replicas, min(settings.max_replicas, scaled))


@dataclass
class RayServe:
    """Decides once a second with Ray's counters."""

    settings: RaySettings
    terms: PolicyTerms = field(default_factory=PolicyTerms)
    _target: int = 0
    _counter: int = 0
    _ongoing: deque[int] = field(default_factory=deque)

    def decide(self, view: FleetView) -> ScalingAction:
        """Return what brings the fleet to Ray's target."""
        self._target = self._next_target(view)
        supply = view.supply
        if self._target < supply:
            return ScalingAction(drain=view.surplus(supply - self._target))
        room = self.settings.max_replicas - len(view.workers)
        return ScalingAction(min(self._target - supply, room)) if self._target > supply else NO_ACTION

    def _next_target(self, view: FleetView) -> int:
        ongoing = self._average(view.visible + view.in_flight)
        running = view.ready
        if running == 0:
            return max(math.ceil(self.settings.upscaling_factor), self._target) if ongoing > 0 else self._target
        return self._delayed(desired_replicas(ongoing, running, self.settings))

    def _average(self, now: int) -> float:
        self._ongoing.append(now)
        if len(self._ongoing) > self.settings.look_back_period_s / self.terms.interval_seconds:
            self._ongoing.popleft()
        return sum(self._ongoing) / len(self._ongoing)

    def _delayed(self, desired: int) -> int:
        """Return the target once a wish in the same direction has lasted for its delay."""
        periods = 1 / self.terms.interval_seconds
        if desired > self._target:
            self._counter = max(self._counter, 0) + 1
            if self._counter > int(self.settings.upscale_delay_s * periods):
                self._counter = 0
                return desired
        elif desired < self._target:
            self._counter = min(self._counter, 0) - 1
            if self._counter < -int(self.settings.downscale_delay_s * periods):
                self._counter = 0
                # To zero only from one.
                return desired if self._target == 1 else max(1, desired)
        else:
            self._counter = 0
        return self._target


def ray_serve(max_workers: int) -> NamedPolicy:
    """Return Ray Serve's rule with its defaults, from zero replicas."""
    return NamedPolicy("Ray Serve", lambda: RayServe(RaySettings(max_workers)))
