"""Reporting: snapshot, instances, events, history and metrics."""

import logging
from dataclasses import replace
from dataclasses import replace as replaced
from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import BillingPeriod, Decisions, FleetInstances, FleetPause, FleetSnapshot, HistoryBlock, Span
from core.logs import JsonFormatter
from scripts.aws.deploy.idle_cost import LOG_LINE_BYTES
from services.sqs import QueueCounts
from tests.support.autoscaler import EPOCH, Clock, RecordingStore, fleet_settings, instance
from tests.support.fleet import fleet_snapshot
from web_tier.autoscaler.billing import BillingMeter, CostAttribution
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.explain import DecisionKind
from web_tier.autoscaler.liveness import WorkerStatus
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.reporting import (
    MAX_DECISIONS,
    MAX_LISTED,
    MAX_SNAPSHOT_SECONDS,
    MERGE_SECONDS,
    METRICS_SECONDS,
    MIN_LIST_SECONDS,
    MIN_SNAPSHOT_SECONDS,
    RESOLUTIONS,
    EventLog,
    FleetEvent,
    History,
    HistoryTrack,
    InstanceListWriter,
    MetricsLogger,
    SnapshotWriter,
    fleet_metrics,
    instance_list,
)

PAUSE = FleetPause(since=EPOCH, reason="new model")


def show(
    writer: SnapshotWriter, visible: int = 0, problem: str | None = None, boot_seconds: float | None = None
) -> None:
    seen = Observation(
        QueueCounts(visible, 2, 1),
        4,
        (instance("i-1"), instance("i-2", "stopped")),
        frozenset({"i-3"}),
        metrics=FleetMetrics(0.03141, boot_seconds),
        pause=PAUSE,
    )
    writer.write(seen, Plan(0, (), "enough", "because"), fleet_settings(), BillingMeter(60, lambda _: 0.0), problem)


def test_a_snapshot_holds_what_was_seen_and_why_it_was_decided() -> None:
    shown = RecordingStore()
    show(SnapshotWriter(shown, Clock(), lambda: EPOCH), 7, "no capacity", 42.1)
    assert shown.snapshots == [
        fleet_snapshot(
            EPOCH,
            running=1,
            pending=1,
            stopped=1,
            visible=7,
            in_flight=2,
            delayed=1,
            dead_letters=4,
            reason="because",
            problem="no capacity",
            paused=PAUSE,
            image_seconds=0.031,
            boot_seconds=42,
            policy="backlog",
        )
    ]


def test_changes_are_shown_a_few_times_a_second_and_an_unchanged_fleet_now_and_then() -> None:
    clock, shown = Clock(), RecordingStore()
    writer = SnapshotWriter(shown, clock)
    for visible in range(10):
        show(writer, visible)
    assert len(shown.snapshots) == 1
    clock.now += MIN_SNAPSHOT_SECONDS
    show(writer, 10)
    assert shown.snapshots[-1].visible == 10
    clock.now += MIN_SNAPSHOT_SECONDS
    show(writer, 10)
    assert len(shown.snapshots) == 2
    clock.now += MAX_SNAPSHOT_SECONDS
    show(writer, 10)
    assert len(shown.snapshots) == 3


def test_a_run_that_is_over_is_kept_before_the_next_one_is_shown() -> None:
    clock, kept = Clock(), list[int]()

    class Checked(RecordingStore):
        def put_run(self, run: BillingPeriod) -> None:
            kept.append(run.number)

        def put_snapshot(self, snapshot: FleetSnapshot) -> None:
            assert snapshot.run is not None
            assert kept == list(range(1, snapshot.run.number))
            super().put_snapshot(snapshot)

    shown, attribution = Checked(), CostAttribution(clock=clock)
    meter = BillingMeter(60, lambda _: 0.0, None, clock, lambda: EPOCH, attribution)
    writer = SnapshotWriter(shown, clock)
    for _ in range(3):
        for waiting, workers in ((5, 1), (0, 0)):
            clock.now += 10
            seen = Observation(QueueCounts(waiting, 0, 0), 0, (instance("i-1"),) * workers)
            meter.update(seen)
            writer.write(seen, Plan(0, (), "enough", "because"), fleet_settings(), meter, None)
    assert kept == [1, 2]
    last = shown.snapshots[-1]
    assert last.run is not None
    assert (last.billed_seconds, last.run.number, last.run.billed_seconds, last.run.is_open) == (180, 3, 60, False)


def test_a_failed_look_is_shown_with_the_last_figures() -> None:
    clock, shown = Clock(), RecordingStore()
    writer = SnapshotWriter(shown, clock)
    writer.write_problem("nothing was seen yet, so nothing is shown")
    show(writer, 7)
    clock.now += MIN_SNAPSHOT_SECONDS
    writer.write_problem("EC2 does not answer")
    assert [(each.visible, each.problem) for each in shown.snapshots] == [(7, None), (7, "EC2 does not answer")]


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
    """A log that looks at decisions some seconds apart."""

    def __init__(self, stored: DecisionStore | None = None) -> None:
        self.clock, self.stored = Clock(), stored or DecisionStore()
        self.log = EventLog(self.stored, self.clock, lambda: EPOCH)

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
        self.log.update(Plan(launch, (), kind, words), supply, problem)


def test_a_batch_is_told_by_its_start_and_its_end() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    for left in range(100, 0, -10):
        bench.decide("enough", f"5 workers, enough: {left} images", supply=5)
    for left in range(100, 80, -10):
        bench.decide("at_maximum", "5 workers, the most allowed", supply=5)
        bench.decide("enough", f"5 workers, enough: {left} images", supply=5)
    bench.decide("idle", "5 workers: no images waiting", supply=5)
    bench.decide("idle", "2 workers: no images waiting", supply=2)
    assert bench.stored.words == ["5 workers: no images waiting", "5 workers, the most allowed", "starting 5"]


def test_a_launch_that_is_tried_again_and_again_is_one_decision_and_its_problem_another() -> None:
    bench = Bench()
    for tries in range(5):
        bench.decide(
            "starting", f"starting 5: {100 + tries} images", launch=5, problem="no capacity" if tries else None
        )
    assert bench.stored.words == ["no capacity", "starting 5: 100 images"]


def test_while_images_come_in_the_last_of_many_launches_is_told() -> None:
    bench = Bench()
    for supply in range(4):
        bench.decide("starting", f"starting 1, {supply} there", launch=1, supply=supply, after=MERGE_SECONDS / 3)
    bench.decide("enough", "enough", supply=4)
    assert bench.stored.words == ["starting 1, 3 there"]


def test_a_problem_between_two_launches_stays_told() -> None:
    bench = Bench()
    bench.decide("starting", "starting 1", launch=1, problem="no capacity")
    bench.decide("starting", "starting 2", launch=2, problem="no capacity", after=MERGE_SECONDS / 3)
    assert bench.stored.words == ["starting 2", "no capacity", "starting 1"]


def test_a_pause_and_its_end_are_told() -> None:
    bench = Bench()
    bench.decide("enough", "1 worker, enough", supply=1)
    bench.decide("paused", "paused: 3 images", supply=1)
    bench.decide("paused", "paused: 2 images", supply=1)
    bench.decide("enough", "1 worker, enough again", supply=1)
    assert bench.stored.words == ["1 worker, enough again", "paused: 3 images", "1 worker, enough"]


def test_the_list_is_bounded_and_written_once_a_second_at_most() -> None:
    bench = Bench()
    kinds: list[DecisionKind] = ["paused", "too_many", "at_maximum"]
    for number in range(100):
        bench.decide(kinds[number % 3], f"number {number}", after=0.1)
    bench.decide("at_maximum", "last", after=1)
    assert len(bench.stored.words) == MAX_DECISIONS
    assert bench.stored.words[:2] == ["last", "number 99"]
    assert len(bench.stored.writes) <= 12


def test_a_new_controller_goes_on_with_the_list_and_does_not_repeat_its_first_line() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    bench.decide("idle", "no workers: no images waiting")
    other = Bench(bench.stored)
    other.decide("idle", "no workers: no images waiting")
    assert len(other.stored.writes) == 2
    other.decide("paused", "paused")
    assert other.stored.words == ["paused", "no workers: no images waiting", "starting 5"]


def test_news_stand_among_the_decisions_and_nothing_takes_their_place() -> None:
    bench = Bench()
    bench.decide("starting", "starting 5", launch=5)
    bench.log.add(FleetEvent("limits 1..5, set by ops", EPOCH))
    bench.decide("starting", "starting 6", launch=6, after=MERGE_SECONDS / 2)
    assert bench.stored.words == ["starting 6", "limits 1..5, set by ops", "starting 5"]


def test_news_that_the_controller_before_has_noted_are_not_noted_again_but_later_ones_of_the_same_words_are() -> None:
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


SEEN = Observation(
    QueueCounts(7, 2, 1),
    4,
    (instance("i-1"), instance("i-2", "stopped")),
    frozenset({"i-3"}),
    demand=Demand(((31.27, 5), (4.0, 3))),
)


def test_the_line_says_how_the_fleet_stands() -> None:
    assert fleet_metrics(SEEN, fleet_settings(), BillingMeter(60, lambda _: 0.0)) == {
        "workers": 2,
        "maximum": 19,
        "at_maximum": 0,
        "waiting": 8,
        "in_flight": 2,
        "dead_letters": 4,
        "oldest_seconds": 31.3,
        "paused": 0,
        "answered": 0,
        "dollars": 0.0,
    }


def test_the_fleet_is_at_its_maximum_when_it_may_not_grow_and_images_wait() -> None:
    there_may_be_two = fleet_settings(max_workers=2)
    assert fleet_metrics(SEEN, there_may_be_two, BillingMeter(60, lambda _: 0.0))["at_maximum"] == 1
    nothing_waits = replace(SEEN, requests=QueueCounts(0, 2, 0))
    assert fleet_metrics(nothing_waits, there_may_be_two, BillingMeter(60, lambda _: 0.0))["at_maximum"] == 0


def test_a_pause_and_an_empty_queue_are_figures_too() -> None:
    resting = replace(SEEN, requests=QueueCounts(0, 0, 0), demand=Demand(), pause=PAUSE)
    figures = fleet_metrics(resting, fleet_settings(), BillingMeter(60, lambda _: 0.0))
    assert (figures["oldest_seconds"], figures["paused"]) == (0.0, 1)


def test_there_is_one_line_a_minute_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    figures, meter = MetricsLogger(clock), BillingMeter(60, lambda _: 0.0)
    with caplog.at_level(logging.INFO):
        figures.update(SEEN, fleet_settings(), meter)
        assert len(caplog.records) == 1  # the first look of a shift is told of at once
        for _ in range(600):
            clock.now += 1
            figures.update(SEEN, fleet_settings(), meter)
    assert len(caplog.records) == 1 + 600 / METRICS_SECONDS
    assert {record.getMessage() for record in caplog.records} == {"fleet"}
    # CloudWatch counts 26 bytes more for each line. What it costs at rest follows.
    assert len(JsonFormatter("controller").format(caplog.records[0])) + 26 <= LOG_LINE_BYTES


FINE = RESOLUTIONS[0]
DAY_SECONDS = 86_400
START = 1_700_000_000


class HistoryStore(RecordingStore):
    """A store that counts the writes of history."""

    writes = 0

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        super().put_block(span, slot, block)
        self.writes += 1

    def points(self, span: Span = "hour") -> list[tuple[int, int, int]]:
        return sorted(point for block in self.blocks(span) for point in block.points)


def test_a_fleet_at_rest_writes_nothing() -> None:
    items, now = HistoryStore(), START
    history = History(items, lambda: now)
    for _ in range(500):
        history.update(0, 0)
        now += 10
    assert items.writes == 0


def test_a_change_is_a_point_that_holds_until_the_next_one() -> None:
    items = HistoryStore()
    track = HistoryTrack(items, FINE)
    for second in range(60):
        track.update(START + second, 2 if second >= 20 else 0, 0)
    assert items.points() == [(START + 20, 2, 0)]
    assert items.writes == 1


def test_what_was_over_within_a_step_is_told_with_the_most_there_was() -> None:
    items = HistoryStore()
    track = HistoryTrack(items, FINE)
    for second, (workers, queue) in enumerate(
        [(0, 0), (0, 100), (2, 60), (2, 0), (0, 0), (0, 0), (0, 0)] + [(0, 0)] * 9
    ):
        track.update(START + second, workers, queue)
    assert items.points() == [(START, 2, 100), (START + 5, 0, 0)]


def test_an_hour_is_kept_finely_and_a_day_coarsely_in_a_few_items() -> None:
    items, now = HistoryStore(), START
    history = History(items, lambda: now)
    for second in range(2 * DAY_SECONDS // 5):
        now = START + 5 * second
        history.update(second % 7, second % 100)
    assert len(items.blocks()) <= sum(each.blocks for each in RESOLUTIONS)
    assert max(len(block.to_json()) for block in items.blocks()) < 4_000
    fine, coarse = items.points("hour"), items.points("day")
    assert fine[0][0] <= now - 3_600
    assert coarse[0][0] <= now - DAY_SECONDS
    assert max(len(fine), len(coarse)) <= 7 * 120
    assert min(after[0] - before[0] for before, after in pairwise(fine)) >= FINE.step


def test_a_new_controller_goes_on_where_the_last_one_ended() -> None:
    items = HistoryStore()
    first = HistoryTrack(items, FINE)
    for second in range(0, 30, 5):
        first.update(START + second, second, 0)
    second_one = HistoryTrack(items, FINE)
    second_one.update(START + 40, 20, 0)
    second_one.update(START + 45, 3, 0)
    second_one.update(START + 50, 3, 0)
    assert items.points()[-2:] == [(START + 20, 20, 0), (START + 45, 3, 0)]
    assert len(items.points()) == 5


@given(st.lists(st.tuples(st.integers(-50, 900), st.integers(0, 9), st.integers(0, 999)), max_size=60))
def test_whatever_the_clock_does_the_history_stays_bounded(steps: list[tuple[int, int, int]]) -> None:
    items, now = HistoryStore(), START
    track = HistoryTrack(items, FINE)
    for step, workers, queue in steps:
        now += step
        track.update(now, workers, queue)
    assert len(items.blocks()) <= FINE.blocks
    assert items.writes <= len(steps)


WORD = WorkerStatus(
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


def look(*states: str) -> Observation:
    """One instance for each state, the last of them the newest."""
    instances = [
        instance(f"i-{number}", state, EPOCH + timedelta(seconds=number)) for number, state in enumerate(states)
    ]
    return Observation(QueueCounts(0, 0, 0), 0, tuple(instances))


def test_an_instance_is_told_with_what_its_worker_says() -> None:
    [told] = instance_list(look("running"), {"i-0": WORD, "local-7": WORD}).instances
    assert (told.instance_id, told.state, told.instance_type, told.launched_at) == (
        "i-0", "running", "c7a.large", EPOCH,
    )  # fmt: skip
    assert (told.worker, told.images, told.in_hand, told.heard_at) == ("busy", 68, 3, EPOCH)


def test_one_that_is_marked_is_told_with_the_reason() -> None:
    [other, told] = instance_list(look("running", "running"), {}, {"i-0": "silent for 60 s"}).instances
    assert (told.marked, other.marked) == ("silent for 60 s", None)


def test_a_spot_instance_is_told_as_one() -> None:
    spot = replaced(instance("i-1"), spot=True)
    told = instance_list(Observation(QueueCounts(0, 0, 0), 0, (instance("i-0"), spot)), {}).instances
    assert [(each.instance_id, each.spot) for each in told] == [("i-1", True), ("i-0", False)]


def test_one_that_has_not_been_heard_of_is_told_as_such() -> None:
    [told] = instance_list(look("pending"), {}).instances
    assert (told.worker, told.images, told.heard_at) == (None, None, None)


def test_the_newest_come_first_the_ended_not_at_all_and_the_rest_is_counted() -> None:
    told = instance_list(look("running", "terminated", "stopped"), {})
    assert [each.instance_id for each in told.instances] == ["i-2", "i-0"]
    many = instance_list(look(*["running"] * (MAX_LISTED + 3)), {})
    assert (many.total, len(many.instances)) == (MAX_LISTED + 3, MAX_LISTED)
    assert len(many.to_json()) < 30_000


def test_only_changes_are_stored_and_at_most_one_a_second() -> None:
    clock, shown = Clock(), ListStore()
    listing = InstanceListWriter(shown, clock=clock)
    listing.update(look(), {})
    assert shown.lists == []
    for images in range(9):
        listing.update(look("running"), {"i-0": replaced(WORD, images=images)})
    assert len(shown.lists) == 1
    clock.now += MIN_LIST_SECONDS
    for _ in range(9):
        listing.update(look("running"), {"i-0": WORD})
        clock.now += MIN_LIST_SECONDS
    assert [each.instances[0].images for each in shown.lists] == [0, 68]
