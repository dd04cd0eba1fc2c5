"""How long a worker takes from its launch to its first word, as this controller has seen it.

Both ends by this process's monotonic clock, so that no skew between machines matters; workers that were there when it
took over are not measured.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.worker_registry import Word

KEPT = 20
"""Of so many boots, the latest, the median is taken."""


@dataclass
class BootTimeEstimator:
    """Measures boots.

    Attributes:
        before: what the controller before this one has measured, in seconds; None when it had no figure.
    """

    before: float | None = None
    clock: Callable[[], float] = time.monotonic
    _booting: dict[str, float] = field(default_factory=dict, init=False)
    _known: frozenset[str] | None = field(default=None, init=False)
    _took: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT), init=False)

    def ages(self, workers: Iterable[str]) -> list[float]:
        """Return how long ago each of these was launched, in seconds; for ever where another controller did that."""
        return [self.clock() - self._booting.get(worker, float("-inf")) for worker in workers]

    @property
    def seconds(self) -> float | None:
        """A boot, as a rule; None as long as none was seen."""
        return statistics.median(self._took) if self._took else self.before

    def look(self, observation: Observation, words: Mapping[str, Word]) -> None:
        """Take one observation into account, and what the workers have said so far."""
        there = observation.supplied
        if self._known is not None:
            self._booting |= dict.fromkeys(there - self._known, self.clock())
        self._known = there
        for worker, launched in list(self._booting.items()):
            word = words.get(worker)
            if word is not None and word.since is not None and word.since >= launched:
                self._took.append(word.since - launched)
                del self._booting[worker]
            elif worker not in there:
                del self._booting[worker]
