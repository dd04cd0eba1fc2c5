"""The metrics of a load test: counted while it runs, summed up and shown at the end."""

import math
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from core.format import dollars, plural
from scripts.run.batch import AwsCost

ImageVerdict = Literal["right", "answered", "wrong", "failed", "lost"]
"""The result of an image: `answered` has a label without an expected one, `failed` no label, `lost` no answer."""

MAX_PROBLEMS = 10


@dataclass
class LoadMetrics:
    """Counts verdicts and times; threads may share it. It needs eight bytes per request."""

    counts: dict[ImageVerdict, int] = field(
        default_factory=lambda: {"right": 0, "answered": 0, "wrong": 0, "failed": 0, "lost": 0}
    )
    problems: list[str] = field(default_factory=list)
    cached: int = 0
    _seconds: "array[float]" = field(default_factory=lambda: array("d"))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record_verdict(self, verdict: ImageVerdict, problem: str = "", images: int = 1) -> None:
        """Count `images` with a verdict, and store the first problems."""
        with self._lock:
            self.counts[verdict] += images
            if problem and len(self.problems) < MAX_PROBLEMS:
                self.problems.append(f"{verdict}: {problem}")

    def record_cached(self) -> None:
        """Count an image that was answered from the system's cache."""
        with self._lock:
            self.cached += 1

    def record_time(self, seconds: float) -> None:
        """Record the duration of a request."""
        with self._lock:
            self._seconds.append(seconds)

    @property
    def images(self) -> int:
        """The number of images with a verdict."""
        return sum(self.counts.values())

    def summary(self, mode: str, images: int, seconds: float, cost: AwsCost | None = None) -> "LoadSummary":
        """Return the summary of a test of `images` in `seconds`; images without a verdict are lost."""
        with self._lock:
            ordered = sorted(self._seconds)
            lost = self.counts["lost"] + max(0, images - self.images)
            return LoadSummary(
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
                cached=self.cached,
            )


@dataclass(frozen=True)
class LoadSummary:
    """The metrics of a load test; percentiles are of the duration of a request, in seconds.

    Attributes:
        cost: of the system's fleet during the test, for all its users; None if it is unknown.
        cached: images of a job that were answered from the system's cache.
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
    cost: AwsCost | None = None
    cached: int = 0

    @property
    def dollars_per_1000_images(self) -> float | None:
        """The cost of 1,000 images, or None if it is unknown."""
        answered = self.images - self.lost
        return self.cost.dollars / answered * 1_000 if self.cost and answered else None

    @property
    def ok(self) -> bool:
        """Whether every image has a label, and the expected one if there is one."""
        return not (self.wrong or self.failed or self.lost)


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the percentile `share` of ascending values by nearest rank, or None if there are none."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)], 4)


def progress_bar(console: Console) -> Progress:
    """Return a progress bar; it draws on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def show_load_summary(console: Console, summary: LoadSummary) -> None:
    """Print the figures, then what went wrong first, if anything did."""
    table = Table(title=f"{summary.images} images, {summary.mode}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    console.print(table)
    for problem in summary.problems:
        console.print(Text(problem))
    if summary.cached:
        console.print(
            f"No worker classified {plural(summary.cached, 'image')}: these figures are faster than the fleet."
        )


def summary_rows(summary: LoadSummary) -> list[tuple[str, str]]:
    """Return the names and values of the summary's rows."""
    counts = [("right", summary.right)] if summary.right or not summary.answered else []
    counts += [("answered", summary.answered)] if summary.answered else []
    counts += [("wrong", summary.wrong), ("failed", summary.failed), ("lost", summary.lost)]
    per_thousand = summary.dollars_per_1000_images
    times = (summary.p50_s, summary.p95_s, summary.p99_s, summary.slowest_s)
    return [
        *((name, str(count)) for name, count in counts),
        *([("from the cache", str(summary.cached))] if summary.cached else []),
        ("seconds", f"{summary.seconds:.2f}"),
        ("images/s", f"{summary.images_per_second:.1f}"),
        *(
            (f"request, {name}", "-" if seconds is None else f"{seconds:.3f} s")
            for name, seconds in zip(("p50", "p95", "p99", "slowest"), times, strict=True)
        ),
        *([("meanwhile, the fleet cost", str(summary.cost))] if summary.cost else []),
        *([("1,000 images", dollars(per_thousand))] if per_thousand is not None else []),
    ]
