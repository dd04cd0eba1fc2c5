"""The comparison as tables for people, and as figures for the report's JSON."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.fleet.comparison import Row
from benchmarks.fleet.standing import Duel
from benchmarks.report import Report

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


def figures_of(rows: Iterable[Row]) -> dict[str, float]:
    """Return every measure under a name such as ``batch-100, backlog: p95_s``."""
    return {f"{row.trace}, {row.rule}: {name}": value for row in rows for name, value in row.measures.items()}


@dataclass(frozen=True)
class FleetReport(Report):
    """A report whose figures are shown as tables by trace.

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
