"""Small traces and scripted decisions for the tests of the simulator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from simulator.engine import BEGIN
from simulator.traces import Trace
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.observe import Observation


def arrivals(*seconds: float, length: float | None = None) -> Trace:
    """Return a trace of images that come at these seconds."""
    return Trace("story", np.array(seconds, dtype=float), seconds[-1] if length is None else length, 60.0)


def plan(launch: int = 0, drain: tuple[str, ...] = ()) -> Plan:
    """Return a plan that launches and drains so many workers."""
    return Plan(launch, (), "starting", drain=drain)


@dataclass
class Script:
    """Returns the plans of a script, each at its second, and remembers what it was shown."""

    plans: Mapping[float, Plan]
    seen: list[Observation] = field(default_factory=list)

    def __call__(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        return self.plans.get((observation.at - BEGIN).total_seconds(), plan())

    def at(self, second: float) -> Observation:
        moment = BEGIN + timedelta(seconds=second)
        return next(each for each in self.seen if each.at == moment)
