"""The policies over every trace, beside the clairvoyant bound: ``python -m benchmarks fleet``.

`deadline` is held to what it promises: so many seconds at the 95th percentile, at a cost near that of the cheapest
fleet that knows all arrivals beforehand.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks.report import Bar, Report
from core.config import FleetSettings, load_config
from simulator import traces
from simulator.bound import BINS
from simulator.engine import CERTAIN, Conditions, SimulationOutcome, simulate_fleet
from simulator.table import Row, figures_of, row_of, tables_of

ROOT: Final = Path(__file__).resolve().parents[1]
CONDITIONS: Final = Conditions()
CAPACITY: Final = CONDITIONS.max_workers / CONDITIONS.image_seconds
"""Images/s of a full fleet."""

IMAGES_PER_WORKER: Final = 10
"""Of `backlog`: ten images of 1.5 s are a quarter of a minute's work."""

PROCESSES: Final = 2
"""Traces that are played side by side."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What `deadline` is held to on a trace.

    Attributes:
        target_seconds: the setting that it is played with.
        p95_seconds: the 95th percentile that it must reach.
        cost: the most that it may cost ÷ the bound for the percentile that it reached.
    """

    target_seconds: float
    p95_seconds: float
    cost: float


PROMISES: Final = {
    "batch-100": Promise(target_seconds=90.0, p95_seconds=90.0, cost=1.1),
    "batch-1000": Promise(target_seconds=180.0, p95_seconds=180.0, cost=1.1),
    "batch-10000": Promise(target_seconds=900.0, p95_seconds=900.0, cost=1.1),
    "flash-crowd": Promise(target_seconds=15.1, p95_seconds=25.0, cost=1.15),
    "mmpp": Promise(target_seconds=42.2, p95_seconds=46.0, cost=1.25),
    "nys-day": Promise(target_seconds=2.75, p95_seconds=5.0, cost=1.1),
    "twitter-day": Promise(target_seconds=3.03, p95_seconds=5.0, cost=1.1),
}
"""By trace. From nothing, the first images of a burst wait for a boot: a target of less than one is not their p95."""

MAX_LATE_PERCENT: Final = 5.0
"""Share of the images that may be answered after the trace's deadline."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a run is.

    Attributes:
        seeds: of the simulations of each trace but the days, which are long enough for one.
        bins: of the bound's linear program.
        has_days: whether the days are played.
    """

    seeds: Sequence[int]
    bins: int
    has_days: bool


DAYS: Final = ("nys-day", "twitter-day")
FULL: Final = Effort(range(5), BINS, has_days=True)
QUICK: Final = Effort((1,), bins=300, has_days=False)


@dataclass(frozen=True)
class FleetReport(Report):
    """A report that shows its rows as tables by trace."""

    rows: Sequence[Row] = field(default=())

    def show(self, console: Console) -> None:
        """Print the tables, the other figures and the bars."""
        for table in tables_of(self.rows):
            console.print(table)
        others = {name: value for name, value in self.figures.items() if name not in figures_of(self.rows)}
        Report(self.name, others, self.bars).show(console)


def run(quick: bool) -> FleetReport:
    """Play both policies over every trace."""
    started, effort = time.perf_counter(), QUICK if quick else FULL
    with ProcessPoolExecutor(PROCESSES) as processes:
        # The longest, which stand last, begin first.
        names = [name for name in reversed(PROMISES) if effort.has_days or name not in DAYS]
        played = list(processes.map(partial(play, effort=effort), names))[::-1]
    return report_of([row for rows, _ in played for row in rows], sum(beyond for _, beyond in played), started)


def fleet_settings(policy: str, **changes: float) -> FleetSettings:
    """Return the fleet section of config.yaml for a fleet of the benchmark's conditions that starts from nothing."""
    own = {
        "policy": policy,
        "min_workers": 0,
        "max_workers": CONDITIONS.max_workers,
        "images_per_worker": IMAGES_PER_WORKER,
        "image_seconds": CONDITIONS.image_seconds,
        "boot_seconds": CONDITIONS.machine.boot_seconds,
    }
    return load_config(ROOT / "config.yaml", {}).fleet.model_copy(update=own | changes)


def play(name: str, effort: Effort) -> tuple[tuple[Row, ...], int]:
    """Return the rows of both policies on the trace called `name`, and the decisions beyond the maximum."""
    rows, beyond = [], 0
    seeds = (0,) if name in DAYS else effort.seeds
    made = [traces.named(CAPACITY)[name](seed) for seed in seeds]
    for settings in (
        fleet_settings("backlog"),
        fleet_settings("deadline", target_seconds=PROMISES[name].target_seconds),
    ):
        outcomes = [
            simulate_fleet(trace, settings, CONDITIONS, seed) for trace, seed in zip(made, seeds, strict=True)
        ]
        played = list(zip(made, outcomes, strict=True))
        rows.append(row_of(name, settings.policy, played, CONDITIONS, effort.bins))
        beyond += sum(each.beyond_maximum for each in outcomes)
    return tuple(rows), beyond


def report_of(rows: Sequence[Row], beyond: int, started: float) -> FleetReport:
    """Return the report of all traces, and its bars."""
    least = min(row.measures["cost_over_bound"] for row in rows)
    hundred = simulate_fleet(
        traces.batch(100, 90.0), fleet_settings("deadline", target_seconds=90.0), Conditions(CERTAIN)
    )
    bars = [
        Bar("decisions beyond the maximum, both policies, every trace", beyond, at_most=0),
        Bar("cost ÷ clairvoyant bound, both policies, least", least, at_least=1.0),
        *(bar for row in rows if row.policy == "deadline" for bar in deadline_bars(row)),
        *batch_bars(hundred),
    ]
    figures = figures_of(rows) | {"this run, s": time.perf_counter() - started}
    return FleetReport("fleet", figures, tuple(bars), rows)


def deadline_bars(row: Row) -> list[Bar]:
    """Return what is promised of `deadline` on a trace: its p95, the cost of that, and few late images."""
    promise, measures = PROMISES[row.trace], row.measures
    return [
        Bar(f"deadline, {row.trace}: p95, s", measures["p95_s"], promise.p95_seconds),
        Bar(f"deadline, {row.trace}: cost ÷ clairvoyant bound", measures["cost_over_bound"], promise.cost),
        Bar(f"deadline, {row.trace}: late, %", measures["missed_percent"], MAX_LATE_PERCENT),
    ]


def batch_bars(outcome: SimulationOutcome) -> list[Bar]:
    """Return what is promised of 100 images of 1.5 s with boots of 42 s and `target_seconds` 90."""
    return [
        Bar("deadline, 100 images of 1.5 s in 90 s: workers", outcome.peak, 5),
        Bar("deadline, 100 images of 1.5 s in 90 s: billed instance-seconds", outcome.billed_seconds, 330),
    ]
