"""The simulated fleet: one shared queue, workers that boot, classify, idle and end; deterministic by seed.

Between two decisions images are handed to workers in the order in which they came, each to the worker that has waited
longest, at the very moment when both are there; so events are exact, and only the policy is bound to its interval.
"""

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np

from services.errors import FleetsightError
from simulator.policy import FleetView, NamedPolicy
from simulator.traces import Floats, Trace
from simulator.workers import USUAL, Crew, InstanceProfile

COLUMNS: Final = ("now", "visible", "in_flight", "workers", "ready")
"""Of a history: seconds since the begin, images that wait, images in flight, all workers, those that receive."""


@dataclass(frozen=True)
class SimulationOutcome:
    """One simulation, or several of the same trace and policy with other seeds taken together.

    Attributes:
        latencies: seconds from arrival to answer, one for each image, float64 [images].
        billed_seconds: instance-seconds.
        work_seconds: instance-seconds of the work itself, N·S: the cost of a fleet that boots and idles at no cost.
        launches: instances launched, those that were prepared not among them.
        peak: most workers at once.
        beyond_maximum: decisions that would have led beyond the maximum; the cloud refuses the surplus.
        simulations: how many are taken together.
        history: a row a decision and one for the end, float64 [decisions + 1, len(COLUMNS)]; of the first simulation.
    """

    latencies: Floats
    billed_seconds: float
    work_seconds: float
    launches: float
    peak: int
    beyond_maximum: int
    simulations: int
    history: Floats

    @property
    def cost(self) -> float:
        """Billed instance-seconds ÷ N·S."""
        return self.billed_seconds / self.work_seconds

    def percentile(self, percent: float) -> float:
        """Return the least latency within which at least `percent` of the images were answered, in seconds."""
        return float(np.percentile(self.latencies, percent, method="inverted_cdf"))

    @property
    def p95(self) -> float:
        """The 95th percentile of latency, in seconds."""
        return self.percentile(95)

    def missed(self, deadline_seconds: float) -> float:
        """Return the share of images that were answered later than `deadline_seconds` after they came."""
        return float(np.mean(self.latencies > deadline_seconds))


def together(outcomes: Sequence[SimulationOutcome]) -> SimulationOutcome:
    """Return several simulations as one: latencies pooled, launches and instance-seconds a simulation on average."""
    count = len(outcomes)
    return SimulationOutcome(
        latencies=np.concatenate([each.latencies for each in outcomes]),
        billed_seconds=sum(each.billed_seconds for each in outcomes) / count,
        work_seconds=sum(each.work_seconds for each in outcomes) / count,
        launches=sum(each.launches for each in outcomes) / count,
        peak=max(each.peak for each in outcomes),
        beyond_maximum=sum(each.beyond_maximum for each in outcomes),
        simulations=count,
        history=outcomes[0].history,
    )


LINGER_SECONDS: Final = 4 * 3_600.0
"""A fleet that does not shrink to its floor is watched for so long after the last image, and ended then.

A simulation in which images wait for so long, and none is answered, is given up.
"""
MIN_ANSWERS: Final = 10
"""Answers before the time of an image counts as measured, as in the product's own `ThroughputEstimator`."""


class StalledError(FleetsightError):
    """Raised when images wait and none is answered any more: the policy launches no workers."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every policy.

    Attributes:
        image_seconds: that a worker takes for an image.
        exponential: whether that is the mean of an exponential distribution instead of always the same.
        max_workers: the most that may exist at once, draining ones among them.
    """

    machine: InstanceProfile = USUAL
    image_seconds: float = 1.5
    exponential: bool = False
    max_workers: int = 19

    def service_seconds(self, images: int, seed: int) -> list[float]:
        """Return what each image takes."""
        if not self.exponential:
            return [self.image_seconds] * images
        seconds: list[float] = np.random.default_rng((seed, 2)).exponential(self.image_seconds, images).tolist()
        return seconds


def simulate(trace: Trace, rule: NamedPolicy, conditions: Conditions, seed: int = 0) -> SimulationOutcome:
    """Return the outcome of `trace` when `rule` decides; the same arguments give the same outcome.

    Raises:
        StalledError: when images wait for `LINGER_SECONDS` and none is answered in that time.
    """
    return _Simulation(trace, rule, conditions, seed).run()


class _Simulation:
    """One simulation under way."""

    def __init__(self, trace: Trace, rule: NamedPolicy, conditions: Conditions, seed: int) -> None:
        self._trace, self._conditions = trace, conditions
        self._policy = rule.new()
        self._terms = self._policy.terms
        self._crew = Crew(conditions.machine, self._terms.idle_seconds, seed)
        self._arrivals: list[float] = trace.arrivals.tolist()
        self._services = conditions.service_seconds(len(self._arrivals), seed)
        self._finished = array("d")
        self._arrived = 0
        self._history = array("d")

    def run(self) -> SimulationOutcome:
        """Play the trace until every image is answered and the fleet has shrunk to its floor."""
        self._crew.prepare(self._terms.prepared)
        beyond = 0
        for tick in count():
            now = tick * self._terms.interval_seconds
            self._serve(now)
            self._crew.settle(now)
            view = self._view(now)
            if self._is_over(view):
                break
            if view.visible:
                self._check_progress(view)
            order = self._policy.decide(view)
            if order.drain:
                self._crew.drain(frozenset(order.drain), now)
            if order.protect or order.unprotect:
                self._crew.set_protection(frozenset(order.protect), frozenset(order.unprotect))
            room = self._conditions.max_workers - len(self._crew)
            if order.launch > room:
                beyond += 1
            self._crew.launch(min(order.launch, room), now)
            self._note(view)
        self._crew.end_all(view.now)
        self._note(view)
        return SimulationOutcome(
            latencies=np.frombuffer(self._finished) - self._trace.arrivals,
            billed_seconds=float(self._crew.billed_seconds),
            work_seconds=sum(self._services),
            launches=float(self._crew.launched - self._terms.prepared),
            peak=self._crew.peak,
            beyond_maximum=beyond,
            simulations=1,
            history=np.frombuffer(self._history).reshape(-1, len(COLUMNS)),
        )

    def _serve(self, until: float) -> None:
        """Hand every image that starts before `until` to a worker."""
        arrivals, services, finished, free = self._arrivals, self._services, self._finished, self._crew.free
        idle_seconds, head, images = self._terms.idle_seconds, len(finished), len(arrivals)
        while head < images and free:
            start, number = free[0]
            arrival = arrivals[head]
            if start < arrival:
                if start + idle_seconds <= min(arrival, until):
                    self._crew.end_idle()
                    continue
                start = arrival
            if start >= until:
                break
            start += services[head]
            finished.append(start)
            heapq.heapreplace(free, (start, number))
            head += 1

    def _view(self, now: float) -> FleetView:
        self._arrived = bisect_right(self._arrivals, now, lo=self._arrived)
        busy = self._crew.busy(now)
        answered = len(self._finished) - busy
        return FleetView(
            now=now,
            visible=self._arrived - len(self._finished),
            in_flight=busy,
            answered=answered,
            workers=self._crew.workers,
            idle=self._crew.idle(now),
            changes=self._crew.changes,
            image_seconds=self._conditions.image_seconds if answered >= MIN_ANSWERS else None,
            boot_seconds=self._crew.boot_seconds,
        )

    def _note(self, view: FleetView) -> None:
        self._history.extend((view.now, view.visible, view.in_flight, len(self._crew), self._crew.receiving))

    def _is_over(self, view: FleetView) -> bool:
        if view.answered < len(self._arrivals) or view.now < self._trace.seconds:
            return False
        since = max(self._trace.seconds, self._finished[-1] if self._finished else 0.0)
        return len(self._crew) <= self._terms.floor or view.now >= since + LINGER_SECONDS

    def _check_progress(self, view: FleetView) -> None:
        oldest, last = self._arrivals[len(self._finished)], self._finished[-1] if self._finished else 0.0
        if view.now - max(oldest, last) > LINGER_SECONDS:
            raise StalledError(
                f"{view.visible} images of {self._trace.name} have waited for {LINGER_SECONDS:.0f} s and none was "
                f"answered, with {len(view.workers)} workers there: allow the policy to start some"
            )
