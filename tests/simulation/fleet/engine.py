"""Simulate a fleet over a trace: what it costs, and how long images wait. Deterministic by seed.

`playback` has workers and queue. Added here are the trace, boots that are slow or never end, and what the controller
estimates from the counts that it sees.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import count
from typing import Final

import numpy as np

from core.config import FleetSettings
from core.jobs.models import Counts
from services.sqs import QueueCounts
from tests.simulation.fleet.playback import BEGIN, NEVER, InstanceTimes, Playback
from tests.simulation.fleet.traces import Floats, Trace
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.estimators import MAX_BOOTS, MIN_IMAGES, ArrivalRateEstimator
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.outstanding import requested_images
from web_tier.autoscaler.policies import POLICIES

LINGER_SECONDS: Final = 4 * 3_600.0
"""A fleet that does not shrink to what it keeps is watched for so long after the last image.

A simulation in which images wait for so long, and none is answered, is given up.
"""


class StalledError(Exception):
    """Raised when images wait and none is answered any more: no workers are launched."""


@dataclass(frozen=True, slots=True)
class InstanceProfile(InstanceTimes):
    """A make of instance. Times in seconds.

    Attributes:
        slow_share: of all boots, those that take `slow_boot_seconds` in all.
        never_share: of all boots, those that never report.
    """

    slow_share: float = 0.05
    slow_boot_seconds: float = 80.0
    never_share: float = 0.02

    def boots(self, seed: int) -> Iterator[float]:
        """Yield the seconds that one boot after the other takes, `NEVER` for those that do not report."""
        luck = np.random.default_rng((seed, 1))
        while True:
            for chance in luck.random(256).tolist():
                if chance < self.never_share:
                    yield NEVER
                else:
                    is_slow = chance < self.never_share + self.slow_share
                    yield self.slow_boot_seconds if is_slow else self.boot_seconds


CERTAIN: Final = InstanceProfile(slow_share=0.0, never_share=0.0)
"""An instance of which each boot takes 42 s."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a fleet is simulated under.

    Attributes:
        image_seconds: time of one worker for an image.
        max_workers: the most that may exist at once, draining ones among them; the cloud refuses the surplus.
        interval_seconds: between two decisions.
        idle_seconds: a worker without an image for so long ends itself.
        pack_images: a message requests so many images that follow each other in the trace.
    """

    machine: InstanceProfile = InstanceProfile()
    image_seconds: float = 1.5
    max_workers: int = 19
    interval_seconds: float = 1.0
    idle_seconds: float = 10.0
    pack_images: int = 1


@dataclass(frozen=True)
class SimulationOutcome:
    """What came of one simulation.

    Attributes:
        latencies: seconds from arrival to answer, one for each image, float64 [images].
        billed_seconds: instance-seconds.
        work_seconds: instance-seconds of the work itself, N·S: the cost of a fleet that boots and idles at no cost.
        launches: instances launched.
        peak: most workers at once.
        beyond_maximum: decisions that would have led beyond the maximum.
    """

    latencies: Floats
    billed_seconds: float
    work_seconds: float
    launches: int
    peak: int
    beyond_maximum: int

    @property
    def cost(self) -> float:
        """Billed instance-seconds ÷ N·S."""
        return self.billed_seconds / self.work_seconds

    @property
    def p95(self) -> float:
        """The least latency within which at least 95% of the images were answered, in seconds."""
        return float(np.percentile(self.latencies, 95, method="inverted_cdf"))


def kept_without_work(settings: FleetSettings, at: datetime) -> int:
    """Return how many workers a policy keeps without work at a time."""
    without_work = Observation(QueueCounts(0, 0, 0), 0, (), at=at)
    return POLICIES[settings.policy](without_work, settings).kept_without_work(settings)


def simulate_fleet(trace: Trace, settings: FleetSettings, conditions: Conditions, seed: int = 0) -> SimulationOutcome:
    """Return the outcome of `trace` with the fleet section `settings`; the same arguments give the same outcome.

    Raises:
        StalledError: when images wait for `LINGER_SECONDS` and none is answered in that time.
    """
    kept = kept_without_work(settings, BEGIN)
    return Simulation(trace, conditions, lambda seen: decide(seen, settings), seed, kept).run()


class Simulation:
    """One simulation under way.

    Args:
        trace: when images come.
        decide: returns the plan for each observation.
        kept: the simulation ends once all images are answered and no more workers are left.
    """

    def __init__(
        self,
        trace: Trace,
        conditions: Conditions,
        decide: Callable[[Observation], Plan],
        seed: int = 0,
        kept: int = 0,
    ) -> None:
        self._trace, self._conditions, self._decide, self._kept = trace, conditions, decide, kept
        # By pack: it arrives with its last image, and is answered as a whole.
        begins = np.arange(0, len(trace.arrivals), conditions.pack_images)
        self._ends = np.minimum(begins + conditions.pack_images, len(trace.arrivals))
        self._sizes = self._ends - begins
        self._arrivals: list[float] = trace.arrivals[self._ends - 1].tolist()
        self._playback = Playback(
            self._arrivals,
            (conditions.image_seconds * self._sizes).tolist(),
            conditions.machine,
            conditions.machine.boots(seed),
            conditions.idle_seconds,
        )
        self._now = 0.0
        self._demand = ArrivalRateEstimator()

    def run(self) -> SimulationOutcome:
        """Play the trace until every image is answered and the fleet has shrunk to what it keeps."""
        conditions, playback = self._conditions, self._playback
        beyond = peak = 0
        for tick in count():
            self._now = now = tick * conditions.interval_seconds
            playback.advance(now)
            messages = playback.requests(now)
            answered_packs = len(playback.finished) - messages.in_flight
            if self._is_over(answered_packs):
                break
            packs = answered_packs + messages.total
            images, answered = (int(self._ends[number - 1]) if number else 0 for number in (packs, answered_packs))
            counts = Counts(done=answered, images=images, packs=packs, answered_packs=answered_packs)
            requests = requested_images(messages, [counts])
            if requests.visible:
                self._check_progress(requests.visible)
            seen = playback.observe(now, requests, self._demand_for(requests, answered), self._measured(answered))
            plan = self._decide(replace(seen, messages=messages))
            room = conditions.max_workers - len(playback.workers)
            if plan.starts > room:
                beyond += 1
                plan = replace(plan, launch=room, start=())
            playback.carry_out(plan, now)
            peak = max(peak, len(playback.workers))
        return SimulationOutcome(
            latencies=np.repeat(np.frombuffer(playback.finished), self._sizes) - self._trace.arrivals,
            billed_seconds=float(self._billed_seconds()),
            work_seconds=len(self._trace.arrivals) * conditions.image_seconds,
            launches=playback.launched,
            peak=peak,
            beyond_maximum=beyond,
        )

    def _demand_for(self, requests: QueueCounts, answered: int) -> Demand:
        """Return the demand as the controller sees it, which knows what may be finished later."""
        finish = self._trace.finish_seconds
        if finish is None:
            return self._demand.update(requests, answered, self._now)
        return Demand(later=((finish - self._now, requests.waiting),))

    def _measured(self, answered: int) -> FleetMetrics:
        """Return what the controller has measured so far; like it, nothing before the first answers and boots."""
        booted = self._playback.booted
        return FleetMetrics(
            image_seconds=self._conditions.image_seconds if answered >= MIN_IMAGES else None,
            boot_seconds=statistics.median(booted[-MAX_BOOTS:]) if booted else None,
        )

    def _billed_seconds(self) -> int:
        workers = (*self._playback.ended, *self._playback.workers.values())
        return sum(
            self._conditions.machine.billed(each.launched_at, self._now if each.ended_at is None else each.ended_at)
            for each in workers
        )

    @property
    def _last_answer_at(self) -> float:
        finished = self._playback.finished
        return finished[-1] if finished else 0.0

    def _is_over(self, answered_packs: int) -> bool:
        if answered_packs < len(self._arrivals) or self._now < self._trace.seconds:
            return False
        since = max(self._trace.seconds, self._last_answer_at)
        return len(self._playback.workers) <= self._kept or self._now >= since + LINGER_SECONDS

    def _check_progress(self, visible: int) -> None:
        oldest = self._arrivals[len(self._playback.finished)]
        if self._now - max(oldest, self._last_answer_at) > LINGER_SECONDS:
            raise StalledError(
                f"{visible} images of {self._trace.name} have waited for {LINGER_SECONDS:.0f} s and none was "
                f"answered, with {len(self._playback.workers)} workers there: allow the policy to start some"
            )
