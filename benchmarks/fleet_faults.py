"""The product's own autoscaler over a simulated EC2 (`simulator.faults`), under faults and with many workers.

`fleet_faults` plays random schedules of faults: what must never happen, and does not. `fleet_size` measures the CPU
time and the calls of EC2's API of a round with ten workers and with a thousand: a whole round, from the description
to the journal, but for the wire and for what pages show.
"""

import logging
import os
import statistics
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from benchmarks.report import Bar, Report
from simulator.bound import need
from simulator.faults.world import KINDS, World, settings_of

FULL: Final = 10_000
QUICK: Final = 200
PROCESSES: Final = 2


def run(quick: bool) -> Report:
    """Play so many schedules, half of them in each of two processes."""
    need("hypothesis", "test")
    began, share = time.perf_counter(), (QUICK if quick else FULL) // PROCESSES
    with ProcessPoolExecutor(PROCESSES) as processes:
        tally = sum(processes.map(_play, [share] * PROCESSES), Counter[str]())
    bars = tuple(Bar(f"{tally['schedules']:,} schedules: workers {kind}", tally[kind], at_most=0) for kind in KINDS)
    figures = {name: float(count) for name, count in sorted(tally.items()) if name not in KINDS}
    return Report("fleet_faults", {**figures, "this run, s": time.perf_counter() - began}, bars)


def _play(schedules: int) -> Counter[str]:
    """Play so many schedules in this process; print the first that breaks a promise, and go no further."""
    from simulator.faults import schedules as machine

    os.nice(5)
    logging.disable(logging.CRITICAL)
    try:
        return machine.play(schedules)
    except (machine.BrokenError, ExceptionGroup) as error:
        traceback.print_exception(error, file=sys.stderr)
        return machine.Schedule.tally


SIZES: Final = (10, 1_000)
ROUNDS: Final = 30
BOOTED_SECONDS: Final = 90.0
"""By then every worker that was launched at once has sent a heartbeat."""


def run_size(quick: bool) -> Report:
    """Measure fleets of both sizes."""
    logging.disable(logging.CRITICAL)
    figures: dict[str, float] = {}
    for size in SIZES:
        figures |= measured(size, ROUNDS // 3 if quick else ROUNDS)
    small, large = SIZES
    ratios = {
        what: figures[f"{large}_{name}_calls"] / figures[f"{small}_{name}_calls"]
        for what, name in (("a round", "round"), ("a launch", "launch"))
    }
    return Report(
        "fleet_size",
        figures,
        (
            Bar(f"{large:,} instances: CPU ms of a round", figures[f"{large}_round_cpu_ms"], at_most=50),
            Bar(
                f"{large:,} instances: CPU ms of a round that launches", figures[f"{large}_launch_cpu_ms"], at_most=50
            ),
            *(
                Bar(f"API calls of {what}: {large:,} instances ÷ {small}", ratio, at_most=1, at_least=1)
                for what, ratio in ratios.items()
            ),
        ),
    )


def measured(size: int, rounds: int) -> dict[str, float]:
    """Return the figures of a busy fleet of `size`, and of the round that launched it."""
    world = World(settings_of(max_workers=size, images_per_worker=1, launches_per_minute=10 * size))
    calls: Counter[str] = Counter()
    world.cloud.before_call = lambda operation: calls.update([operation])
    world.run(5)
    world.queues.send(1_000 * size)
    world.pass_second()
    began, before = time.process_time(), calls.total()
    world.run_round()
    launch, launch_calls = time.process_time() - began, calls.total() - before
    world.run(BOOTED_SECONDS)
    if len(world.cloud.alive()) != size:
        raise RuntimeError(f"{len(world.cloud.alive())} workers run, not {size}")
    took, before = [], calls.total()
    for _ in range(rounds):
        world.pass_second()
        began = time.process_time()
        world.run_round()
        took.append(time.process_time() - began)
    return {
        f"{size}_round_cpu_ms": 1e3 * statistics.median(took),
        f"{size}_round_calls": (calls.total() - before) / rounds,
        f"{size}_launch_cpu_ms": 1e3 * launch,
        f"{size}_launch_calls": float(launch_calls),
    }
