"""Small fleets and policies for the tests of the simulator."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from simulator.policy import FleetView, NamedPolicy, PolicyTerms, ScalingAction, WorkerView
from simulator.traces import Trace


def arrivals(*seconds: float, length: float | None = None) -> Trace:
    """Return a trace of images that come at these seconds."""
    return Trace("story", np.array(seconds, dtype=float), seconds[-1] if length is None else length, 60.0)


@dataclass
class Script:
    """A policy that gives the orders of a script, each at its second, and remembers what it was shown."""

    orders: Mapping[float, ScalingAction]
    terms: PolicyTerms = field(default_factory=PolicyTerms)
    views: list[FleetView] = field(default_factory=list)

    def decide(self, view: FleetView) -> ScalingAction:
        self.views.append(view)
        return self.orders.get(view.now, ScalingAction())

    def as_rule(self) -> NamedPolicy:
        return NamedPolicy("script", lambda: self)

    def at(self, now: float) -> FleetView:
        return next(view for view in self.views if view.now == now)


def fleet_view(
    now: float = 0.0, *, visible: int = 0, in_flight: int = 0, ready: int = 0, booting: int = 0, draining: int = 0
) -> FleetView:
    """Return the view of a fleet of so many workers, named w0, w1, ... in the order of their launch.

    The oldest of those that receive have the images in flight, one each.
    """
    ages = [100.0] * draining + [100.0] * ready + [10.0] * booting
    workers = [
        WorkerView(f"w{number}", now - age, now - age + 17, now - age + 42, draining=number < draining)
        for number, age in enumerate(ages)
    ]
    idle = frozenset(f"w{number}" for number in range(draining + in_flight, draining + ready))
    return FleetView(now, visible, in_flight, 0, workers, idle, 0, None, None)
