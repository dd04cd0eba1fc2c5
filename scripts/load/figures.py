"""What a load test found out: counted while it goes on, summed up at the end."""

import math
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from scripts.run.cost import Cost

Verdict = Literal["right", "answered", "wrong", "failed", "lost"]
"""Of one image: `answered` has a label that nothing is expected of, `failed` an answer without one, `lost` none."""

SHOWN_PROBLEMS = 10


@dataclass
class Figures:
    """Counts verdicts and times; threads may share it. It holds eight bytes for each request, and a few problems."""

    counts: dict[Verdict, int] = field(
        default_factory=lambda: {"right": 0, "answered": 0, "wrong": 0, "failed": 0, "lost": 0}
    )
    problems: list[str] = field(default_factory=list)
    _seconds: "array[float]" = field(default_factory=lambda: array("d"))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def judged(self, verdict: Verdict, problem: str = "", images: int = 1) -> None:
        """Count `images` with a verdict; keep the first problems to show."""
        with self._lock:
            self.counts[verdict] += images
            if problem and len(self.problems) < SHOWN_PROBLEMS:
                self.problems.append(f"{verdict}: {problem}")

    def timed(self, seconds: float) -> None:
        """Note how long a request took."""
        with self._lock:
            self._seconds.append(seconds)

    @property
    def images(self) -> int:
        """How many images have their verdict."""
        return sum(self.counts.values())

    def summary(self, mode: str, images: int, seconds: float, cost: Cost | None = None) -> "Summary":
        """Return what came of `images` in `seconds`, for that `cost`; those without a verdict are lost."""
        with self._lock:
            ordered = sorted(self._seconds)
            lost = self.counts["lost"] + max(0, images - self.images)
            return Summary(
                mode=mode,
                images=images,
                **{**self.counts, "lost": lost},
                seconds=round(seconds, 3),
                images_per_second=round((images - lost) / seconds, 1) if seconds else 0.0,
                p50_s=percentile(ordered, 50),
                p95_s=percentile(ordered, 95),
                p99_s=percentile(ordered, 99),
                slowest_s=percentile(ordered, 100),
                problems=tuple(self.problems),
                cost=cost,
            )


@dataclass(frozen=True)
class Summary:
    """A load test in figures; percentiles are of the time that a request took, in seconds.

    Attributes:
        cost: what the system's fleet has cost meanwhile, for all its users; None where the system does not tell.
    """

    mode: str
    images: int
    right: int
    answered: int
    wrong: int
    failed: int
    lost: int
    seconds: float
    images_per_second: float
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    slowest_s: float | None
    problems: tuple[str, ...] = ()
    cost: Cost | None = None

    @property
    def dollars_per_1000_images(self) -> float | None:
        """What 1,000 of the images cost; None where that is not known."""
        answered = self.images - self.lost
        return self.cost.dollars / answered * 1_000 if self.cost and answered else None

    @property
    def ok(self) -> bool:
        """Whether every image has a label, and the one that was expected where one was."""
        return not (self.wrong or self.failed or self.lost)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the least of `ordered`, ascending, that `share` percent are at most (nearest rank); None of nothing."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)], 4)
