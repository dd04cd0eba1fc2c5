"""Simulate a fleet over a trace: what it costs, and how long images wait. Deterministic by seed.

Workers and queue are the controller's own model, `web_tier.autoscaler.playback`; so are the decisions. Added here are
the trace, boots that are slow or never end, and what the controller estimates from the counts that it sees.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Final

import numpy as np

from core.config import FleetSettings, PriceSettings
from services.clock import Clock
from services.errors import FleetsightError
from services.sqs import QueueCounts
from simulator.traces import Floats, Trace
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.estimators import MAX_BOOTS, MIN_IMAGES, ArrivalRateEstimator
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.playback import NEVER, InstanceTimes, Lots, Playback
from web_tier.autoscaler.policies import POLICIES

BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)
"""When each trace begins by the wall clock, which schedules and spending caps use."""

LINGER_SECONDS: Final = 4 * 3_600.0
"""A fleet that does not shrink to what it keeps is watched for so long after the last image.

A simulation in which images wait for so long, and none is answered, is given up.
"""


class StalledError(FleetsightError):
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

    @classmethod
    def booting_in(cls, seconds: float) -> "InstanceProfile":
        """Return an instance that usually boots in `seconds`, its parts and its tail in proportion to the default."""
        usual = cls()
        scale = seconds / usual.boot_seconds
        return cls(
            pending_seconds=usual.pending_seconds * scale,
            init_seconds=usual.init_seconds * scale,
            slow_boot_seconds=usual.slow_boot_seconds * scale,
            boot_allowance_seconds=max(usual.boot_allowance_seconds, 2.5 * seconds),
        )

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
    """

    machine: InstanceProfile = InstanceProfile()
    image_seconds: float = 1.5
    max_workers: int = 19
    interval_seconds: float = 1.0
    idle_seconds: float = 10.0


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


def pooled(outcomes: Sequence[SimulationOutcome]) -> SimulationOutcome:
    """Return several simulations as one: latencies and costs of all of them, launches rounded to their mean."""
    return SimulationOutcome(
        latencies=np.concatenate([each.latencies for each in outcomes]),
        billed_seconds=sum(each.billed_seconds for each in outcomes),
        work_seconds=sum(each.work_seconds for each in outcomes),
        launches=round(statistics.mean(each.launches for each in outcomes)),
        peak=max(each.peak for each in outcomes),
        beyond_maximum=sum(each.beyond_maximum for each in outcomes),
    )


def kept_without_work(settings: FleetSettings, at: datetime) -> int:
    """Return how many workers a policy keeps without work at a time."""
    without_work = Observation(QueueCounts(0, 0, 0), 0, (), at=at)
    return POLICIES[settings.policy](without_work, settings).kept_without_work(settings)


class SimulatedClock(Clock):
    """The clock of a trace, which begins at `BEGIN`."""

    at = BEGIN

    def monotonic(self) -> float:
        """Return the seconds since the beginning."""
        return (self.at - BEGIN).total_seconds()

    def utc_now(self) -> datetime:
        """Return the time of day."""
        return self.at


class ConfiguredDecision:
    """The controller's decision by one fleet section of config.yaml; with `prices`, its spending caps hold."""

    def __init__(self, settings: FleetSettings, prices: PriceSettings | None = None) -> None:
        self._settings = settings
        self._clock = SimulatedClock()
        self._meter: BillingMeter | None = None
        if prices is not None and settings.has_spending_cap:
            self._meter = BillingMeter(prices, clock=self._clock)

    @property
    def kept(self) -> int:
        """The workers that are kept without work when the trace begins."""
        return kept_without_work(self._settings, BEGIN)

    def __call__(self, observation: Observation) -> Plan:
        """Return the plan."""
        self._clock.at = observation.at
        if self._meter is not None:
            self._meter.update(observation)
            observation = replace(observation, spending=self._meter.spending(observation, self._settings))
        return decide(observation, self._settings)


def simulate_fleet(
    trace: Trace, settings: FleetSettings, conditions: Conditions, seed: int = 0, prices: PriceSettings | None = None
) -> SimulationOutcome:
    """Return the outcome of `trace` with the fleet section `settings`; the same arguments give the same outcome.

    Raises:
        StalledError: when images wait for `LINGER_SECONDS` and none is answered in that time.
    """
    decision = ConfiguredDecision(settings, prices)
    kind, is_spot = settings.instance_types[0], settings.market == "spot"
    return Simulation(trace, conditions, decision, seed, decision.kept, instance_type=kind, spot=is_spot).run()


class Simulation:
    """One simulation under way.

    Args:
        trace: when images come.
        decide: returns the plan for each observation.
        kept: the simulation ends once all images are answered and no more workers are left.
        instance_type, spot: of all workers.
    """

    def __init__(
        self,
        trace: Trace,
        conditions: Conditions,
        decide: Callable[[Observation], Plan],
        seed: int = 0,
        kept: int = 0,
        *,
        instance_type: str = "c7a.large",
        spot: bool = False,
    ) -> None:
        self._trace, self._conditions, self._decide, self._kept = trace, conditions, decide, kept
        self._arrivals: list[float] = trace.arrivals.tolist()
        images = len(self._arrivals)
        self._playback = Playback(
            Lots(self._arrivals, [1] * images, [conditions.image_seconds] * images),
            conditions.machine,
            conditions.machine.boots(seed),
            conditions.idle_seconds,
            instance_type=instance_type,
            spot=spot,
            begin=BEGIN,
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
            requests = playback.requests(now)
            answered = playback.handed_out - requests.in_flight
            if self._is_over(answered):
                break
            if requests.visible:
                self._check_progress(requests.visible)
            plan = self._decide(
                playback.observe(now, requests, self._demand_for(requests, answered), self._measured(answered))
            )
            room = conditions.max_workers - len(playback.workers)
            if plan.starts > room:
                beyond += 1
                plan = replace(plan, launch=room, start=())
            playback.carry_out(plan, now)
            peak = max(peak, len(playback.workers))
        return SimulationOutcome(
            latencies=np.frombuffer(playback.finished) - self._trace.arrivals,
            billed_seconds=float(self._billed_seconds()),
            work_seconds=len(self._arrivals) * conditions.image_seconds,
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

    def _is_over(self, answered: int) -> bool:
        if answered < len(self._arrivals) or self._now < self._trace.seconds:
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
