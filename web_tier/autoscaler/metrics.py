"""Metrics for Prometheus: what the controller counts, and the state of the fleet.

`docs/reference/metrics.md` lists them.

The parts of the controller count in one `ControllerMetrics` for the whole process. The state of the fleet is computed
from the last round when a Prometheus server reads it, and only while this controller holds the lease: of two
controllers, one shows the fleet.

**Waiting.** Each second that an image waits is an image-second. It counts as `no_worker` if no worker is available,
else it is divided: the share of the available workers that still boot is `boot`, the rest is `busy`. So
`boot / (boot + busy + no_worker)` is the share of waiting that boots cause.
"""

from collections import Counter as Count
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.config import FleetSettings
from core.cost import Bill
from core.fleet.models import CapPeriod, FleetSpending
from core.messages import ClassificationResult, is_cancelled
from services.clock import CLOCK, Clock
from web_tier.autoscaler.decide import DecisionKind
from web_tier.autoscaler.liveness import WorkerStatus
from web_tier.autoscaler.observe import Observation
from web_tier.http.metrics import IntakeMetrics

OUTCOMES: Final = ("done", "failed", "cancelled")

STAGES: Final = ("queued", "fetched", "decoded", "inferred", "stored")
"""Stages of an image, as in the timings of its response."""

STAGE_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
    *(10.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
"""Upper bounds of the buckets of a stage's duration: an image may wait in the queue for a boot."""

REPAIRS: Final = ("requested_again", "result_found", "object_gone", "dead_letter")

LAUNCH_OUTCOMES: Final = ("complete", "short", "spent", "no_capacity", "not_startable", "rejected", "uncertain")
"""The names of the launcher's `CallState`."""

REFUSALS: Final = ("no_capacity", "not_startable", "rejected")
"""Those of them with which EC2 has refused a call."""

CAUSES: Final = ("boot", "busy", "no_worker")
"""Why images wait."""

WORKER_STATES: Final = ("booting", "ready", "busy", "draining", "unhealthy", "stopped")

MAX_STEP_SECONDS: Final = 10.0
"""Longest time between two rounds that counts as waiting: what happened in a longer one is unknown."""


class ControllerMetrics:
    """What the controller counts, and the state of the fleet.

    Attributes:
        logged: totals in the last metrics line of this process, of whichever tenure, by their names in it.
    """

    def __init__(self, is_leading: Callable[[], bool] = lambda: False, clock: Clock = CLOCK) -> None:
        self.registry = CollectorRegistry()
        self.logged: Mapping[str, float] = {}
        self.intake = IntakeMetrics(self.registry)
        self.results = self._counter(
            "image_results",
            "Results that were recorded. An image that failed counts again when a retry succeeds.",
            "outcome",
            OUTCOMES,
        )
        self.stages = Histogram(
            "fleetsight_image_stage_duration_seconds",
            "Time that a classified image spent in each stage, as its worker measured it.",
            ["stage"],
            buckets=STAGE_SECONDS,
            registry=self.registry,
        )
        # Looked up once: this is the path of every image.
        self._by_outcome = {outcome: self.results.labels(outcome) for outcome in OUTCOMES}
        self._by_stage = {stage: self.stages.labels(stage) for stage in STAGES}
        self.waiting = self._counter(
            "image_waiting_seconds",
            "Seconds that images have waited: boot (the share of the available workers that still boot), busy (the "
            "rest), no_worker (none is available).",
            "cause",
            CAUSES,
        )
        self.repairs = self._counter("image_repairs", "Images that the reconciler has repaired.", "kind", REPAIRS)
        self.decisions = self._counter(
            "decisions", "Rounds of the autoscaler by the kind of their decision.", "kind", get_args(DecisionKind)
        )
        self.launch_calls = self._counter(
            "launch_calls",
            "Calls that launch or start instances; EC2 has rejected those that end with no_capacity, not_startable "
            "or `rejected`.",
            "outcome",
            LAUNCH_OUTCOMES,
        )
        self.launched = Counter(
            "fleetsight_instances_launched", "Instances that were launched or started.", registry=self.registry
        )
        self.terminated = Counter(
            "fleetsight_unhealthy_instances_terminated",
            "Unhealthy instances that were terminated.",
            registry=self.registry,
        )
        self.loop_failures = self._counter(
            "loop_failures", "Rounds of a loop of the controller that have failed; each is tried again.", "loop", ()
        )
        self.fleet = FleetStateCollector(is_leading, clock)
        self.registry.register(self.fleet)

    def _counter(self, name: str, text: str, label: str, known: Iterable[str]) -> Counter:
        """Return a counter with one label, which begins at 0 for each known value."""
        counter = Counter(f"fleetsight_{name}", text, [label], registry=self.registry)
        for value in known:
            counter.labels(value)
        return counter

    def count_results(self, responses: Sequence[ClassificationResult]) -> None:
        """Count results that were recorded just now, and the stages of those that have a label."""
        outcomes = Count("cancelled" if is_cancelled(response) else response.status for response in responses)
        for outcome, images in outcomes.items():
            self._by_outcome[outcome].inc(images)
        for response in responses:
            if response.status == "done":
                for stage, histogram in self._by_stage.items():
                    milliseconds = getattr(response.timings, stage)
                    if milliseconds is not None:
                        histogram.observe(milliseconds / 1000)

    def observe_round(self, observation: Observation, settings: FleetSettings, bill: Bill) -> None:
        """Count the waiting since the last round; keep the round as the state of the fleet."""
        seconds = self.fleet.update(observation, settings, bill) * observation.requests.waiting
        if seconds:
            for cause, share in waiting_shares(observation).items():
                self.waiting.labels(cause).inc(seconds * share)


def waiting_shares(observation: Observation) -> Mapping[str, float]:
    """Return which part of the present waiting has which cause."""
    if not observation.available:
        return {"no_worker": 1.0}
    boot = len(observation.metrics.unregistered) / observation.available
    return {"boot": boot, "busy": 1.0 - boot}


def worker_states(observation: Observation, statuses: Mapping[str, WorkerStatus]) -> "Count[str]":
    """Return the number of workers in each state, by what was observed and by their last heartbeats."""
    states = Count(dict.fromkeys(WORKER_STATES, 0))
    for instance_id in observation.capacity_ids:
        status = statuses.get(instance_id)
        reported = None if status is None else status.state
        if instance_id in observation.unhealthy:
            states["unhealthy"] += 1
        elif instance_id in observation.draining or reported in {"draining", "ended"}:
            states["draining"] += 1
        elif instance_id in observation.metrics.unregistered:
            states["booting"] += 1
        else:
            states["busy" if reported == "busy" else "ready"] += 1
    states["stopped"] = observation.count("stopped")
    return states


def total_of(counter: Counter, values: Collection[str]) -> float:
    """Return the sum of a counter with one label over these values of it."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return sum(sample.value for sample in samples if any(each in values for each in sample.labels.values()))


@dataclass(frozen=True, slots=True)
class FleetRound:
    """A round of the autoscaler: its time in monotonic seconds, and what it has observed."""

    at: float
    observation: Observation
    settings: FleetSettings
    bill: Bill


class FleetStateCollector(Collector):
    """The metrics of the fleet's state, computed from the last round."""

    def __init__(self, is_leading: Callable[[], bool], clock: Clock) -> None:
        self._is_leading, self._clock = is_leading, clock
        self.begin(dict)

    def begin(self, statuses: Callable[[], Mapping[str, WorkerStatus]]) -> None:
        """Begin a tenure, which knows no round yet; `statuses` returns the last heartbeats of the workers."""
        self._last: FleetRound | None = None
        self._statuses = statuses

    def update(self, observation: Observation, settings: FleetSettings, bill: Bill) -> float:
        """Take over a round; return the seconds since the one before, at most `MAX_STEP_SECONDS`, or 0."""
        at, last = self._clock.monotonic(), self._last
        self._last = FleetRound(at, observation, settings, bill)
        return 0.0 if last is None else min(at - last.at, MAX_STEP_SECONDS)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; only whether this controller leads if it does not, or had no round yet."""
        is_leading, last = self._is_leading(), self._last
        yield _gauge("controller_leader", "1 if this controller holds the lease and acts, else 0.", int(is_leading))
        if is_leading and last is not None:
            yield from self._state(last)

    def _state(self, last: FleetRound) -> Iterator[Metric]:
        observation, settings, statuses = last.observation, last.settings, self._statuses()
        requests, metrics, waiting = observation.requests, observation.metrics, observation.demand.waiting
        age = self._clock.monotonic() - last.at
        yield _gauge("controller_round_age_seconds", "Time since the autoscaler's last round.", age)
        yield _gauge(
            "queue_images",
            "Images in the request queue, by the state of their messages.",
            {"visible": requests.visible, "in_flight": requests.in_flight, "delayed": requests.delayed},
            "state",
        )
        yield _gauge(
            "queue_oldest_age_seconds", "Age of the oldest waiting image.", waiting[0][0] if waiting else 0.0
        )
        yield _gauge("dead_letters", "Messages in the dead-letter queue.", observation.dead_letters)
        yield _gauge("workers", "Workers.", worker_states(observation, statuses), "state")
        yield _gauge("workers_min", "Minimum of workers in force.", settings.min_workers)
        yield _gauge("workers_max", "Maximum of workers in force.", settings.max_workers)
        yield _gauge("fleet_paused", "1 while operators have paused the fleet, else 0.", int(bool(observation.pause)))
        if (spending := observation.spending) is not None:
            yield from _caps(spending)
        is_open = not metrics.circuit.is_closed
        yield _gauge("circuit_open", "1 while workers end without an answer and one at a time starts.", int(is_open))
        alive = [statuses[each] for each in observation.capacity_ids if each in statuses]
        yield _gauge(
            "worker_images_in_flight",
            "Images that workers have received and not answered, by their heartbeats.",
            sum(each.in_flight or 0 for each in alive),
        )
        yield _gauge(
            "worker_images_per_second",
            "Images that all workers classify in a second, by their heartbeats.",
            sum(each.images_per_second or 0.0 for each in alive),
        )
        if metrics.boot_seconds is not None:
            yield _gauge(
                "worker_boot_seconds", "Median of the last boots, once one was measured.", metrics.boot_seconds
            )
        if metrics.image_seconds is not None:
            yield _gauge(
                "worker_image_seconds",
                "Time of one worker for one image, once it was measured.",
                metrics.image_seconds,
            )
        yield CounterMetricFamily(
            "fleetsight_cost_dollars", "US dollars of all instances since the first launch.", last.bill.dollars
        )
        yield CounterMetricFamily(
            "fleetsight_billed_seconds", "Billed seconds of all instances since the first launch.", last.bill.seconds
        )


def _caps(spending: FleetSpending) -> Iterator[Metric]:
    caps = {period: cap for period in get_args(CapPeriod) if (cap := spending.cap(period)) is not None}
    used = {period: spending.used(period) for period in caps}
    reached = {period: float(spending.is_reached(period)) for period in caps}
    yield _gauge(
        "spending_cap_dollars",
        "US dollars of the spending caps of the day and of the month, if set, with what operators allow today.",
        caps,
        "period",
    )
    yield _gauge(
        "spending_used_dollars",
        "US dollars that count towards a spending cap: metered cost of instances, and the minimum of starting ones.",
        used,
        "period",
    )
    yield _gauge("spending_cap_reached", "1 while a spending cap stops launches, else 0.", reached, "period")


def _gauge(name: str, text: str, value: "float | Mapping[str, float]", label: str = "") -> GaugeMetricFamily:
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(f"fleetsight_{name}", text, value)
    family = GaugeMetricFamily(f"fleetsight_{name}", text, labels=[label])
    for each, number in value.items():
        family.add_metric([each], number)
    return family
