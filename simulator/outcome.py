"""What became of a trace: cost, latencies, launches, and how the fleet looked over time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
COLUMNS: Final = ("now", "visible", "in_flight", "workers", "ready")
"""Of a history: seconds since the begin, images that wait, images in hand, all workers, those that receive."""


@dataclass(frozen=True)
class Outcome:
    """One simulation, or several of the same trace and policy with other seeds taken together.

    Attributes:
        latencies: seconds from arrival to answer, one for each image, float64 [images].
        billed_seconds: instance-seconds.
        work_seconds: instance-seconds of the work itself, N·S: the cost of a fleet that boots and idles at no cost.
        launches: instances launched, those that were prepared not among them.
        peak: most workers at once.
        beyond_maximum: decisions that would have led beyond the maximum; the cloud refuses the surplus.
        simulations: how many are taken together.
        history: a row a decision and one for the end, float64 [decisions + 1, len(COLUMNS)]; of the first simulation.
    """

    latencies: Floats
    billed_seconds: float
    work_seconds: float
    launches: float
    peak: int
    beyond_maximum: int
    simulations: int
    history: Floats

    @property
    def cost(self) -> float:
        """Billed instance-seconds ÷ N·S."""
        return self.billed_seconds / self.work_seconds

    def percentile(self, percent: float) -> float:
        """Return the least latency within which at least `percent` of the images were answered, in seconds."""
        return float(np.percentile(self.latencies, percent, method="inverted_cdf"))

    @property
    def p95(self) -> float:
        """The 95th percentile of latency, in seconds."""
        return self.percentile(95)

    def missed(self, deadline_seconds: float) -> float:
        """Return the share of images that were answered later than `deadline_seconds` after they came."""
        return float(np.mean(self.latencies > deadline_seconds))


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Return several simulations as one: latencies pooled, launches and instance-seconds a simulation on average."""
    count = len(outcomes)
    return Outcome(
        latencies=np.concatenate([each.latencies for each in outcomes]),
        billed_seconds=sum(each.billed_seconds for each in outcomes) / count,
        work_seconds=sum(each.work_seconds for each in outcomes) / count,
        launches=sum(each.launches for each in outcomes) / count,
        peak=max(each.peak for each in outcomes),
        beyond_maximum=sum(each.beyond_maximum for each in outcomes),
        simulations=count,
        history=outcomes[0].history,
    )
