"""Estimates that decisions need: arrivals and their age, boot time, and time for an image.

SQS reports how many messages a queue holds, not how old they are nor how fast they arrive. Both follow from the
images that they request: each image that is in the queue, or has left it by an answer, has arrived; the last to
arrive still wait.
"""

import math
import statistics
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from core.fleet.models import FleetCircuit
from services.sqs import QueueCounts
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.circuit_breaker import CircuitBreaker
from web_tier.autoscaler.liveness import InstanceTracker, WorkerStatus
from web_tier.autoscaler.observe import Demand, FleetDescription, FleetMetrics

WINDOWS = (6, 12, 60)
"""Lengths in seconds of the recent windows that are tested for a change of the rate."""

STEADY_SECONDS = 300
"""Longest time that the mean rate is taken over."""

DROPPED_SHARE = 0.05
"""Share of a window's seconds, the highest, that do not count when the highest plausible second is computed."""

MAX_DEVIATIONS = 4.0
"""A second with more arrivals than the mean plus so many standard deviations of a Poisson count is cut to that:
a batch that is uploaded at once is work to do, not a rate."""

CHANGE_DEVIATIONS = 4.5
"""A window's mean that is so many standard deviations from the rate belongs to a new rate. Three windows are tested
each second, so a bound of 3 would report a change every few minutes."""

MAX_BINS = 3_600
"""Seconds that are remembered. Images that wait for longer count as old as the oldest of them."""

SETTLE_SECONDS = 10.0
"""SQS's counts are approximate. Images that they omit for so long have left the queue without an answer."""

MAX_BOOTS = 20
"""Boots of which the median is taken: the latest."""

MIN_IMAGES = 10
"""Answers before there is an estimate of the time for an image."""

HALVING_WORKER_SECONDS = 60.0
"""Each time so many worker-seconds were added, the weight of all earlier ones is halved."""

MAX_STEP_SECONDS = 1.0
"""Longest time between two updates that counts: a loop that stood still shows nothing about the workers."""


RATE_SECONDS = 5.0
"""Time over which the displayed rate of answers is taken."""


@dataclass
class ArrivalRateEstimator:
    """Estimates when the waiting images arrived, and the rate of arrivals."""

    _bins: dict[int, int] = field(default_factory=dict, init=False)
    """Arrivals in each second that had any, oldest first."""
    _latest: deque[int] = field(default_factory=lambda: deque(maxlen=STEADY_SECONDS), init=False)
    """Arrivals in each of the last complete seconds, latest first."""
    _complete: int = field(default=-STEADY_SECONDS, init=False)
    """The second after those of `_latest`."""
    _arrived: int = field(default=0, init=False)
    _fewer_since: float | None = field(default=None, init=False)
    _rate_since: int = field(default=-STEADY_SECONDS, init=False)

    def update(self, requests: QueueCounts, answers: int, now: float) -> Demand:
        """Return the demand `now`, given the queue's counts and the total of `answers` so far."""
        self._count_arrivals(requests.total + answers, now)
        return Demand(self._waiting(requests.waiting, now), self._rate(now))

    def _count_arrivals(self, arrived: int, now: float) -> None:
        """Add what exceeds the highest total so far; accept a lower total if it lasts for `SETTLE_SECONDS`."""
        if arrived >= self._arrived:
            self._fewer_since = None
        elif self._fewer_since is None:
            self._fewer_since = now
        elif now - self._fewer_since > SETTLE_SECONDS:
            self._arrived, self._fewer_since = arrived, None
        if arrived > self._arrived:
            second = math.floor(now)
            self._bins[second] = self._bins.get(second, 0) + arrived - self._arrived
            self._arrived = arrived
            if len(self._bins) > MAX_BINS:
                del self._bins[next(iter(self._bins))]

    def _waiting(self, images: int, now: float) -> tuple[tuple[float, int], ...]:
        """Return age and number of the last `images` that arrived, oldest first."""
        found: list[tuple[float, int]] = []
        for second, arrived in reversed(self._bins.items()):
            if images <= 0:
                break
            found.append((max(0.0, now - second), min(arrived, images)))
            images -= arrived
        if images > 0:
            age, known = found.pop() if found else (0.0, 0)
            found.append((age, known + images))
        return tuple(reversed(found))

    def _rate(self, now: float) -> float:
        """Return the mean rate since it last changed, in images/s."""
        last = math.floor(now)  # this second is not complete
        for second in range(max(self._complete, last - STEADY_SECONDS), last):
            self._latest.appendleft(self._bins.get(second, 0))
        self._complete, counts = last, list(self._latest)
        length = min(STEADY_SECONDS, max(WINDOWS[0], last - self._rate_since))
        mean = _robust_mean(counts[:length])
        for window in WINDOWS:
            deviation = math.sqrt(max(mean, 1 / STEADY_SECONDS) / window)
            if window < length and abs(_robust_mean(counts[:window]) - mean) > CHANGE_DEVIATIONS * deviation:
                # A change is detected before the whole window lies after it.
                self._rate_since, mean = last - window // 3, _robust_mean(counts[:window])
                break
        return mean


def _robust_mean(counts: list[int]) -> float:
    """Return the mean, with each second cut to the highest count that is plausible."""
    ordered = sorted(counts)
    kept = len(ordered) - math.ceil(DROPPED_SHARE * len(ordered))
    low = sum(ordered[:kept]) / kept
    highest = low + MAX_DEVIATIONS * math.sqrt(low)
    plausible = bisect_right(ordered, highest)
    return (sum(ordered[:plausible]) + highest * (len(ordered) - plausible)) / len(ordered)


@dataclass
class BootTimeEstimator:
    """Measures the time from an instance's launch to its worker's first heartbeat.

    Both times are monotonic seconds of this process. Instances that this controller found when it acquired
    the lease do not count.

    Attributes:
        before: the estimate of the previous controller in seconds, or None.
    """

    before: float | None = None
    _launched_at: dict[str, float] = field(default_factory=dict, init=False)
    _known: frozenset[str] | None = field(default=None, init=False)
    _boots: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_BOOTS), init=False)

    @property
    def seconds(self) -> float | None:
        """Median boot time in seconds; None until one was measured."""
        return statistics.median(self._boots) if self._boots else self.before

    def age(self, worker: str, now: float) -> float:
        """Return the seconds since a worker's launch; infinity if another controller launched it."""
        return now - self._launched_at.get(worker, float("-inf"))

    def update(self, capacity_ids: frozenset[str], statuses: Mapping[str, WorkerStatus], now: float) -> None:
        """Apply the ids of all workers that run or start `now`, and the heartbeats so far."""
        if self._known is not None:
            self._launched_at |= dict.fromkeys(capacity_ids - self._known, now)
        self._known = capacity_ids
        for worker, launched_at in list(self._launched_at.items()):
            status = statuses.get(worker)
            first = status.first_heartbeat_at if status is not None else None
            if first is not None and first >= launched_at:
                self._boots.append(first - launched_at)
                del self._launched_at[worker]
            elif worker not in capacity_ids:
                del self._launched_at[worker]


@dataclass
class ThroughputEstimator:
    """Measures the time of one worker for one image, from the answers while workers are busy.

    Attributes:
        before: the estimate of the previous controller in seconds, or None.
    """

    before: float | None = None
    _last: tuple[float, int, int] | None = field(default=None, init=False)
    _worker_seconds: float = field(default=0.0, init=False)
    _images: float = field(default=0.0, init=False)

    @property
    def seconds(self) -> float | None:
        """Seconds of one worker for one image; None until it was measured."""
        return self._worker_seconds / self._images if self._images >= MIN_IMAGES else self.before

    def update(self, answers: int, busy_workers: int, now: float) -> None:
        """Apply the total of `answers` so far and the number of workers that have images `now`."""
        if self._last is not None:
            at, answers_then, busy_then = self._last
            self._worker_seconds += min(now - at, MAX_STEP_SECONDS) * busy_then
            self._images += answers - answers_then
        self._last = (now, answers, busy_workers)
        if self._worker_seconds > HALVING_WORKER_SECONDS:
            self._worker_seconds /= 2
            self._images /= 2


@dataclass
class AnswerRateMeter:
    """Measures the answers of all workers in the last `RATE_SECONDS`, for operators."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque, init=False)

    def update(self, answers: int, now: float) -> float:
        """Return the images/s, given the total of `answers` until `now`."""
        self._samples.append((now, answers))
        while len(self._samples) > 1 and self._samples[1][0] <= now - RATE_SECONDS:
            self._samples.popleft()
        since, before = self._samples[0]
        return (answers - before) / max(MAX_STEP_SECONDS, now - since)


FAILED_MODEL_SECONDS = 120.0
"""How long a worker's report counts that it cannot load a model, also after its end: without other images it ends
soon, and the next one starts within a minute."""


@dataclass
class MetricsCollector:
    """Measures the workers in each round; it starts with the estimates of the previous controller."""

    tracker: InstanceTracker
    meter: BillingMeter
    _boots: BootTimeEstimator = field(init=False)
    _throughput: ThroughputEstimator = field(init=False)
    _rate: AnswerRateMeter = field(init=False)
    _circuit_breaker: CircuitBreaker = field(init=False)

    def __post_init__(self) -> None:
        """Continue the estimates of the previous controller."""
        before, clock = self.meter.before, self.tracker.registry.clock
        self._boots = BootTimeEstimator(before.boot_seconds if before else None)
        self._throughput = ThroughputEstimator(before.image_seconds if before else None)
        self._rate = AnswerRateMeter()
        self._circuit_breaker = CircuitBreaker(before.circuit if before else FleetCircuit(), clock)

    def update(self, fleet: FleetDescription, available: frozenset[str], max_lifetime_seconds: float) -> FleetMetrics:
        """Return the metrics of this round; the tracker must have been updated with `fleet` before.

        `available` has the ids of the workers that take images now or will once they have booted.
        """
        registry = self.tracker.registry
        statuses, now = registry.statuses(), registry.clock.monotonic()
        self._boots.update(fleet.capacity_ids, statuses, now)
        unregistered = self.tracker.unregistered(available)
        registered = available - unregistered
        self._throughput.update(registry.answers, min(len(registered), fleet.packs.in_flight), now)
        known = {worker: statuses[worker] for worker in registered if worker in statuses}
        idle = {worker for worker, each in known.items() if each.state == "ready"}
        lately = (each for each in statuses.values() if now - each.last_heartbeat_at < FAILED_MODEL_SECONDS)
        failed = {each.failed_model for each in lately if each.failed_model}
        return FleetMetrics(
            image_seconds=self._throughput.seconds,
            boot_seconds=self._boots.seconds,
            unregistered={worker: self._boots.age(worker, now) for worker in sorted(unregistered)},
            spare=tuple(worker for worker in self.meter.past_minimum_billing() if worker in idle),
            past_lifetime=self.tracker.past_lifetime(max_lifetime_seconds),
            circuit=self._circuit_breaker.update(
                self.tracker.records.values(),
                self.tracker.ended,
                answers=registry.produced,
                workers=len(available),
                images=fleet.requests.total,
            ),
            images_per_second=self._rate.update(registry.answers, now),
            failed_models=tuple(sorted(failed.difference(*(each.models for each in known.values())))),
        )
