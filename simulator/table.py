"""What is shown of simulations: a row for each trace and policy, as tables and as figures by name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.table import Table

from simulator.bound import BINS, lower_bound
from simulator.engine import Conditions, SimulationOutcome, pooled
from simulator.traces import Trace

HEADINGS: Final[Mapping[str, str]] = {
    "cost": "cost",
    "p50_s": "p50 s",
    "p95_s": "p95 s",
    "p99_s": "p99 s",
    "missed_percent": "late %",
    "launches": "launches",
    "peak": "peak",
    "cost_over_bound": "÷ bound",
}
"""A heading for each measure of a row."""


@dataclass(frozen=True)
class Row:
    """A trace, the policy that decided, and the measures by name."""

    trace: str
    policy: str
    measures: Mapping[str, float]


def row_of(
    trace: str,
    policy: str,
    played: Sequence[tuple[Trace, SimulationOutcome]],
    conditions: Conditions,
    bins: int = BINS,
) -> Row:
    """Return the row of one or several simulations, each held to the clairvoyant bound at its own p95.

    Args:
        trace: its name.
        policy: its name.
        played: traces, one for each seed, and what came of them.
        conditions: of all of them.
        bins: of the bound's linear program.
    """
    outcome = pooled([each for _, each in played])
    least = sum(lower_bound(each, made.p95, conditions, bins) * made.work_seconds for each, made in played)
    measures = {
        "cost": outcome.cost,
        "p50_s": outcome.percentile(50),
        "p95_s": outcome.p95,
        "p99_s": outcome.percentile(99),
        "missed_percent": 100 * outcome.missed(played[0][0].deadline_seconds),
        "launches": float(outcome.launches),
        "peak": float(outcome.peak),
        "cost_over_bound": outcome.billed_seconds / least,
    }
    return Row(trace, policy, measures)


def tables_of(rows: Iterable[Row]) -> Iterator[Table]:
    """Yield a table for each trace, with a line for each policy."""
    for trace, of_trace in groupby(rows, key=lambda row: row.trace):
        table = Table(title=f"{trace} (cost ÷ N·S)", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("policy", no_wrap=True, min_width=15)
        for heading in HEADINGS.values():
            table.add_column(heading, justify="right")
        for row in of_trace:
            table.add_row(row.policy, *(f"{row.measures[name]:,.4g}" for name in HEADINGS))
        yield table


def figures_of(rows: Iterable[Row]) -> dict[str, float]:
    """Return every measure under a name such as ``batch-100, backlog: p95_s``."""
    return {f"{row.trace}, {row.policy}: {name}": value for row in rows for name, value in row.measures.items()}
