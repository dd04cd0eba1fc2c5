"""The limits that a load test must reach."""

from dataclasses import dataclass

from core.format import dollars
from scripts.load.metrics import LoadSummary


@dataclass(frozen=True)
class MaxFailed:
    """The number, or the share, of images that may be wrong, failed or lost."""

    value: float = 0.0
    is_share: bool = False

    def allows(self, not_right: int, images: int) -> bool:
        """Return whether so many of `images` are within the limit."""
        return not_right <= (self.value * images if self.is_share else self.value)

    def __str__(self) -> str:
        """Return the limit as it is written: `5` or `1%`."""
        return f"{self.value * 100:g}%" if self.is_share else f"{self.value:g}"


@dataclass(frozen=True)
class Thresholds:
    """Limits of a load test; None is no limit. Times are seconds."""

    max_p50: float | None = None
    max_p95: float | None = None
    max_p99: float | None = None
    max_failed: MaxFailed = MaxFailed()
    min_rate: float | None = None
    max_dollars_per_1000: float | None = None


@dataclass(frozen=True)
class ThresholdResult:
    """A limit, what was measured, and whether it was reached; a figure that was not measured does not reach it."""

    limit: str
    measured: str
    is_reached: bool

    def __str__(self) -> str:
        """Return a line such as `missed: p95 at most 2 s (measured 2.310 s)`."""
        return f"{'reached' if self.is_reached else 'missed'}: {self.limit} (measured {self.measured})"


def check_thresholds(summary: LoadSummary, thresholds: Thresholds) -> tuple[ThresholdResult, ...]:
    """Return the result of each limit; the one on images that are not right is always there."""
    bad = summary.not_right
    allowed = f"wrong, failed or lost images at most {thresholds.max_failed}"
    results = [ThresholdResult(allowed, str(bad), thresholds.max_failed.allows(bad, summary.images))]
    for name, wanted, measured in (
        ("p50", thresholds.max_p50, summary.p50_s),
        ("p95", thresholds.max_p95, summary.p95_s),
        ("p99", thresholds.max_p99, summary.p99_s),
    ):
        if wanted is not None:
            shown = "nothing" if measured is None else f"{measured:.3f} s"
            is_reached = measured is not None and measured <= wanted
            results.append(ThresholdResult(f"{name} at most {wanted:g} s", shown, is_reached))
    if thresholds.min_rate is not None:
        rate = summary.images_per_second
        limit = f"images/s at least {thresholds.min_rate:g}"
        results.append(ThresholdResult(limit, f"{rate:g}", rate >= thresholds.min_rate))
    if (most := thresholds.max_dollars_per_1000) is not None:
        cost = summary.dollars_per_1000_images
        shown = "nothing" if cost is None else dollars(cost)
        limit = f"1,000 images at most {dollars(most)}"
        results.append(ThresholdResult(limit, shown, cost is not None and cost <= most))
    return tuple(results)
