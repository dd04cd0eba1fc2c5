"""Reporting: snapshot, instances, events, history and metrics."""

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import (
    ENDED_LISTED,
    Decisions,
    FleetInstances,
    FleetPause,
    FleetSpending,
    HistoryBlock,
    LaterImages,
    Span,
    WorkerLimits,
    points_since,
)
from core.fleet.store import FleetStore
from core.logs import JsonFormatter
from scripts.aws.deploy.idle_cost import LOG_LINE_BYTES
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, RecordingStore, flat_prices, fleet_settings, instance, observation
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.decide import DecisionKind, Plan
from web_tier.autoscaler.liveness import WorkerStatus
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.reporting import (
    MAX_DECISIONS,
    MAX_ENDED,
    MAX_LISTED,
    MAX_SNAPSHOT_SECONDS,
    MERGE_SECONDS,
    METRICS_SECONDS,
    MIN_LIST_SECONDS,
    MIN_SNAPSHOT_SECONDS,
    RESOLUTIONS,
    EventLog,
    FleetEvent,
    HistoryTrack,
    InstanceListWriter,
    MetricsLogger,
    Resolution,
    SnapshotWriter,
    fleet_metrics,
    instance_list,
)

PAUSE = FleetPause(since=EPOCH, reason="new model")
METER = BillingMeter(flat_prices(0.0))
LIMITS = (None, WorkerLimits(min_workers=0, max_workers=19))


def show(writer: SnapshotWriter, visible: int = 0) -> None:
    seen = observation(visible, states=("running", "stopped"))
    writer.write(seen, "because", fleet_settings(), METER, None, LIMITS)


@given(
    states=st.lists(st.sampled_from(["pending", "running", "stopped", "shutting-down", "terminated"]), max_size=6),
    launching=st.integers(0, 3),
    messages=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    ages=st.lists(st.floats(0, 999), max_size=3),
    maximum=st.integers(0, 6),
    pause=st.sampled_from([None, PAUSE]),
    spent=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_the_snapshot_and_the_metrics_count_what_was_observed_and_agree(
    states: list[str],
    launching: int,
    messages: tuple[int, int, int, int],
    ages: list[float],
    maximum: int,
    pause: FleetPause | None,
    spent: float,
) -> None:
    *counts, dead_letters = messages
    seen = replace(
        observation(*counts, states=tuple(states), launching=launching),
        dead_letters=dead_letters,
        demand=Demand(tuple((age, 1) for age in sorted(ages, reverse=True)), later=((7_229.0, 4),)),
        at=EPOCH,
        metrics=FleetMetrics(0.03141, 42.1),
        pause=pause,
        spending=FleetSpending(day=EPOCH.date(), today=spent, month=spent, dollars_per_day=1.0),
    )
    store, settings = RecordingStore(), fleet_settings(max_workers=maximum)
    SnapshotWriter(store, Clock(0.0)).write(seen, "because", settings, METER, "no capacity", LIMITS)
    [snapshot], metrics = store.snapshots, fleet_metrics(seen, settings, METER)
    assert snapshot.running == states.count("running")
    assert snapshot.running + snapshot.pending == launching + states.count("running") + states.count("pending")
    assert snapshot.stopped == states.count("stopped")
    assert metrics["workers"] == snapshot.running + snapshot.pending
    assert [snapshot.visible, snapshot.in_flight, snapshot.delayed] == counts
    assert (metrics["waiting"], metrics["in_flight"]) == (snapshot.visible + snapshot.delayed, snapshot.in_flight)
    assert metrics["dead_letters"] == snapshot.dead_letters == dead_letters
    assert metrics["oldest_seconds"] == round(max(ages, default=0.0), 1)
    assert metrics["maximum"] == snapshot.max_workers == maximum
    assert metrics["at_maximum"] == (metrics["workers"] >= maximum and metrics["waiting"] > 0)
    assert (metrics["paused"], snapshot.paused) == (pause is not None, pause)
    assert (metrics["cap_percent"], metrics["capped"]) == (100 * spent, spent >= 1)
    assert (metrics["answered"], metrics["dollars"]) == (snapshot.images, snapshot.cost)
    assert (snapshot.reason, snapshot.problem, snapshot.configured) == ("because", "no capacity", LIMITS[1])
    assert (snapshot.image_seconds, snapshot.boot_seconds) == (0.031, 42), "two digits, so that it rarely changes"
    assert snapshot.later_images == (LaterImages(by=EPOCH + timedelta(hours=2), images=4),), (
        "to the minute, for the same reason"
    )


def test_an_unchanged_snapshot_is_stored_again_while_the_controller_runs() -> None:
    clock, shown = Clock(), RecordingStore()
    writer = SnapshotWriter(shown, clock)
    for seconds in (0, MIN_SNAPSHOT_SECONDS, MAX_SNAPSHOT_SECONDS):
        clock.now += seconds
        show(writer, 10)
    assert len(shown.snapshots) == 2


class DecisionStore(RecordingStore):
    """A store that keeps every list of decisions."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Decisions] = []

    def put_decisions(self, decisions: Decisions) -> None:
        super().put_decisions(decisions)
        self.writes.append(decisions)

    @property
    def words(self) -> list[str]:
        return [decision.words for decision in self.decisions().decisions]


class Bench:
    """An event log of decisions some seconds apart."""

    def __init__(self, stored: DecisionStore | None = None) -> None:
        self.clock, self.stored = Clock(), stored or DecisionStore()
        self.log = EventLog(self.stored, PlayedClock(self.clock, lambda: EPOCH))

    def decide(
        self,
        kind: DecisionKind,
        words: str,
        launch: int = 0,
        supply: int = 0,
        problem: str | None = None,
        after: float = 5,
    ) -> None:
        self.clock.now += after
        self.log.update(Plan(launch, (), kind), words, supply, problem)


SOON = MERGE_SECONDS / 3


@pytest.mark.parametrize(
    ("decisions", "words"),
    [
        ([("starting", f"starting 5: {n} images", 5, 0, "no capacity" if n else None, 5) for n in range(5)],
         ["no capacity", "starting 5: 0 images"]),
        ([*[("starting", f"starting 1, {n} there", 1, n, None, SOON) for n in range(4)],
          ("enough", "enough", 0, 4, None, 5)],
         ["starting 1, 3 there"]),
        ([("starting", "starting 1", 1, 0, "no capacity", 5), ("starting", "starting 2", 2, 0, "no capacity", SOON)],
         ["starting 2", "no capacity", "starting 1"]),
        ([("enough", "enough", 0, 1, None, 5), ("paused", "paused: 3 images", 0, 1, None, 5),
          ("paused", "paused: 2 images", 0, 1, None, 5), ("enough", "enough again", 0, 1, None, 5)],
         ["enough again", "paused: 3 images", "enough"]),
    ],
    ids=["a repeated launch is one decision, its problem another", "of many launches in a moment the last is logged",
         "a problem between two launches stays", "a pause and its end are logged"],
)  # fmt: skip
def test_a_decision_is_logged_when_it_is_new(
    decisions: list[tuple[DecisionKind, str, int, int, str | None, float]], words: list[str]
) -> None:
    bench = Bench()
    for decision in decisions:
        bench.decide(*decision)
    assert bench.stored.words == words


def test_the_log_is_bounded_and_written_at_most_once_a_second() -> None:
    bench = Bench()
    kinds: list[DecisionKind] = ["paused", "too_many", "at_maximum"]
    for number in range(100):
        bench.decide(kinds[number % 3], f"number {number}", after=0.1)
    bench.decide("at_maximum", "last", after=1)
    assert len(bench.stored.words) == MAX_DECISIONS
    assert bench.stored.words[:2] == ["last", "number 99"]
    assert len(bench.stored.writes) <= 12


def test_a_new_controller_continues_the_log_and_does_not_repeat_its_first_line() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    bench.decide("idle", "no workers: no images waiting")
    other = Bench(bench.stored)
    other.decide("idle", "no workers: no images waiting")
    assert len(other.stored.writes) == 2
    other.decide("paused", "paused")
    assert other.stored.words == ["paused", "no workers: no images waiting", "starting 5"]


def test_an_event_of_the_previous_controller_is_not_logged_again_but_a_later_one_is() -> None:
    bench = Bench()
    bench.log.add(FleetEvent("limits 1..5", EPOCH))
    bench.decide("idle", "no workers")
    later = Bench(bench.stored)
    later.log.add(FleetEvent("limits 1..5", EPOCH))
    later.decide("idle", "no workers")
    assert later.stored.words == ["no workers", "limits 1..5"]
    later.log.add(FleetEvent("limits 1..5", EPOCH + timedelta(hours=1)))
    later.decide("enough", "enough")
    assert later.stored.words == ["limits 1..5", "no workers", "limits 1..5"]


OBSERVED = Observation(
    QueueCounts(7, 2, 1),
    4,
    (instance("i-1"), instance("i-2", "stopped")),
    frozenset({"i-3"}),
    demand=Demand(((31.27, 5), (4.0, 3))),
)


def test_metrics_are_one_log_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    logger = MetricsLogger(clock, "fleetsight")
    with caplog.at_level(logging.INFO):
        logger.update(OBSERVED, fleet_settings(), METER)
        assert len(caplog.records) == 1  # the first round of a tenure is logged at once
        for _ in range(600):
            clock.now += 1
            logger.update(OBSERVED, fleet_settings(), METER)
    assert len(caplog.records) == 1 + 600 / METRICS_SECONDS
    assert {record.getMessage() for record in caplog.records} == {"fleet"}
    # CloudWatch counts 26 bytes more for each line. What it costs at rest follows.
    assert len(JsonFormatter("controller").format(caplog.records[0])) + 26 <= LOG_LINE_BYTES


def test_the_metrics_line_counts_what_happened_since_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    metrics = ControllerMetrics(clock=clock)
    logger = MetricsLogger(clock, None, metrics)
    with caplog.at_level(logging.INFO):
        logger.update(OBSERVED, fleet_settings(), METER)
        for _ in range(int(METRICS_SECONDS)):
            clock.now += 1
            logger.update(OBSERVED, fleet_settings(), METER)
        for outcome, times in (("done", 3), ("failed", 2), ("cancelled", 9)):
            metrics.results.labels(outcome).inc(times)
        metrics.repairs.labels("object_gone").inc()
        for outcome, times in (("no_capacity", 2), ("complete", 7)):
            metrics.launch_calls.labels(outcome).inc(times)
        # In another tenure of the same process: its first round is logged at once.
        MetricsLogger(clock, None, metrics).update(OBSERVED, fleet_settings(), METER)
    names = ("images_done", "images_failed", "repairs", "refused_launches", "waiting_seconds", "boot_waiting_seconds")
    lines = [tuple(getattr(record, name) for name in names) for record in caplog.records]
    # Eight images wait for a minute, and no worker boots.
    assert lines == [(0, 0, 0, 0, 0, 0), (0, 0, 0, 0, 8 * METRICS_SECONDS, 0), (3, 2, 1, 2, 0, 0)]


FINE = RESOLUTIONS[0]
START = 1_700_000_000


class HistoryStore(RecordingStore):
    """A store that counts the writes of history."""

    writes = 0

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        super().put_block(span, slot, block)
        self.writes += 1

    def points(self, span: Span = "hour") -> list[tuple[int, int, int]]:
        return sorted({point for block in self.blocks(span) for point in block.points})


@pytest.mark.parametrize(
    ("rounds", "points"),
    [
        ([(0, 0)] * 5_000, []),
        ([(0, 0)] * 20 + [(2, 0)] * 40, [(20, 2, 0)]),
        ([(0, 0), (0, 100), (2, 60), (2, 0)] + [(0, 0)] * 12, [(0, 2, 100), (5, 0, 0)]),
    ],
    ids=["an idle fleet writes nothing", "a point holds until the next one", "a step has its maximum"],
)
def test_a_change_is_a_point_of_the_history(
    rounds: list[tuple[int, int]], points: list[tuple[int, int, int]]
) -> None:
    items = HistoryStore()
    track = HistoryTrack(items, FINE)
    for second, (workers, queue) in enumerate(rounds):
        track.update(START + second, workers, queue)
    assert items.points() == [(START + second, workers, queue) for second, workers, queue in points]
    assert items.writes == len(points)


@pytest.mark.parametrize("resolution", RESOLUTIONS, ids=lambda each: each.span)
def test_what_a_span_begins_with_is_known_however_long_it_has_held(resolution: Resolution) -> None:
    items, block = HistoryStore(), resolution.block_seconds
    track, begin = HistoryTrack(items, resolution), START // block * block
    for at in range(begin, begin + 2 * resolution.blocks * block, resolution.step):
        is_idle = block < at - begin < 5 * block
        track.update(at, 4, 0 if is_idle else at // resolution.step % 5)
        if at % (block // 4) == 0 and at - begin > block * resolution.blocks:
            start = datetime.fromtimestamp(at - (resolution.blocks - 1) * block, UTC)
            first = points_since(items.blocks(resolution.span), start)[0]
            assert (first.at, first.workers) == (start, 4)


@given(st.lists(st.tuples(st.integers(-50, 900), st.integers(0, 9), st.integers(0, 999)), max_size=60))
def test_the_history_stays_bounded_for_any_clock(steps: list[tuple[int, int, int]]) -> None:
    items, now = HistoryStore(), START
    track = HistoryTrack(items, FINE)
    for step, workers, queue in steps:
        now += step
        track.update(now, workers, queue)
    assert len(items.blocks()) <= FINE.blocks
    assert items.writes <= len(steps)


STATUS = WorkerStatus(
    images=68, state="busy", in_flight=3, seen_at=EPOCH, first_heartbeat_at=1.0, last_heartbeat_at=1.0
)


class ListStore(RecordingStore):
    """A store that keeps every list of instances."""

    def __init__(self) -> None:
        super().__init__()
        self.lists: list[FleetInstances] = []

    def put_instances(self, instances: FleetInstances) -> None:
        super().put_instances(instances)
        self.lists.append(instances)


def observed(*states: str) -> Observation:
    """One instance for each state, the last of them the newest."""
    instances = [
        instance(f"i-{number}", state, EPOCH + timedelta(seconds=number)) for number, state in enumerate(states)
    ]
    return Observation(QueueCounts(0, 0, 0), 0, tuple(instances))


def test_an_instance_is_listed_with_the_status_of_its_worker_and_why_it_is_unhealthy() -> None:
    spot = replace(instance("i-1"), spot=True)
    observed = Observation(QueueCounts(0, 0, 0), 0, (instance("i-0"), spot), draining=frozenset({"i-1"}))
    statuses, silent, since = {"i-0": STATUS, "local-7": STATUS}, {"i-1": "silent"}, {"i-1": EPOCH}
    newer, older = instance_list(observed, statuses, silent, since).instances
    assert (newer.billed_since, older.billed_since) == (EPOCH, None)
    assert (older.instance_id, older.state, older.instance_type) == ("i-0", "running", "c7a.large")
    assert (older.launched_at, older.spot, older.draining, older.marked) == (EPOCH, False, False, None)
    assert (older.worker, older.images, older.in_hand, older.heard_at) == ("busy", 68, 3, EPOCH)
    assert (newer.instance_id, newer.spot, newer.draining, newer.marked) == ("i-1", True, True, "silent")
    assert (newer.worker, newer.images, newer.heard_at) == (None, None, None)


def test_newest_instances_are_listed_first_and_only_so_many() -> None:
    listed = instance_list(observed("running", "terminated", "stopped"), {}, {}, {})
    assert [each.instance_id for each in listed.instances] == ["i-2", "i-0"]
    many = instance_list(observed(*["running"] * (MAX_LISTED + 3)), {}, {}, {})
    assert (many.total, len(many.instances)) == (MAX_LISTED + 3, MAX_LISTED)
    assert len(many.to_json()) < 30_000


def ended_ids(shown: FleetStore) -> list[str]:
    return [each.instance_id for each in shown.ended().instances]


def test_listed_instances_that_end_are_kept_in_a_list_of_their_own_for_an_hour() -> None:
    clock, shown = Clock(), ListStore()
    now = [EPOCH]

    def pass_time(seconds: float) -> None:
        clock.now += seconds
        now[0] += timedelta(seconds=seconds)

    def writer() -> InstanceListWriter:
        return InstanceListWriter(shown, shown.instances(), PlayedClock(clock, lambda: now[0]), shown.ended())

    listing = writer()
    listing.update(observed("running", "running", "pending"), {"i-0": STATUS}, {}, {})
    pass_time(MIN_LIST_SECONDS)
    listing.update(observed("shutting-down", "running", "pending"), {"i-0": STATUS}, {}, {})
    assert ended_ids(shown) == ["i-0"]
    assert shown.ended().instances[0].images == STATUS.images
    pass_time(MIN_LIST_SECONDS)
    writer().update(observed("terminated", "running", "terminated"), {}, {}, {})  # the next controller
    assert ended_ids(shown) == ["i-2", "i-0"]
    listing = writer()
    pass_time(MIN_LIST_SECONDS)
    listing.update(observed("terminated", "running", "running"), {}, {}, {})
    assert ended_ids(shown) == ["i-0"], "a description that lagged has omitted i-2"
    pass_time(ENDED_LISTED.total_seconds())
    listing.update(observed("terminated", "running", "stopped"), {}, {}, {})
    assert ended_ids(shown) == []


def test_the_list_of_ended_instances_is_bounded() -> None:
    shown = ListStore()
    clock = Clock()
    listing = InstanceListWriter(shown, clock=PlayedClock(clock, lambda: EPOCH))
    listing.update(observed(*["running"] * (MAX_ENDED + 9)), {}, {}, {})
    clock.now += MIN_LIST_SECONDS
    listing.update(observed(*["terminated"] * (MAX_ENDED + 9)), {}, {}, {})
    assert len(ended_ids(shown)) == MAX_ENDED
