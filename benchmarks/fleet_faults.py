"""The fleet under random schedules of faults, simulated: what must never happen, and does not.

`simulator.faults` has the simulation, with the product's own autoscaler in it, and the schedules.
"""

import logging
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from benchmarks.report import Bar, Report
from simulator.bound import need
from simulator.faults.world import KINDS

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
