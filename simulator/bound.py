"""What the cheapest fleet that knew everything would cost: a lower bound for every policy with the same p95.

It knows each arrival beforehand, each of its boots takes the usual time, and it can decide at any time. It starts
from nothing, unless the policy that it is compared with has prepared workers, which it is given too.
"""

import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Final

import numpy as np

from services.errors import FleetsightError
from simulator.engine import Conditions, SimulationOutcome
from simulator.traces import Floats, Trace

LATE_SHARE: Final = 0.05
"""Of the images, those that may be later than the 95th percentile."""

BINS: Final = 1_500
"""Of time, in the linear program of a trace; fewer make it quicker and the bound lower, so that it stays one."""

MIN_BIN_SECONDS: Final = 2.0


def lower_bound(
    trace: Trace, p95_seconds: float, conditions: Conditions, prepared: int = 0, bins: int = BINS
) -> float:
    """Return the least cost ÷ N·S of a fleet that answers 95% of the images within `p95_seconds`.

    `prepared` workers are ready, and have been billed their boot, when the trace begins. Infinite when no fleet
    within the maximum can do it.
    """
    if trace.seconds == 0:
        return batch_bound(len(trace.arrivals), p95_seconds, conditions, prepared)
    return fluid_bound(trace, p95_seconds, conditions, prepared, bins)


def mean_bound(
    traces: Sequence[Trace],
    outcomes: Sequence[SimulationOutcome],
    conditions: Conditions,
    prepared: int,
    bins: int = BINS,
) -> float:
    """Return the bound over several simulations, each held to its own 95th percentile."""
    pairs = zip(traces, outcomes, strict=True)
    costs = [
        lower_bound(trace, outcome.p95, conditions, prepared, bins) * outcome.work_seconds for trace, outcome in pairs
    ]
    return sum(costs) / sum(outcome.work_seconds for outcome in outcomes)


def batch_bound(images: int, p95_seconds: float, conditions: Conditions, prepared: int = 0) -> float:
    """Return the bound for images that all come at once: the fewest workers that do 95% in time.

    n workers cost at least ``max(60 n, 25 n + N S)``: each its billed minimum, all together their boots and the work.
    That grows with n, and launching any of them later answers no image sooner.
    """
    service, machine = conditions.image_seconds, conditions.machine
    due = math.ceil((1 - LATE_SHARE) * images - 1e-9)
    each = math.floor((p95_seconds - machine.boot_seconds) / service + 1e-9)
    lacking = max(0, due - prepared * math.floor(p95_seconds / service + 1e-9))
    if lacking and each < 1:
        return math.inf
    workers = prepared + (math.ceil(lacking / each) if lacking else 0)
    if workers > conditions.max_workers:
        return math.inf
    work = images * service
    return max(machine.minimum_seconds * workers, machine.init_seconds * workers + work) / work


def fluid_bound(
    trace: Trace, p95_seconds: float, conditions: Conditions, prepared: int = 0, bins: int = BINS
) -> float:
    """Return the bound for any trace: a linear program over bins of time, solved by HiGHS.

    Variables for each bin, all continuous: workers launched by its end, X (prepared ones aside); workers that
    receive in it on average, n; images done by its end, C; images that are let be late by its end, D.

    - n grows only by launches, is at most the maximum, and none is there before the first boot has ended;
    - each launched worker stays for its billed minimum: going sooner costs the same and does less;
    - C grows by at most what n workers do, and never exceeds what has come;
    - all that came 95th percentile before a bin's end and is not let be late is done by then; D is at most 5%;
    - the cost: 25 s for each launch, each worker's time, and S for each image that is left at the end.

    Any real fleet satisfies all of these, and each rounding to bins is in the bound's favour: a due image counts from
    the end of its bin, and what is left at the end is done without a worker. So no fleet can cost less.

    Raises:
        MissingError: when scipy is not installed.
    """
    program = _LinearProgram(trace, p95_seconds, conditions, prepared, trace.seconds / bins)
    solved = need("scipy.optimize").linprog(
        program.costs(), A_ub=program.matrix(), b_ub=program.limits(), bounds=program.ranges(), method="highs"
    )
    if solved.status == 2:  # infeasible
        return math.inf
    if solved.status != 0:
        raise RuntimeError(f"the linear program of {trace.name} at {p95_seconds} s was not solved: {solved.message}")
    return (float(solved.fun) + program.paid) / program.work


class _LinearProgram:
    """The linear program: four variables for each bin, in the order X, n, C, D."""

    def __init__(
        self, trace: Trace, p95_seconds: float, conditions: Conditions, prepared: int, bin_seconds: float
    ) -> None:
        self.bin = max(MIN_BIN_SECONDS, bin_seconds)
        self._bins = math.ceil((trace.seconds + p95_seconds) / self.bin)
        self._conditions, self._prepared = conditions, prepared
        ends = np.arange(1, self._bins + 1) * self.bin
        self._come = np.searchsorted(trace.arrivals, ends, side="right").astype(float)
        # How many whole bins lie before the moment that is one 95th percentile before each bin's end.
        self._due = np.floor((ends - p95_seconds) / self.bin + 1e-9).astype(int)
        self._receiving = np.clip((ends - conditions.machine.boot_seconds) / self.bin, 0.0, 1.0)
        self._rows: list[tuple[Sequence[tuple[int, float]], float]] = []
        self.work = len(trace.arrivals) * conditions.image_seconds
        # Boots of the prepared, and of every image the time that C will save when it is done by a worker.
        self.paid = prepared * conditions.machine.init_seconds + self.work
        self._fill()

    def costs(self) -> Floats:
        """Return what a unit of each variable costs, in seconds."""
        costs = np.zeros(4 * self._bins)
        costs[self._launched(self._bins - 1)] = self._conditions.machine.init_seconds
        costs[self._bins : 2 * self._bins] = self.bin
        costs[self._done(self._bins - 1)] = -self._conditions.image_seconds
        return costs

    def ranges(self) -> Floats:
        """Return the least and the most of each variable."""
        most = float(self._conditions.max_workers)
        workers = self._prepared + (most - self._prepared) * self._receiving
        late = np.full(self._bins, LATE_SHARE * self._come[-1])
        launched = np.full(self._bins, np.inf)
        highest = np.concatenate([launched, workers, self._come, late])
        return np.column_stack([np.zeros(4 * self._bins), highest])

    def matrix(self) -> Any:
        """Return the coefficients, a row for each constraint, as scipy's sparse array."""
        terms = [(row, column, value) for row, (each, _) in enumerate(self._rows) for column, value in each]
        rows, columns, values = zip(*terms, strict=True)
        return need("scipy.sparse").csr_array((values, (rows, columns)), shape=(len(self._rows), 4 * self._bins))

    def limits(self) -> Floats:
        """Return what each constraint's sum is at most."""
        return np.array([limit for _, limit in self._rows])

    def _fill(self) -> None:
        machine = self._conditions.machine
        rate = self.bin / self._conditions.image_seconds
        # One bin less: a worker that becomes ready within a bin counts in part there and in part in the next.
        stay = math.floor((machine.minimum_seconds - machine.init_seconds) / self.bin) - 1
        for k in range(self._bins):
            workers_before = [(self._workers(k - 1), -1.0), (self._launched(k - 1), 1.0)] if k else []
            grown = [(self._workers(k), 1.0), (self._launched(k), -1.0), *workers_before]
            self._at_most(grown, 0.0 if k else float(self._prepared))
            if stay > 0:
                before = [(self._launched(k - stay), -1.0)] if k >= stay else []
                self._at_most([(self._launched(k), 1.0), *before, (self._workers(k), -1.0)], 0.0)
            done_before = [(self._done(k - 1), -1.0)] if k else []
            self._at_most([(self._done(k), 1.0), *done_before, (self._workers(k), -rate)], 0.0)
            if k:
                self._never_shrinks(self._launched(k))
                self._never_shrinks(self._done(k))
                come = self._come[k] - self._come[k - 1]
                self._at_most([(self._late(k), 1.0), (self._late(k - 1), -1.0)], come)
                self._never_shrinks(self._late(k))
            if self._due[k] > 0:
                last = self._due[k] - 1
                self._at_most([(self._done(k), -1.0), (self._late(last), -1.0)], -self._come[last])

    def _never_shrinks(self, column: int) -> None:
        self._at_most([(column - 1, 1.0), (column, -1.0)], 0.0)

    def _at_most(self, terms: Sequence[tuple[int, float]], limit: float) -> None:
        self._rows.append((terms, limit))

    def _launched(self, k: int) -> int:
        return k

    def _workers(self, k: int) -> int:
        return self._bins + k

    def _done(self, k: int) -> int:
        return 2 * self._bins + k

    def _late(self, k: int) -> int:
        return 3 * self._bins + k


class MissingError(FleetsightError):
    """Raised when a package that only simulations need is not installed; the message says how to install it."""


def need(module: str, section: str = "simulate") -> ModuleType:
    """Return a module such as ``scipy.optimize``, of that section of requirements/.

    Raises:
        MissingError: when its package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingError(f"the fleet simulator needs {error.name}: ./scripts/setup.sh {section}") from error
