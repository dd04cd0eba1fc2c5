"""How the product's `deadline` stands: against the others, each at the other's latency, and against the bound."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.report import Bar, Report
from simulator.bound import BINS
from simulator.comparison import Played, Row
from simulator.outcome import Outcome
from simulator.tables import figures_of, tables_of
from simulator.tuning import Dial

RIVALS: Final = frozenset({"one per message", "backlog", "target tracking", "KEDA accurate", "Ray Serve"})
"""Each of these it is tuned to."""
NO_DEARER: Final = 1.01
CLEARLY_CHEAPER: Final = 0.85
CHEAPER: Final = 0.9
CLEARLY_BEATEN: Final = frozenset({"target tracking", "Ray Serve"})
BURSTY: Final = frozenset({"flash-crowd", "mmpp"})

OWN_TARGETS: Final = {
    "batch-100": (90.0, 1.1),
    "batch-1000": (180.0, 1.1),
    "batch-10000": (900.0, 1.1),
    "flash-crowd": (25.0, 1.15),
    "mmpp": (46.0, 1.25),
    "nys-day": (5.0, 1.1),
    "twitter-day": (5.0, 1.1),
}
"""By trace: the 95th percentile to reach, in seconds, and the most that it may cost ÷ the bound there."""


@dataclass(frozen=True)
class Duel:
    """The tuned policy against another one at its latency.

    Attributes:
        target_seconds: that makes it as fast; None where none does.
        cost_ratio: the tuned one's cost ÷ the other's; infinite where it cannot be as fast.
        more_missed: by how much its share of missed deadlines is higher.
    """

    trace: str
    rival: str
    target_seconds: float | None
    cost_ratio: float
    more_missed: float

    @property
    def figures(self) -> dict[str, float]:
        """The figures by their names; none where no target is as fast."""
        if self.target_seconds is None:
            return {}
        begin = f"deadline tuned to {self.rival}, {self.trace}"
        return {f"{begin}: target_s": self.target_seconds, f"{begin}: cost_ratio": self.cost_ratio}


def duel(dial: Dial, rival: Played) -> Duel:
    """Tune to the rival's 95th percentile on its scene, and compare."""
    trace, name = rival.scene.name, rival.rule.name
    tuned = dial.tune(rival.outcome.p95)
    if tuned is None:
        return Duel(trace, name, None, float("inf"), 1.0)
    return Duel(
        trace=trace,
        rival=name,
        target_seconds=tuned.target_seconds,
        cost_ratio=tuned.played.outcome.cost / rival.outcome.cost,
        more_missed=tuned.played.missed - rival.missed,
    )


def duel_bars(duels: Sequence[Duel]) -> list[Bar]:
    """Return what is promised of a deadline policy beside others at their latency."""
    clear = [each.cost_ratio for each in duels if each.rival in CLEARLY_BEATEN]
    bars = [
        Bar("cost ÷ the dearest rival's at its p95, worst", max(each.cost_ratio for each in duels), NO_DEARER),
        Bar("cost ÷ target tracking's and Ray Serve's at their p95, worst", max(clear), CLEARLY_CHEAPER),
        Bar(
            "missed deadlines beyond a rival's at its p95, worst share", max(each.more_missed for each in duels), 0.0
        ),
    ]
    for trace in sorted({each.trace for each in duels} & BURSTY):
        ratios = sorted(each.cost_ratio for each in duels if each.trace == trace)
        bars.append(Bar(f"cost ÷ the third most beaten rival's, {trace}", ratios[2], CHEAPER))
    return bars


def bound_bar(dial: Dial, bins: int = BINS) -> Bar:
    """Return what is promised of a deadline policy beside the clairvoyant bound at its own 95th percentile."""
    wanted, most = OWN_TARGETS[dial.scene.name]
    tuned = dial.tune(wanted)
    ratio = float("inf") if tuned is None else tuned.played.outcome.cost / tuned.played.bound(bins)
    return Bar(f"deadline, {dial.scene.name}: cost ÷ clairvoyant bound, at p95 {wanted:g} s", ratio, most)


def batch_bars(outcome: Outcome) -> list[Bar]:
    """Return what is promised of 100 images of 1.5 s with boots of 42 s and `target_seconds` 90."""
    return [
        Bar("deadline, 100 images of 1.5 s in 90 s: workers", outcome.peak, 5),
        Bar("deadline, 100 images of 1.5 s in 90 s: billed instance-seconds", outcome.billed_seconds, 330),
    ]


def table_of_duels(duels: Iterable[Duel]) -> Table:
    """Return a table of `deadline`'s cost ÷ each rival's, when it is as fast as the rival."""
    ratios = {(each.trace, each.rival): each.cost_ratio for each in duels}
    rivals = list(dict.fromkeys(rival for _, rival in ratios))
    title = "deadline tuned to the p95 of each: its cost ÷ theirs"
    table = Table("trace", title=title, title_justify="left", box=SIMPLE_HEAD)
    for rival in rivals:
        table.add_column(rival, justify="right")
    for trace in dict.fromkeys(trace for trace, _ in ratios):
        table.add_row(trace, *(_ratio_in_words(ratios[trace, rival]) for rival in rivals))
    return table


@dataclass(frozen=True)
class FleetReport(Report):
    """A report with figures that are shown as tables by trace.

    Attributes:
        rows: of the comparison.
        duels: of `deadline` with each rival on each trace.
    """

    rows: Sequence[Row] = field(default=())
    duels: Sequence[Duel] = field(default=())

    def show(self, console: Console) -> None:
        """Print the comparison, the duels and the bars."""
        for table in tables_of(self.rows):
            console.print(table)
        console.print(table_of_duels(self.duels))
        told = figures_of(self.rows).keys() | {name for each in self.duels for name in each.figures}
        others = {name: value for name, value in self.figures.items() if name not in told}
        Report(self.name, others, self.bars).show(console)


def _ratio_in_words(ratio: float) -> str:
    return f"{ratio:.3f}" if math.isfinite(ratio) else "slower"
