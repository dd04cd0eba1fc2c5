"""Tuning: the target with which a policy is as fast as another one, and what it costs then."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from core.config import FleetSettings
from simulator.comparison import Played, Scene
from simulator.policies.ours import ours
from simulator.policy import Rule

MIN_SECONDS: Final = 0.25
MAX_SECONDS: Final = 2_400.0
RATIO: Final = 1.02
"""Of one target that can be tried to the one below it."""
STEPS: Final = 9
"""Halvings of the span of targets, at most: with so many each target can be found."""
NEAR: Final = 0.01
"""A percentile that is at most so much below the wanted one ends the search."""


def deadline(settings: FleetSettings, target_seconds: float) -> Rule:
    """Return the product's `deadline` with this target."""
    return ours(settings.model_copy(update={"policy": "deadline", "target_seconds": target_seconds}))


@dataclass(frozen=True)
class Tuned:
    """A policy with the target that makes it as fast as wanted."""

    target_seconds: float
    played: Played


@dataclass
class Dial:
    """Turns a policy's target on one scene; what was played once is not played again.

    Attributes:
        by_target: makes the policy from a target in seconds.
        steps: most halvings of a search.
    """

    by_target: Callable[[float], Rule]
    scene: Scene
    steps: int = STEPS
    _played: dict[int, Tuned] = field(default_factory=dict, init=False)

    def tune(self, wanted_seconds: float) -> Tuned | None:
        """Return the cheapest tried target with a 95th percentile of at most `wanted_seconds`; None when none is.

        Bisects on a logarithmic scale, since the percentile grows with the target; as it need not do so everywhere,
        the cheapest of all that were fast enough is taken, not the last.
        """
        low, high = 0, math.ceil(math.log(MAX_SECONDS / MIN_SECONDS, RATIO))
        for _ in range(self.steps):
            middle = (low + high) // 2
            p95 = self._at(middle).played.outcome.p95
            if (1 - NEAR) * wanted_seconds <= p95 <= wanted_seconds or middle in {low, high}:
                break
            low, high = (low, middle) if p95 > wanted_seconds else (middle, high)
        fast = [each for each in self._played.values() if each.played.outcome.p95 <= wanted_seconds]
        return min(fast, key=lambda each: each.played.outcome.cost, default=None)

    def _at(self, position: int) -> Tuned:
        if position not in self._played:
            target = MIN_SECONDS * RATIO**position
            self._played[position] = Tuned(target, self.scene.play(self.by_target(target)))
        return self._played[position]
