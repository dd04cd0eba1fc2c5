"""One round: a failed look decides nothing, and is shown."""

from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from services.fleet_store import FleetStore
from services.messages import FleetPause
from services.sqs import Queue
from tests.unit.web_tier.controller.autoscaler.test_board import Shown
from tests.unit.web_tier.controller.autoscaler.test_decide import limits
from tests.unit.web_tier.controller.autoscaler.test_observe import FakeSQS
from tests.unit.web_tier.controller.autoscaler.test_pause import Store as PauseStore
from tests.unit.web_tier.controller.fakes import EPOCH, Clock, FakeEC2, MemoryTable, refusal
from web_tier.controller.autoscaler.apply import Launcher
from web_tier.controller.autoscaler.autoscaler import Autoscaler
from web_tier.controller.autoscaler.board import Board
from web_tier.controller.autoscaler.boots import Boots
from web_tier.controller.autoscaler.chronicle import Chronicle
from web_tier.controller.autoscaler.demand import Arrivals
from web_tier.controller.autoscaler.drain import Drainer
from web_tier.controller.autoscaler.measures import Measures
from web_tier.controller.autoscaler.meter import Meter
from web_tier.controller.autoscaler.observe import Observer, RecentLaunches
from web_tier.controller.autoscaler.pace import Pace
from web_tier.controller.autoscaler.pause import PauseWatch
from web_tier.controller.limits import FleetLimits
from web_tier.controller.roster import Roster


class Bench:
    """An autoscaler over a fleet and a queue of fakes; its store is a table in memory."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock, self.ec2, self.sqs, self.shown = Clock(), FakeEC2(), FakeSQS(20), Shown()
        self.pause, self.fleet = PauseStore(), FleetStore(MemoryTable())
        launches, roster = RecentLaunches(self.clock), Roster(self.clock)
        queue = Queue(cast(Any, self.sqs), "requests")
        meter = Meter(60, clock=self.clock)
        self.autoscaler = Autoscaler(
            limits=FleetLimits(tmp_path / "none.yaml", limits()),
            observer=Observer(queue, queue, self.ec2.fleet(), launches, self.clock),
            launcher=Launcher(self.ec2.fleet(), launches, "holder", lambda: True, self.clock),
            drainer=Drainer(self.ec2.fleet(), lambda: True, self.clock),
            meter=meter,
            arrivals=Arrivals(self.clock),
            measures=Measures(roster, meter, Boots(clock=self.clock), Pace(clock=self.clock)),
            pause=PauseWatch(self.pause, self.clock),
            board=Board(self.shown, self.clock),
            chronicle=Chronicle.continuing(self.fleet, roster),
            interval_seconds=0.1,
        )

    def tick(self) -> float:
        """Look again, a second later."""
        self.clock.now += 1
        return self.autoscaler.tick()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One with 23 images in the queue."""
    return Bench(tmp_path)


def test_a_failed_look_launches_nothing_and_is_shown_until_the_next_succeeds(bench: Bench) -> None:
    assert bench.tick() == 0.1
    assert len(bench.ec2.alive()) == 2
    bench.ec2.states.clear()
    bench.sqs.error, bench.sqs.visible = refusal("InternalError", "GetQueueAttributes"), 400
    with pytest.raises(ClientError):
        bench.tick()
    assert bench.ec2.alive() == []
    assert "could not be observed" in str(bench.shown.snapshots[-1].problem)
    bench.sqs.error = None
    bench.tick()
    assert bench.shown.snapshots[-1].problem is None


def test_a_paused_fleet_launches_nothing_until_it_is_resumed(bench: Bench) -> None:
    bench.pause.pause = FleetPause(since=EPOCH)
    bench.tick()
    assert bench.ec2.alive() == []
    assert bench.shown.snapshots[-1].paused == bench.pause.pause
    assert bench.shown.snapshots[-1].reason.startswith("paused by ops since 00:00 UTC: 21 images waiting")
    bench.pause.pause = None
    bench.tick()
    assert len(bench.ec2.alive()) == 2
    assert bench.shown.snapshots[-1].paused is None


def test_when_it_is_not_known_whether_the_fleet_is_paused_nothing_is_launched(bench: Bench) -> None:
    bench.pause.error = refusal("InternalServerError", "GetItem")
    with pytest.raises(ClientError):
        bench.tick()
    assert bench.ec2.alive() == []


def test_instances_and_decisions_are_told(bench: Bench) -> None:
    bench.tick()
    bench.tick()
    assert [each.instance_id for each in bench.fleet.instances().instances] == ["i-1", "i-0"]
    [decision] = bench.fleet.decisions().decisions
    assert decision.words.startswith("starting 2 of at most 19")
