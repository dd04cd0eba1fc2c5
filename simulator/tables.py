"""The comparison as tables for people, and as figures for the report's JSON."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Table

from simulator.comparison import Row

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
