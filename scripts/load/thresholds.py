"""What a load test must reach: limits of its own, or the figures of an earlier one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from core.format import dollars
from scripts.load.metrics import LoadSummary
from services.errors import FleetsightError


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


class ComparisonError(FleetsightError):
    """Raised when a file is not the `--json` of a load test; the message names it."""


@dataclass(frozen=True)
class Figure:
    """A figure of a load test that two are compared by."""

    name: str
    of: Callable[[Mapping[str, Any]], float | None]
    text: Callable[[float], str]
    is_higher_better: bool = False
    is_count: bool = False


def _seconds(value: float) -> str:
    return f"{value:.3f} s"


def _not_right(run: Mapping[str, Any]) -> float:
    return float(run["wrong"] + run["failed"] + run["lost"])


FIGURES: Final = (
    Figure("wrong, failed, lost", _not_right, "{:g}".format, is_count=True),
    Figure("images/s", lambda run: run["images_per_second"], "{:,.1f}".format, is_higher_better=True),
    *(
        Figure(f"request, {name}", lambda run, name=name: run[f"{name}_s"], _seconds)  # type: ignore[misc]
        for name in ("p50", "p95", "p99", "slowest")
    ),
    Figure("1,000 images", lambda run: run.get("dollars_per_1000_images"), dollars),
)
"""What `compare` shows."""

JUDGED: Final = frozenset({"images/s", "request, p50", "request, p95", "request, p99", "1,000 images"})
"""Figures that a ratio is demanded of; the slowest request of a test is luck."""


@dataclass(frozen=True)
class Compared:
    """A figure of two load tests; `factor` is by how much the second is worse, below 1 if it is better."""

    figure: Figure
    before: float | None
    after: float | None

    @property
    def ratio(self) -> float | None:
        """The second ÷ the first, or None if either is not known, or the first is zero."""
        return None if self.before is None or self.after is None or not self.before else self.after / self.before

    def is_worse(self, max_ratio: float) -> bool:
        """Return whether the second is more than `max_ratio` times worse, or has more images that are not right."""
        if self.figure.is_count:
            return (self.after or 0) > (self.before or 0)
        if self.figure.name not in JUDGED or self.ratio is None:
            return False
        return self.ratio < 1 / max_ratio if self.figure.is_higher_better else self.ratio > max_ratio


def read_run(path: Path) -> dict[str, Any]:
    """Return what `--json` has written.

    Raises:
        ComparisonError: the file cannot be read, or is something else.
    """
    try:
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for figure in FIGURES:
            figure.of(run)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(f"{path} is not from ./scripts/load_test --json FILE ({error!r})") from error
    return run


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Compared]:
    """Return each figure of two load tests, read by `read_run`."""
    return [Compared(figure, figure.of(before), figure.of(after)) for figure in FIGURES]


def different_settings(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the settings in which two load tests differ, such as `rate: 50/s, then 100/s`."""
    first, second = (dict(run.get("settings", {})) for run in (before, after))
    names = [name for name in first | second if name != "at" and first.get(name) != second.get(name)]
    return [f"{name}: {first.get(name, 'not set')}, then {second.get(name, 'not set')}" for name in names]


def comparison_table(compared: list[Compared], names: tuple[str, str], max_ratio: float | None) -> Table:
    """Return a table with both load tests and the ratios; a figure that is too much worse is marked."""
    table = Table(title=f"{names[0]}, then {names[1]}", title_justify="left")
    for heading in ("", "first", "second", "second ÷ first"):
        table.add_column(heading, justify="left" if not heading else "right")
    for each in compared:
        values = ("-" if value is None else each.figure.text(value) for value in (each.before, each.after))
        ratio = "-" if each.ratio is None else f"{each.ratio:.2f}"
        mark = " missed" if max_ratio is not None and each.is_worse(max_ratio) else ""
        table.add_row(each.figure.name, *values, f"{ratio}{mark}")
    return table
