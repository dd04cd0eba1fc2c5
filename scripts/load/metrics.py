"""The metrics of a load test: counted while it runs, summed up and shown at the end."""

import math
import threading
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.cost import MIN_PRICED_IMAGES
from core.format import dollars, plural
from fleetsight_client.console import Console
from scripts.run.batch import AwsCost
from services.clock import CLOCK, Clock

ImageVerdict = Literal["right", "answered", "wrong", "failed", "lost"]
"""The result of an image: `answered` has a label without an expected one, `failed` no label, `lost` no answer."""

MAX_PROBLEMS = 10

MAX_STEPS = 60
MIN_STEP_SECONDS = 0.5
"""Of a timeline."""


@dataclass
class LoadMetrics:
    """Counts verdicts and times; threads may share it. It needs 16 bytes per request."""

    counts: dict[ImageVerdict, int] = field(
        default_factory=lambda: {"right": 0, "answered": 0, "wrong": 0, "failed": 0, "lost": 0}
    )
    problems: list[str] = field(default_factory=list)
    cached: int = 0
    clock: Clock = CLOCK
    _seconds: "array[float]" = field(default_factory=lambda: array("d"))
    _moments: "array[float]" = field(default_factory=lambda: array("d"))
    """When each request ended, by the clock."""
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

    def record_time(self, seconds: float, ended_ago: float = 0.0) -> None:
        """Record how long an image, or a request, has taken until a moment that is `ended_ago` seconds past."""
        with self._lock:
            self._seconds.append(seconds)
            self._moments.append(self.clock.monotonic() - ended_ago)

    @property
    def images(self) -> int:
        """The number of images with a verdict."""
        return sum(self.counts.values())

    def summary(
        self, mode: str, images: int, seconds: float, cost: AwsCost | None = None, ended: float | None = None
    ) -> "LoadSummary":
        """Return the summary of a test of `images` that took `seconds` until `ended`, by the clock, or until now.

        Images without a verdict are lost.
        """
        began = (self.clock.monotonic() if ended is None else ended) - seconds
        with self._lock:
            ordered = sorted(self._seconds)
            lost = self.counts["lost"] + max(0, images - self.images)
            return LoadSummary(
                mode=mode,
                images=images,
                right=self.counts["right"],
                answered=self.counts["answered"],
                wrong=self.counts["wrong"],
                failed=self.counts["failed"],
                lost=lost,
                seconds=round(seconds, 3),
                images_per_second=round((images - lost) / seconds, 1) if seconds else 0.0,
                p50_s=percentile(ordered, 50),
                p95_s=percentile(ordered, 95),
                p99_s=percentile(ordered, 99),
                slowest_s=percentile(ordered, 100),
                problems=tuple(self.problems),
                cost=cost,
                cached=self.cached,
                percentiles_s=tuple(percentile(ordered, share) or 0.0 for share in range(101)) if ordered else (),
                timeline=timeline(self._moments, self._seconds, began, seconds),
            )


@dataclass(frozen=True)
class LoadStep:
    """The requests that ended in one step of a load test; times are seconds, `second` from the begin of the test."""

    second: float
    requests: int
    per_second: float
    p50_s: float
    p95_s: float
    slowest_s: float


def timeline(
    moments: Sequence[float], seconds: Sequence[float], began: float, total_seconds: float
) -> tuple[LoadStep, ...]:
    """Return the requests by the time of their end, in at most `MAX_STEPS` steps, without empty ones.

    Args:
        moments: when each request ended.
        seconds: how long it took.
        began: when the test began, by the same clock.
        total_seconds: how long the test took.
    """
    width = max(MIN_STEP_SECONDS, total_seconds / MAX_STEPS)
    steps: dict[int, list[float]] = {}
    for moment, taken in zip(moments, seconds, strict=True):
        steps.setdefault(max(0, min(MAX_STEPS - 1, int((moment - began) / width))), []).append(taken)
    found = []
    for number, taken_in_step in sorted(steps.items()):
        ordered = sorted(taken_in_step)
        p50, p95, slowest = (percentile(ordered, share) or 0.0 for share in (50, 95, 100))
        rate = round(len(ordered) / width, 2)
        found.append(LoadStep(round(number * width, 2), len(ordered), rate, p50, p95, slowest))
    return tuple(found)


@dataclass(frozen=True)
class FleetSample:
    """The fleet at one moment of a load test, in seconds from its begin; `waiting` counts images in the queue."""

    second: float
    running: int
    starting: int
    waiting: int


@dataclass(frozen=True)
class LoadSummary:
    """The metrics of a load test; percentiles are of the duration of a request, in seconds.

    Attributes:
        cost: of the system's fleet during the test, for all its users; None if it is unknown.
        cached: images of a job that were answered from the system's cache.
        late: requests of an open loop that started later than scheduled, by up to `latest_s`.
        percentiles_s: from 0 to 100.
        fleet: about once a second.
        settings: options of the command by name, and the version, for reports.
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
    late: int = 0
    latest_s: float = 0.0
    percentiles_s: tuple[float, ...] = ()
    timeline: tuple[LoadStep, ...] = ()
    fleet: tuple[FleetSample, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def dollars_per_1000_images(self) -> float | None:
        """The cost of 1,000 images, or None if it is unknown."""
        answered = self.images - self.lost
        return self.cost.dollars / answered * 1_000 if self.cost and answered else None

    @property
    def ok(self) -> bool:
        """Whether every image has a label, and the expected one if there is one."""
        return not self.not_right

    @property
    def not_right(self) -> int:
        """The number of images that are wrong, failed or lost."""
        return self.wrong + self.failed + self.lost


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


def show_load_summary(console: Console, summary: LoadSummary, *, is_interrupted: bool = False) -> None:
    """Print the figures, then what went wrong first, if anything did."""
    table = Table(title=f"{summary.images} images, {summary.mode}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in summary_rows(summary):
        table.add_row(name, value)
    console.print(table)
    for problem in summary.problems:
        console.print(problem)
    if is_interrupted:
        console.print("Interrupted: images that were not sent count as lost.")
    if summary.cached:
        console.print(
            f"No worker classified {plural(summary.cached, 'image')}: these figures are faster than the fleet. "
            "--unique makes each image new."
        )
    if summary.late:
        console.print(
            f"The load test fell behind: {plural(summary.late, 'request')} started late, by up to "
            f"{summary.latest_s:.1f} s. Raise --concurrency, or lower the rate."
        )


def summary_rows(summary: LoadSummary) -> list[tuple[str, str]]:
    """Return the names and values of the summary's rows."""
    counts = [("right", summary.right)] if summary.right or not summary.answered else []
    counts += [("answered", summary.answered)] if summary.answered else []
    counts += [("wrong", summary.wrong), ("failed", summary.failed), ("lost", summary.lost)]
    is_priced = summary.images - summary.lost - summary.cached >= MIN_PRICED_IMAGES
    per_thousand = summary.dollars_per_1000_images if is_priced else None
    times = (summary.p50_s, summary.p95_s, summary.p99_s, summary.slowest_s)
    timed = "upload to label" if summary.mode == "api" else "request"
    return [
        *((name, str(count)) for name, count in counts),
        *([("from the cache", str(summary.cached))] if summary.cached else []),
        ("seconds", f"{summary.seconds:.2f}"),
        ("images/s", f"{summary.images_per_second:.1f}"),
        *(
            (f"{timed}, {name}", "-" if seconds is None else f"{seconds:.3f} s")
            for name, seconds in zip(("p50", "p95", "p99", "slowest"), times, strict=True)
        ),
        *([("meanwhile, the fleet cost", str(summary.cost))] if summary.cost else []),
        *([("1,000 images", dollars(per_thousand))] if per_thousand is not None else []),
    ]
