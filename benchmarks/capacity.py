"""How many images a second does one controller record at AWS's latencies, how late, and beside which jobs?

A discrete-event model (`capacity_model`): the controller's own loops run in virtual time over services with AWS's
latencies, partial receives and documented quotas (`virtual_aws`). A program sends the answers, since the number of
workers is no limit of the controller. What the loops compute is charged with the CPU time that it takes on this
machine, and a call with the CPU time that it takes here against a server that sends fixed replies
(`call_costs`). One core does all of it, as CPython's interpreter lock makes it. So that the figures of different
machines can be compared, all CPU times are scaled to the core of the documented figures: its speed beside this one is
measured again and again (`core_speed`), since other processes slow this one down.

Nothing runs on AWS. The model cannot show how long AWS really takes, nor when DynamoDB splits a partition for heat.
`capacity_check` compares it with a real controller on the local cloud, which uses half to twice the CPU time that is
charged here, by what else the machine does.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.call_costs import core_speed, measure_call_costs
from benchmarks.capacity_model import OTHERS, LargeJob, Rates, Setup, large_job, sustained, under_load
from benchmarks.measure import percentile
from benchmarks.report import Bar, Report
from benchmarks.virtual_aws import Quotas

MIN_IMAGES_PER_SECOND: Final = 1_500
MAX_IMAGE_BYTES: Final = 100
"""Of memory for an image of an unfinished job."""
MAX_STALL_SECONDS: Final = 1.0
MAX_TAKEOVER_STALL_SECONDS: Final = 2.0
"""At a takeover all jobs are read at once: an answer waits for the reading of its own job, too."""

JOBS, QUICK_JOBS = (1, 20, 100, 1_000), (1, 20, 100)
BARRED_JOBS: Final = (1, 20, 100)
LOADS, QUICK_LOADS = (1, 10, 100, 1_000, 1_500, 10_000), (10, 1_000)
LOAD_JOBS: Final = 20
LARGE, QUICK_LARGE = (10_000, 100_000, 1_000_000), (10_000,)

STRICT: Final = Quotas(burst_seconds=1.0)
"""With every limit, and without the burst that the unused capacity of the last five minutes allows."""

FREE: Final = Quotas(partition_writes=inf, partition_reads=inf)
"""Without the limit of a partition, as if DynamoDB had split the items of each job for heat: one job alone would have
1,000 results a second at most, 500 while its images are recorded in the same partition."""


def run(quick: bool) -> Report:
    """Print how much the controller records, how late, and what a large job does to others."""
    figures: dict[str, float] = {}
    bars: list[Bar] = []
    setup, figures["speed of a core of this machine"] = reference_setup(quick)
    figures |= {
        f"CPU of a call, {operation}, ms": 1e3 * setup.costs.of(operation, 1) for operation in setup.costs.calls
    }
    console = Console()
    with no_collection():
        rates = dict(_sustained(setup, quick))
        console.print(_rates_table("more answers wait than are recorded", rates))
        for name, each in rates.items():
            figures |= _figures(name, each)
        bars += [
            Bar(
                f"{_name(jobs)}: images/s at 7/8/60 ms",
                rates[_name(jobs)].images_per_second,
                at_least=MIN_IMAGES_PER_SECOND,
            )
            for jobs in BARRED_JOBS
        ]
        figures |= _delays(setup, quick, console)
        for images in QUICK_LARGE if quick else LARGE:
            large = large_job(setup, images)
            console.print(_large_table(large))
            figures |= _large_figures(large)
            stalls = dict(large.stalls)
            takeover, later = stalls.pop("takeover"), max(stalls.values())
            bars += [
                Bar(
                    f"a job of {images:,}: the recorder's bytes an image",
                    large.memory_bytes,
                    at_most=MAX_IMAGE_BYTES,
                ),
                Bar(f"a job of {images:,}: longest stall of others, s", later, at_most=MAX_STALL_SECONDS),
                Bar(
                    f"a job of {images:,}: longest stall of others at a takeover, s",
                    takeover,
                    at_most=MAX_TAKEOVER_STALL_SECONDS,
                ),
            ]
    return Report("capacity", figures, tuple(bars))


def reference_setup(quick: bool) -> tuple[Setup, float]:
    """Return a model with the core of the documented figures, and how fast a core of this machine is beside it."""
    speed = core_speed()
    return Setup(
        costs=measure_call_costs(10 if quick else 25).scaled(speed), core_speed=partial(core_speed, 2)
    ), speed


@contextmanager
def no_collection() -> Iterator[None]:
    """Let Python's cycle collector rest: it would go through the model's services, and count as the controller's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def _sustained(setup: Setup, quick: bool) -> Iterator[tuple[str, Rates]]:
    cases = {_name(jobs): (jobs, FREE if jobs == 1 else STRICT) for jobs in (QUICK_JOBS if quick else JOBS)}
    cases["1 job in one partition"] = 1, STRICT
    rounds, seconds = (2, 1.5) if quick else (3, 10.0)
    for name, (jobs, quotas) in cases.items():
        found = (sustained(replace(setup, quotas=quotas), jobs, seconds) for _ in range(rounds))
        # Other processes can only slow down what is computed.
        yield name, max(found, key=lambda rates: rates.images_per_second)


def _delays(setup: Setup, quick: bool, console: Console) -> dict[str, float]:
    """Print how long answers wait until they are recorded and counted, by load; return the figures."""
    figures: dict[str, float] = {}
    table = Table(*("images/s sent", "recorded", "p50 ms", "p95 ms", "core"), title=f"delay, {LOAD_JOBS} jobs")
    for load in QUICK_LOADS if quick else LOADS:
        # A load that is too high only grows the queue: a few seconds of it are enough.
        seconds, warm_up = (3.0, 2.0) if quick or load > 1_500 else (30.0 if load <= 10 else 10.0, 5.0)
        rates, delays = under_load(setup, LOAD_JOBS, load, seconds, warm_up)
        p50, p95 = (1e3 * percentile(delays, percent) for percent in (50, 95))
        found = {
            "recorded images/s": rates.images_per_second,
            "p50, ms": p50,
            "p95, ms": p95,
            "core": rates.core_share,
        }
        table.add_row(
            f"{load:,}",
            f"{rates.images_per_second:,.0f}",
            *(f"{each:,.0f}" for each in (p50, p95)),
            f"{rates.core_share:.0%}",
        )
        figures |= {f"{load:,} images/s sent: {name}": value for name, value in found.items()}
    console.print(table)
    return figures


def _name(jobs: int) -> str:
    return "1 job in partitions without a limit" if jobs == 1 else _jobs(jobs)


def _jobs(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs:,} jobs"


def _figures(name: str, rates: Rates) -> dict[str, float]:
    return {
        f"{name}: images/s": rates.images_per_second,
        f"{name}: share of the core": rates.core_share,
        f"{name}: CPU ms an image": 1e3 * rates.an_image(rates.cpu_seconds),
        f"{name}: calls an image": rates.an_image(rates.calls),
        f"{name}: write units an image": rates.an_image(rates.write_units),
        f"{name}: read units an image": rates.an_image(rates.read_units),
    }


def _rates_table(title: str, rates: Mapping[str, Rates]) -> Table:
    columns = ("images/s", "core", "CPU ms", "calls", "write units", "read units")
    table = Table("answers of", *columns, title=f"{title}; the last four for an image", title_justify="left")
    for name, each in rates.items():
        table.add_row(
            name,
            f"{each.images_per_second:,.0f}",
            f"{each.core_share:.0%}",
            f"{1e3 * each.an_image(each.cpu_seconds):.2f}",
            *(f"{each.an_image(total):.2f}" for total in (each.calls, each.write_units, each.read_units)),
        )
    return table


def _large_table(large: LargeJob) -> Table:
    title = f"a job of {large.images:,} images beside {OTHERS} small ones"
    table = Table("", "", title=title, title_justify="left")
    for name, value in _large_rows(large):
        table.add_row(name, f"{value:,.3g}")
    return table


def _large_rows(large: LargeJob) -> Iterator[tuple[str, float]]:
    yield "first answer recorded after a takeover, s", large.loaded
    for phase, seconds in large.stalls.items():
        yield f"longest delay of other jobs, {phase}, s", seconds
    yield "longest hold of a job's lock, s", large.hold
    yield "recorder's bytes an image", large.memory_bytes
    yield "images removed in a second", large.removed_per_second


def _large_figures(large: LargeJob) -> dict[str, float]:
    return {f"a job of {large.images:,}: {name}": value for name, value in _large_rows(large)}
