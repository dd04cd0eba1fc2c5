"""What a look of the autoscaler costs with ten workers and with a thousand: CPU, and calls of EC2's API.

The autoscaler is the product's own, over a simulated EC2 (`simulator.faults`): what is measured is a whole
round, from the description to the journal, but for the wire and for what pages are told.
"""

import logging
import statistics
import time
from collections import Counter
from typing import Final

from benchmarks.report import Bar, Report
from simulator.faults.world import World, settings_of

SIZES: Final = (10, 1_000)
ROUNDS: Final = 30
BOOTED_SECONDS: Final = 90.0
"""By then every worker that was launched at once has been heard of."""


def run(quick: bool) -> Report:
    """Measure fleets of both sizes."""
    logging.disable(logging.CRITICAL)
    figures: dict[str, float] = {}
    for size in SIZES:
        figures |= measured(size, ROUNDS // 3 if quick else ROUNDS)
    small, large = SIZES
    return Report(
        "fleet_size",
        figures,
        (
            Bar(f"{large:,} instances: CPU ms of a round", figures[f"{large}_round_cpu_ms"], at_most=50),
            Bar(
                f"{large:,} instances: CPU ms of a round that launches", figures[f"{large}_launch_cpu_ms"], at_most=50
            ),
            *(
                Bar(f"API calls of {name}: {large:,} instances ÷ {small}", ratio, at_most=1, at_least=1)
                for name in ("a round", "a launch")
                if (ratio := _ratio(figures, name.split()[-1]))
            ),
        ),
    )


def measured(size: int, rounds: int) -> dict[str, float]:
    """Return the figures of a fleet of `size` that is busy, and of the look at which it was launched."""
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


def _ratio(figures: dict[str, float], name: str) -> float:
    small, large = (figures[f"{size}_{name}_calls"] for size in SIZES)
    return large / small
