"""The circuit breaker: a fleet whose workers end without an answer comes to rest, and grows at the first answer."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import MAX_FAILED_RUNS, CircuitState, FleetCircuit, FleetInstance
from core.ids import new_id
from core.messages import ClassificationResult, Heartbeat, WorkerEnd
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, fleet_settings, heartbeat, instance
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.circuit_breaker import CircuitBreaker
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.liveness import LAST_HEARTBEAT_SECONDS, InstanceTracker, WorkerRegistry
from web_tier.autoscaler.observe import (
    LAUNCH_VISIBLE_SECONDS,
    RECENT_SECONDS,
    FleetMetrics,
    Observation,
    RecentLaunches,
)

DENIED = "access denied for PutObject"
WORKERS = 4
Event = Literal["failed", "silent", "idle", "stopped", "answer", "beat", "controller", "wait"]
ENDS: dict[str, WorkerEnd | None] = {"failed": "failed", "silent": None, "idle": "idle", "stopped": "stopped"}


@dataclass
class Site:
    """A fleet of real decisions, real records and a real breaker; each round takes a second.

    Attributes:
        images: messages of the request queue.
        workers: limit of the fleet.
        is_read: whether the collector reads heartbeats.
        running, gone: names of the instances that run, and of those that have ended.
        launches: time of each launch.
    """

    images: int = 1_000
    workers: int = WORKERS
    is_read: bool = True
    clock: Clock = field(default_factory=Clock)
    running: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    launches: list[float] = field(default_factory=list)
    plan: Plan = field(init=False)
    circuit: FleetCircuit = field(default_factory=FleetCircuit)

    def __post_init__(self) -> None:
        self.settings = fleet_settings(max_workers=self.workers)
        self.registry = WorkerRegistry(PlayedClock(self.clock, self.now))
        self.start_controller()

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock.now)

    def start_controller(self) -> None:
        """Start a controller, which knows what the previous one has stored."""
        adopted = [
            FleetInstance(
                instance_id=name,
                state="running",
                instance_type="t3.medium",
                zone="",
                launched_at=EPOCH,
                worker=status.state,
                images=status.images,
                heard_at=status.seen_at,
            )
            for name, status in self.registry.statuses().items()
        ]
        self.recent = RecentLaunches(self.clock)
        for number, at in enumerate(self.launches):
            if (ago := self.clock.now - at) < LAUNCH_VISIBLE_SECONDS:
                self.recent.add([f"i-{number}"], ago=ago)  # from the journal
        self.registry = WorkerRegistry(PlayedClock(self.clock, self.now))
        self.registry.adopt(adopted)
        self.tracker = InstanceTracker(self.registry)
        self.breaker = CircuitBreaker(self.circuit, PlayedClock(self.clock, self.now))

    def round(self, draining: Sequence[str] = ()) -> Plan:
        """Observe, decide and launch."""
        self.clock.now += 1
        if self.is_read:
            self.registry.mark_read_until(self.clock.now)
        described = [*map(instance, self.running), *(instance(each, "terminated") for each in self.gone[-9:])]
        launched = self.recent.instance_ids
        seen = Observation(
            QueueCounts(self.images, 0, 0),
            0,
            tuple(described),
            self.recent.launching(described),
            launched,
            recent_launches=self.recent.recent(),
            since_launch=self.recent.since_last(),
        )
        self.tracker.update(seen, frozenset(draining))
        self.circuit = self.breaker.update(
            self.tracker.records.values(),
            self.tracker.ended,
            answers=self.registry.produced,
            workers=len(self.running),
            images=self.images,
        )
        self.plan = decide(replace(seen, metrics=FleetMetrics(circuit=self.circuit)), self.settings)
        for _ in range(self.plan.launch):
            name = f"i-{len(self.launches)}"
            self.running.append(name)
            self.recent.add([name])
            self.launches.append(self.clock.now)
        return self.plan

    def wait(self, seconds: float) -> FleetCircuit:
        for _ in range(int(seconds)):
            self.round()
        return self.circuit

    def answer(self, worker: str, *, repeated: bool = False) -> None:
        self.registry.record(
            [
                ClassificationResult(
                    job_id=new_id(),
                    image_id=new_id(),
                    status="done",
                    label="cat",
                    score=1,
                    worker=worker,
                    attempts=1,
                    repeated=repeated,
                )
            ]
        )

    def end(self, worker: str, end: WorkerEnd | None, reason: str = "") -> None:
        """Let a worker end; without a heartbeat if `end` is None."""
        self.running.remove(worker)
        self.gone.append(worker)
        if end is not None:
            self.registry.record([ended(worker, end, reason)])

    def fail_all(self, seconds: float) -> FleetCircuit:
        """Let each worker fail a second after its launch, for so long."""
        for _ in range(int(seconds)):
            self.round()
            for worker in list(self.running):
                self.end(worker, "failed", DENIED)
        return self.circuit


def ended(worker: str, end: WorkerEnd | None, reason: str = "") -> Heartbeat:
    return heartbeat(worker, state="ended", in_hand=0).model_copy(update={"end": end, "reason": reason})


def test_row_61_a_fault_that_ends_every_worker_is_probed_once_a_minute_for_ever() -> None:
    site = Site()
    circuit = site.fail_all(300)
    assert (circuit.state, circuit.reason, site.plan.kind) == (CircuitState.OPEN, DENIED, "failing")
    assert len(site.launches) <= 10
    site.fail_all(3600)
    probes = [at for at in site.launches if at > site.launches[0] + 300]
    assert min(after - before for before, after in pairwise(probes)) >= RECENT_SECONDS
    assert len(probes) <= 60


def test_a_repeated_prediction_neither_closes_the_circuit_nor_excuses_a_worker() -> None:
    site = Site()
    site.fail_all(120)
    while not site.running:
        site.round()
    failed_runs, probe = site.circuit.failed_runs, site.running[0]
    site.answer(probe, repeated=True)
    assert site.wait(1).state is CircuitState.HALF_OPEN
    assert (site.registry.answers, site.registry.produced) == (1, 0)
    site.end(probe, "failed", DENIED)
    assert site.wait(1).failed_runs == failed_runs + 1


def test_where_no_image_waits_a_worker_that_lasts_for_a_minute_closes_the_circuit() -> None:
    site = Site()
    site.fail_all(61)
    site.images = 0
    site.running.append("i-probe")
    for seconds in range(0, 70, 10):
        site.registry.record([heartbeat("i-probe", state="ready")])
        assert site.wait(10).state is (CircuitState.CLOSED if seconds >= 60 else CircuitState.HALF_OPEN)


def test_a_worker_whose_heartbeats_have_stopped_proves_nothing_once_the_queue_is_empty() -> None:
    site = Site()
    site.fail_all(120)
    while not site.running:
        site.round()
    probe = site.running[0]
    for _ in range(8):
        site.registry.record([heartbeat(probe, state="ready")])
        site.wait(10)
    site.end(probe, None)
    site.images = 0
    for _ in range(int(LAST_HEARTBEAT_SECONDS) + 2):
        site.round()
        assert site.circuit.state is CircuitState.OPEN


@pytest.mark.parametrize("end", [None, "stopped"])
def test_row_70_three_workers_killed_before_their_first_answer_stop_no_fleet(end: WorkerEnd | None) -> None:
    site = Site(workers=2)
    site.round()
    while len(site.gone) < MAX_FAILED_RUNS:
        site.end(site.running[0], end, "SIGTERM" if end else "")
        site.round()
    for survivor in list(site.running):
        site.end(survivor, end)
    killed_at = site.clock.now
    while not site.running:
        site.round()
    assert site.clock.now - killed_at <= 10, "and a local worker answers within 5 s"
    site.answer(site.running[0])
    assert site.wait(2) == FleetCircuit()
    assert len(site.running) == site.workers


@pytest.mark.parametrize("end", [None, "stopped"])
def test_ends_from_outside_that_go_on_are_probed_ever_less_often_up_to_a_minute(end: WorkerEnd | None) -> None:
    site = Site(workers=MAX_FAILED_RUNS)
    for _ in range(400):
        site.round()
        for worker in list(site.running):
            site.end(worker, end)
    pauses = [after - before for before, after in pairwise(site.launches[site.workers - 1 :])]
    assert pauses == [5, 10, 20, 40, *[60] * (len(pauses) - 4)]
    assert (len(pauses), site.circuit.own_failures) == (9, 0)


@pytest.mark.parametrize(
    ("end", "images", "failed_runs", "own_failures"),
    [("failed", 0, 3, 3), (None, 0, 3, 0), ("idle", 5, 3, 3), ("idle", 0, 0, 0), ("stopped", 5, 3, 0)],
)
def test_which_ends_count_when_the_heartbeats_have_been_read(
    end: WorkerEnd | None, images: int, failed_runs: int, own_failures: int
) -> None:
    site = Site(images=20 * WORKERS)
    site.round()
    site.images = images
    site.round()
    for worker in list(site.running[1:]):
        site.end(worker, end)
    circuit = site.wait(LAST_HEARTBEAT_SECONDS + 2)
    assert (circuit.failed_runs, circuit.own_failures) == (failed_runs, own_failures)


def test_workers_that_end_idle_while_another_holds_all_images_have_not_failed() -> None:
    site = Site(images=20 * WORKERS)
    site.round()
    site.images = 2
    site.registry.record([heartbeat(site.running[0], in_hand=2)])
    site.round()
    for worker in list(site.running[1:]):
        site.end(worker, "idle")
    assert site.wait(LAST_HEARTBEAT_SECONDS + 2) == FleetCircuit()


def test_a_drained_worker_and_one_that_has_answered_before_have_not_failed() -> None:
    site = Site()
    site.round()
    site.answer(site.running[0])
    site.round(site.running[1:])
    for worker in list(site.running):
        site.end(worker, None)
    assert site.wait(1).failed_runs == 0


@pytest.mark.parametrize("workers", range(1, 6))
def test_silent_ends_count_though_the_response_queue_is_gone(workers: int) -> None:
    site = Site(workers=workers, is_read=False)
    for _ in range(300):
        site.round()
        for worker in list(site.running):
            site.end(worker, None)
    assert site.circuit.state is CircuitState.OPEN
    assert len(site.launches) <= 10


def test_the_words_of_a_worker_are_one_printable_line_of_bounded_length() -> None:
    reason = (
        ended("i-1", "failed")
        .model_validate(heartbeat("i-1").model_dump() | {"reason": "<b>\x1b[31mno\n\nroom</b> \u202e" + "x" * 500})
        .reason
    )
    assert (reason[:21], len(reason), reason[-3:]) == ("<b> [31mno room</b> x", 300, "...")


@given(st.lists(st.tuples(st.sampled_from(get_args(Event)), st.integers(0, 3), st.integers(0, 70)), max_size=10))
def test_in_any_history_an_open_circuit_pauses_before_one_and_an_answer_closes_it(
    history: list[tuple[Event, int, int]],
) -> None:
    site, in_a_row, own, answered = Site(), 0, 0, set[str]()
    site.round()
    for event, number, seconds in history:
        worker = site.running[number % len(site.running)] if site.running else None
        if event == "controller":
            site.wait(LAST_HEARTBEAT_SECONDS + 2)
            site.start_controller()
        elif worker is None or event == "wait":
            pass
        elif event == "answer":
            site.answer(worker)
            answered.add(worker)
            in_a_row = own = 0
        elif event == "beat":
            site.registry.record([heartbeat(worker, state="ready", in_hand=0)])
        else:
            site.end(worker, ENDS[event])
            in_a_row += worker not in answered
            own += event in {"failed", "idle"} and worker not in answered
        for _ in range(seconds):
            launched_before = list(site.launches)
            plan = site.round()
            if event == "answer" and worker is not None:
                assert site.circuit.state is CircuitState.CLOSED
            if site.circuit.state is not CircuitState.CLOSED:
                assert plan.launch <= (len(site.running) == plan.launch)
                pause = RECENT_SECONDS if own >= MAX_FAILED_RUNS else 5
                assert not plan.launch or site.clock.now - launched_before[-1] >= pause
        site.wait(LAST_HEARTBEAT_SECONDS + 2)
        assert (site.circuit.failed_runs, site.circuit.own_failures) == (in_a_row, own)
        assert (site.circuit.state is CircuitState.CLOSED) == (in_a_row < MAX_FAILED_RUNS)
