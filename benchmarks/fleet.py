"""The policies over every trace, in simulated time: ``python -m benchmarks fleet``.

`deadline` is held to what it promises: so many seconds at the 95th percentile, and a cost near that of the cheapest
fleet that knows all arrivals beforehand.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Final

import numpy as np

from benchmarks.report import Bar, Report
from core.config import FleetSettings, load_config
from tests.simulation.fleet.engine import CERTAIN, Conditions, SimulationOutcome, simulate_fleet
from tests.simulation.fleet.traces import batch, named

ROOT: Final = Path(__file__).resolve().parents[1]
CONDITIONS: Final = Conditions()
CAPACITY: Final = CONDITIONS.max_workers / CONDITIONS.image_seconds
"""Images/s of a full fleet."""

SEEDS: Final = 5
"""Simulations of each trace but the days, which are long enough for one."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What `deadline` is held to on a trace.

    Attributes:
        target_seconds: the setting that it is played with.
        p95_seconds: the 95th percentile that it must reach.
        cost: the most that it may cost ÷ N·S.
        late_seconds: at most `MAX_LATE_PERCENT` of the images may take longer.
    """

    target_seconds: float
    p95_seconds: float
    cost: float
    late_seconds: float


PROMISES: Final = {
    "batch-100": Promise(target_seconds=90.0, p95_seconds=90.0, cost=1.833, late_seconds=90.0),
    "batch-1000": Promise(target_seconds=180.0, p95_seconds=180.0, cost=1.323, late_seconds=180.0),
    "batch-10000": Promise(target_seconds=900.0, p95_seconds=900.0, cost=1.134, late_seconds=900.0),
    "flash-crowd": Promise(target_seconds=15.1, p95_seconds=25.0, cost=1.187, late_seconds=60.0),
    "mmpp": Promise(target_seconds=42.2, p95_seconds=46.0, cost=1.265, late_seconds=60.0),
    "nys-day": Promise(target_seconds=2.75, p95_seconds=5.0, cost=1.100, late_seconds=10.0),
    "twitter-day": Promise(target_seconds=3.03, p95_seconds=5.0, cost=1.100, late_seconds=10.0),
}
"""By trace. From nothing, the first images of a burst wait for a boot: a target of less than one is not their p95.

`cost` is that of the cheapest fleet that knows all arrivals and has the same p95, as a linear program found it for
these seeds, times 1.1 (flash-crowd: 1.15, mmpp: 1.25).
"""

MAX_LATE_PERCENT: Final = 5.0


def run(quick: bool) -> Report:
    """Play both policies over every trace; `quick` leaves out the days."""
    names = [name for name in reversed(PROMISES) if not (quick and name.endswith("day"))]
    with ProcessPoolExecutor(2) as processes:
        played = dict(
            zip(names, processes.map(play, names), strict=True)
        )  # the longest, which stand last, begin first
    figures, bars, beyond = dict[str, float](), list[Bar](), 0
    for name in names[::-1]:
        for policy, outcomes in played[name].items():
            measures = measures_of(outcomes, PROMISES[name].late_seconds)
            figures |= {f"{name}, {policy}: {what}": value for what, value in measures.items()}
            beyond += sum(each.beyond_maximum for each in outcomes)
        bars += deadline_bars(name, measures)
    bars.insert(0, Bar("decisions beyond the maximum, both policies, every trace", beyond, at_most=0))
    hundred = simulate_fleet(batch(100), fleet_settings("deadline", target_seconds=90.0), Conditions(CERTAIN))
    bars += [
        Bar("deadline, 100 images of 1.5 s in 90 s: workers", hundred.peak, 5),
        Bar("deadline, 100 images of 1.5 s in 90 s: billed instance-seconds", hundred.billed_seconds, 330),
    ]
    return Report("fleet", figures, tuple(bars))


def fleet_settings(policy: str, **changes: float) -> FleetSettings:
    """Return the fleet section of config.yaml for a fleet of the benchmark's conditions that starts from nothing."""
    own = {
        "policy": policy,
        "min_workers": 0,
        "max_workers": CONDITIONS.max_workers,
        "images_per_worker": 10,  # of 1.5 s: a quarter of a minute's work
        "image_seconds": CONDITIONS.image_seconds,
        "boot_seconds": CONDITIONS.machine.boot_seconds,
    }
    return load_config(ROOT / "config.yaml", {}).fleet.model_copy(update=own | changes)


def play(name: str) -> dict[str, list[SimulationOutcome]]:
    """Return the outcomes of the trace called `name` by policy, one for each seed; `deadline` is the last."""
    trace, seeds = named(CAPACITY)[name], range(1 if name.endswith("day") else SEEDS)
    deadline = fleet_settings("deadline", target_seconds=PROMISES[name].target_seconds)
    return {
        settings.policy: [simulate_fleet(trace(seed), settings, CONDITIONS, seed) for seed in seeds]
        for settings in (fleet_settings("backlog"), deadline)
    }


def measures_of(outcomes: list[SimulationOutcome], late_seconds: float) -> dict[str, float]:
    """Return cost, latencies and workers of several simulations together."""
    latencies = np.concatenate([each.latencies for each in outcomes])
    percentiles = np.percentile(latencies, (50, 95, 99), method="inverted_cdf").tolist()
    return {
        "cost": sum(each.billed_seconds for each in outcomes) / sum(each.work_seconds for each in outcomes),
        **dict(zip(("p50_s", "p95_s", "p99_s"), percentiles, strict=True)),
        "late_percent": 100 * float(np.mean(latencies > late_seconds)),
        "launches": mean(each.launches for each in outcomes),
        "peak": max(each.peak for each in outcomes),
    }


def deadline_bars(name: str, measures: dict[str, float]) -> list[Bar]:
    """Return what is promised of `deadline` on a trace: its p95, the cost of that, and few late images."""
    promise = PROMISES[name]
    return [
        Bar(f"deadline, {name}: p95, s", measures["p95_s"], promise.p95_seconds),
        Bar(f"deadline, {name}: cost ÷ N·S", measures["cost"], promise.cost),
        Bar(f"deadline, {name}: late, %", measures["late_percent"], MAX_LATE_PERCENT),
    ]
