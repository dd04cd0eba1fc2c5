"""What is shown of the fleet, and how often."""

from dataclasses import dataclass, field

from core.messages import FleetPause, FleetSnapshot
from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits
from web_tier.controller.autoscaler.decide.decide import Plan
from web_tier.controller.autoscaler.observe.meter import BillingMeter
from web_tier.controller.autoscaler.observe.observe import Measured, Observation
from web_tier.controller.autoscaler.observe.runs import Runs
from web_tier.controller.autoscaler.tell.board import MAX_SECONDS, MIN_SECONDS, SnapshotWriter

PAUSE = FleetPause(since=EPOCH, reason="new model")


@dataclass
class Shown:
    """Keeps what is stored."""

    snapshots: list[FleetSnapshot] = field(default_factory=list)

    def put_fleet(self, snapshot: FleetSnapshot) -> None:
        self.snapshots.append(snapshot)


def show(
    board: SnapshotWriter, visible: int = 0, problem: str | None = None, boot_seconds: float | None = None
) -> None:
    seen = Observation(
        QueueCounts(visible, 2, 1),
        4,
        (instance("i-1"), instance("i-2", "stopped")),
        frozenset({"i-3"}),
        measured=Measured(0.03141, boot_seconds),
        paused=PAUSE,
    )
    board.show(seen, Plan(0, (), "enough", "because"), limits(), BillingMeter(60), problem)


def test_a_snapshot_holds_what_was_seen_and_why_it_was_decided() -> None:
    shown = Shown()
    show(SnapshotWriter(shown, Clock(), lambda: EPOCH), 7, "no capacity", 42.1)
    assert shown.snapshots == [
        FleetSnapshot(
            at=EPOCH,
            running=1,
            pending=1,
            stopped=1,
            visible=7,
            in_flight=2,
            delayed=1,
            dead_letters=4,
            min_workers=0,
            max_workers=19,
            peak_workers=0,
            billed_seconds=0,
            reason="because",
            problem="no capacity",
            paused=PAUSE,
            image_seconds=0.031,
            boot_seconds=42,
            policy="backlog",
        )
    ]


def test_changes_are_shown_a_few_times_a_second_and_an_unchanged_fleet_now_and_then() -> None:
    clock, shown = Clock(), Shown()
    board = SnapshotWriter(shown, clock)
    for visible in range(10):
        show(board, visible)
    assert len(shown.snapshots) == 1
    clock.now += MIN_SECONDS
    show(board, 10)
    assert shown.snapshots[-1].visible == 10
    clock.now += MIN_SECONDS
    show(board, 10)
    assert len(shown.snapshots) == 2
    clock.now += MAX_SECONDS
    show(board, 10)
    assert len(shown.snapshots) == 3


def test_a_run_that_is_over_is_kept_before_the_next_one_is_shown() -> None:
    clock, kept = Clock(), list[int]()

    class Checked(Shown):
        def put_fleet(self, snapshot: FleetSnapshot) -> None:
            assert snapshot.run is not None
            assert kept == list(range(1, snapshot.run.number))
            super().put_fleet(snapshot)

    shown, meter = Checked(), BillingMeter(60, None, clock, lambda: EPOCH, runs=Runs(clock=clock))
    board = SnapshotWriter(shown, clock, keep_run=lambda run: kept.append(run.number))
    for _ in range(3):
        for waiting, workers in ((5, 1), (0, 0)):
            clock.now += 10
            seen = Observation(QueueCounts(waiting, 0, 0), 0, (instance("i-1"),) * workers)
            meter.look(seen)
            board.show(seen, Plan(0, (), "enough", "because"), limits(), meter, None)
    assert kept == [1, 2]
    last = shown.snapshots[-1]
    assert last.run is not None
    assert (last.billed_seconds, last.run.number, last.run.billed_seconds, last.run.is_open) == (180, 3, 60, False)


def test_a_failed_look_is_shown_with_the_last_figures() -> None:
    clock, shown = Clock(), Shown()
    board = SnapshotWriter(shown, clock)
    board.show_problem("nothing was seen yet, so nothing is shown")
    show(board, 7)
    clock.now += MIN_SECONDS
    board.show_problem("EC2 does not answer")
    assert [(each.visible, each.problem) for each in shown.snapshots] == [(7, None), (7, "EC2 does not answer")]
