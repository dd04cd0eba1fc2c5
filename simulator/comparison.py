"""Every policy over every trace, beside what the cheapest fleet that knew everything would have cost.

It also finds the target with which one policy is as fast as another, and what it costs then; and it draws, for each
trace, what came, how many workers each policy had, and what waited.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from core.config import FleetSettings
from services.errors import FleetsightError
from simulator.bound import BINS, mean_bound, need
from simulator.engine import COLUMNS, Conditions, SimulationOutcome, simulate, together
from simulator.policies import fixed, keda_accurate, one_per_message, ours, ray_serve, target_tracking
from simulator.policy import NamedPolicy
from simulator.traces import Floats, Trace, TraceOf


@dataclass(frozen=True)
class Scene:
    """A trace made from each of several seeds, and the conditions that it is played under."""

    name: str
    seeds: tuple[int, ...]
    traces: tuple[Trace, ...]
    conditions: Conditions

    @classmethod
    def of(cls, name: str, trace_of: TraceOf, conditions: Conditions, seeds: Sequence[int]) -> "Scene":
        """Return the scene of a trace that is made from each of the seeds."""
        return cls(name, tuple(seeds), tuple(trace_of(seed) for seed in seeds), conditions)

    @property
    def deadline_seconds(self) -> float:
        """After which an answer counts as missed."""
        return self.traces[0].deadline_seconds

    def play(self, rule: NamedPolicy) -> "Played":
        """Return the outcome of the trace when `rule` decides."""
        pairs = zip(self.seeds, self.traces, strict=True)
        outcomes = tuple(simulate(trace, rule, self.conditions, seed) for seed, trace in pairs)
        return Played(self, rule, outcomes, together(outcomes))


@dataclass(frozen=True)
class Played:
    """A scene that has been played by a rule: each simulation, and all of them together."""

    scene: Scene
    rule: NamedPolicy
    outcomes: tuple[SimulationOutcome, ...]
    outcome: SimulationOutcome

    def bound(self, bins: int = BINS) -> float:
        """Return the least cost ÷ N·S with the same 95th percentile in each simulation (see `bound`)."""
        prepared = self.rule.new().terms.prepared
        return mean_bound(self.scene.traces, self.outcomes, self.scene.conditions, prepared, bins)

    @property
    def missed(self) -> float:
        """The share of images that were answered after the scene's deadline."""
        return self.outcome.missed(self.scene.deadline_seconds)


def rivals(conditions: Conditions) -> tuple[NamedPolicy, ...]:
    """Return the policies of others, with their defaults."""
    most = conditions.max_workers
    return (
        one_per_message(most),
        target_tracking(most, conditions.image_seconds),
        keda_accurate(most),
        ray_serve(most),
        fixed(most),
    )


MEASURES: tuple[tuple[str, Callable[[Played], float]], ...] = (
    ("cost", lambda played: played.outcome.cost),
    ("p50_s", lambda played: played.outcome.percentile(50)),
    ("p95_s", lambda played: played.outcome.p95),
    ("p99_s", lambda played: played.outcome.percentile(99)),
    ("missed_percent", lambda played: 100 * played.missed),
    ("launches", lambda played: played.outcome.launches),
    ("peak", lambda played: played.outcome.peak),
)
"""What is shown of a scene that was played, by the name that figures carry. Cost is ÷ N·S."""


@dataclass(frozen=True)
class Row:
    """A line of the table: a trace, who decided, and the measures by name."""

    trace: str
    rule: str
    measures: dict[str, float]


def row_of(played: Played, bins: int = BINS) -> Row:
    """Return the line of a scene that was played, with its cost ÷ the bound over so many bins."""
    measures = {name: measure(played) for name, measure in MEASURES}
    over = played.outcome.cost / played.bound(bins)
    return Row(played.scene.name, played.rule.name, {**measures, "cost_over_bound": over})


MIN_SECONDS: Final = 0.25
MAX_SECONDS: Final = 2_400.0
RATIO: Final = 1.02
"""Of one target that can be tried to the one below it."""

STEPS: Final = 9
"""Halvings of the span of targets, at most: with so many each target can be found."""

NEAR: Final = 0.01
"""A percentile that is at most so much below the wanted one ends the search."""


def deadline(settings: FleetSettings, target_seconds: float) -> NamedPolicy:
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

    by_target: Callable[[float], NamedPolicy]
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
            if middle not in self._played:
                target = MIN_SECONDS * RATIO**middle
                self._played[middle] = Tuned(target, self.scene.play(self.by_target(target)))
            p95 = self._played[middle].played.outcome.p95
            if (1 - NEAR) * wanted_seconds <= p95 <= wanted_seconds or middle in {low, high}:
                break
            low, high = (low, middle) if p95 > wanted_seconds else (middle, high)
        fast = [each for each in self._played.values() if each.played.outcome.p95 <= wanted_seconds]
        return min(fast, key=lambda each: each.played.outcome.cost, default=None)


HEADINGS: Mapping[str, str] = {
    "cost": "cost",
    "p50_s": "p50 s",
    "p95_s": "p95 s",
    "p99_s": "p99 s",
    "missed_percent": "late %",
    "launches": "launches",
    "peak": "peak",
    "cost_over_bound": "÷ bound",
}
"""A heading for each measure of a row; cost is ÷ N·S."""


def tables_of(rows: Iterable[Row]) -> Iterator[Table]:
    """Yield a table for each trace."""
    for trace, of_trace in groupby(rows, key=lambda row: row.trace):
        table = Table(title=f"{trace} (cost ÷ N·S)", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("policy", no_wrap=True, min_width=15)
        for heading in HEADINGS.values():
            table.add_column(heading, justify="right")
        for row in of_trace:
            table.add_row(row.rule, *(f"{row.measures[name]:,.4g}" for name in HEADINGS))
        yield table


def figures_of(rows: Iterable[Row]) -> dict[str, float]:
    """Return every measure under a name such as ``batch-100, backlog: p95_s``."""
    return {f"{row.trace}, {row.rule}: {name}": value for row in rows for name, value in row.measures.items()}


POINTS: Final = 600
"""Points of a line; of longer histories each shows the highest of several."""
COLORS: Final = ("#d1495b", "#edae49", "#30638e", "#8d5a97", "#9aa5b1", "#0b6e4f", "#003d5b")
NOW, VISIBLE, WORKERS = (COLUMNS.index(name) for name in ("now", "visible", "workers"))


class PlotError(FleetsightError):
    """Raised when plots cannot be written; the message says what to do."""


def draw(played: Sequence[Played], folder: Path) -> list[Path]:
    """Draw the first simulation of one scene by several policies; return the PNG and the SVG in `folder`.

    The last of them stands out.

    Raises:
        PlotError: when the folder cannot be written.
        MissingError: when matplotlib is not installed.
    """
    # A fixed salt and no date, so that the same simulation gives the same file.
    with need("matplotlib").rc_context({"svg.hashsalt": "fleetsight", "svg.fonttype": "none", "font.size": 9}):
        figure = need("matplotlib.figure").Figure(figsize=(10, 7.5), layout="constrained")
        _fill(figure, played)
        paths = [folder / f"{played[0].scene.name}{suffix}" for suffix in (".png", ".svg")]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in paths:
                figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise PlotError(f"cannot write the plots to {folder}: {error}; choose another folder") from error
        return paths


def _fill(figure: Any, played: Sequence[Played]) -> None:
    scene = played[0].scene
    unit, name = (3_600.0, "h") if scene.traces[0].seconds > 7_200 else (60.0, "min")
    last = max(each.outcome.history[-1, NOW] for each in played)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1, 2, 2))
    times, rates = rate_over_time(scene.traces[0].arrivals, last)
    top.fill_between(times / unit, rates, step="post", color="#9aa5b1")
    for number, each in enumerate(played):
        width = 2.2 if each is played[-1] else 1.2
        style = {"label": each.rule.name, "color": COLORS[number % len(COLORS)], "linewidth": width}
        middle.step(*_line(each, WORKERS, unit), where="post", **style)
        bottom.step(*_line(each, VISIBLE, unit), where="post", **style)
    top.set(ylabel="images/s come", title=f"{scene.name}: {len(scene.traces[0].arrivals):,} images")
    middle.set(ylabel="workers", ylim=(0, scene.conditions.max_workers + 1))
    bottom.set(ylabel="images wait", xlabel=name, yscale="symlog", ylim=(0, None))
    for axes in (top, middle, bottom):
        axes.grid(alpha=0.3)
    middle.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def rate_over_time(arrivals: Floats, seconds: float) -> tuple[Floats, Floats]:
    """Return times, and the mean arrivals a second from each to the next, over `seconds`."""
    edges = np.linspace(0.0, max(seconds, 1.0), POINTS // 4 + 1)
    counts, _ = np.histogram(arrivals, edges)
    return edges[:-1], counts / np.diff(edges)


def thinned(times: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Return at most `POINTS` points; each stands for several and shows the highest of them."""
    step = max(1, -(-len(times) // POINTS))
    begins = np.arange(0, len(times), step)
    return times[begins], np.maximum.reduceat(values, begins)


def _line(played: Played, column: int, unit: float) -> tuple[Floats, Floats]:
    history = played.outcome.history
    times, values = thinned(history[:, NOW], history[:, column])
    return times / unit, values
