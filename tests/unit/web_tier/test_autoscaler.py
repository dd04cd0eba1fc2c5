"""The autoscaler's round: a failed observation decides nothing and is shown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError

from core.fleet.models import FleetPause, LimitsOverride, WorkerLimits
from core.fleet.store import Commands, FleetStore
from services.metadata import PROTECTED_TAG
from services.sqs import Queue
from tests.support.autoscaler import (
    EPOCH,
    Clock,
    CommandStore,
    FakeEC2,
    FakeSQS,
    RecordingStore,
    fleet_settings,
    heartbeat,
    refusal,
)
from tests.support.jobs import client_error
from tests.support.memory_table import MemoryTable, failing_writes, run_effect
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.drain import DrainCommands, Drainer, OperatorCommands, ScaleInProtection
from web_tier.autoscaler.estimators import (
    ArrivalRateEstimator,
    BootTimeEstimator,
    MetricsCollector,
    ThroughputEstimator,
)
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.health import UnhealthyTerminator
from web_tier.autoscaler.launch_journal import Journal
from web_tier.autoscaler.launcher import Launcher
from web_tier.autoscaler.liveness import InstanceTracker, WorkerRegistry
from web_tier.autoscaler.loop import Autoscaler
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS, Observer, RecentLaunches
from web_tier.autoscaler.reporting import Reporter


class Bench:
    """An autoscaler over fakes of EC2 and SQS; its stores are tables in memory."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock, self.ec2, self.sqs = Clock(), FakeEC2(), FakeSQS(20)
        self.table, self.operators, self.store = MemoryTable(), CommandStore(), RecordingStore()
        launches, registry = RecentLaunches(self.clock), WorkerRegistry(self.clock)
        self.registry, tracker = registry, InstanceTracker(registry, self.clock)
        queue = Queue(cast(Any, self.sqs), "requests")
        meter = BillingMeter(60, lambda _: 0.0, clock=self.clock)
        commands = OperatorCommands(self.operators, self.clock)
        drainer = Drainer(self.ec2.fleet(), lambda: True, self.clock)
        self.autoscaler = Autoscaler(
            config=FleetConfigWatcher(tmp_path / "none.yaml", fleet_settings()),
            commands=commands,
            observer=Observer(queue, queue, self.ec2.fleet(), launches, self.clock),
            launcher=Launcher(
                self.ec2.fleet(),
                launches,
                Journal(FleetStore(self.table), "me", self.clock),
                lambda: True,
                self.clock,
            ),
            drainer=drainer,
            protection=ScaleInProtection(self.ec2.fleet(), lambda: True, self.clock),
            health=UnhealthyTerminator(self.ec2.fleet(), tracker, 60, lambda: True, self.clock),
            meter=meter,
            arrivals=ArrivalRateEstimator(self.clock),
            metrics=MetricsCollector(
                registry, meter, BootTimeEstimator(clock=self.clock), ThroughputEstimator(clock=self.clock), tracker
            ),
            drain_commands=DrainCommands(commands, drainer, self.clock),
            reporter=Reporter.continuing(self.store, registry, self.clock),
            interval_seconds=0.1,
        )

    def tick(self) -> float:
        """Run the next round, a second later."""
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
    assert "could not be observed" in str(bench.store.snapshots[-1].problem)
    bench.sqs.error = None
    bench.tick()
    assert bench.store.snapshots[-1].problem is None


def test_row_16_a_fleet_that_cannot_be_described_is_not_taken_for_none(bench: Bench) -> None:
    bench.tick()
    before = bench.ec2.alive()
    bench.clock.now += LAUNCH_VISIBLE_SECONDS
    bench.tick()  # sees both, and remembers their launch no more
    bench.ec2.error, bench.sqs.visible = refusal("RequestLimitExceeded", "DescribeInstances"), 400
    with pytest.raises(ClientError):
        bench.tick()
    assert (bench.ec2.alive(), len(bench.ec2.calls)) == (before, 1)
    told = bench.store.snapshots[-1]
    assert told.running + told.pending == len(before) == 2
    assert "could not be observed" in str(told.problem)
    bench.ec2.error = None
    bench.tick()
    assert bench.store.snapshots[-1].problem is None


def test_a_paused_fleet_launches_nothing_until_it_is_resumed(bench: Bench) -> None:
    bench.operators.stored = Commands(pause=FleetPause(since=EPOCH))
    bench.tick()
    assert bench.ec2.alive() == []
    assert bench.store.snapshots[-1].paused == bench.operators.stored.pause
    assert bench.store.snapshots[-1].reason.startswith("paused by ops since 00:00 UTC: 21 images waiting")
    bench.operators.stored = Commands()
    bench.tick()
    assert len(bench.ec2.alive()) == 2
    assert bench.store.snapshots[-1].paused is None


def test_when_it_is_not_known_whether_the_fleet_is_paused_nothing_is_launched(bench: Bench) -> None:
    bench.operators.error = refusal("InternalServerError", "Query")
    with pytest.raises(ClientError):
        bench.tick()
    assert bench.ec2.alive() == []


def test_instances_and_decisions_are_told(bench: Bench) -> None:
    bench.tick()
    bench.tick()
    assert [each.instance_id for each in bench.store.instances().instances] == ["i-1", "i-0"]
    [decision] = bench.store.decisions().decisions
    assert decision.words.startswith("starting 2 of at most 19")


LIMITS = LimitsOverride(min_workers=0, max_workers=1, since=EPOCH, reason="budget")


def test_limits_that_ops_set_hold_until_they_are_taken_back(bench: Bench) -> None:
    bench.operators.stored = Commands(limits=LIMITS)
    bench.tick()
    assert len(bench.ec2.alive()) == 1
    shown = bench.store.snapshots[-1]
    assert (shown.max_workers, shown.limits_order) == (1, LIMITS)
    assert shown.configured == WorkerLimits(min_workers=0, max_workers=19)
    words = "limits 0..1, set by ops at 00:00 UTC (budget); config.yaml says 0..19"
    assert [each.words for each in bench.store.decisions().decisions][-1] == words
    bench.operators.stored = Commands()
    bench.tick()
    assert len(bench.ec2.alive()) == 2
    assert (bench.store.snapshots[-1].max_workers, bench.store.snapshots[-1].limits_order) == (19, None)


def test_an_instance_that_ops_ask_to_drain_is_asked_and_replaced_while_it_is_needed(bench: Bench) -> None:
    bench.tick()
    bench.operators.stored = Commands(drain=("i-0",))
    bench.tick()
    bench.tick()
    assert bench.ec2.drained == ["i-0"]
    assert bench.operators.stored.drain == ()
    assert bench.ec2.alive() == ["i-0", "i-1", "i-2"]


def test_a_drain_command_that_cannot_be_deleted_delays_no_snapshot(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.tick()
    bench.operators.stored = Commands(drain=("i-0",))
    bench.tick()
    before = len(bench.store.snapshots)

    def delete_drains(_instance_ids: Sequence[str]) -> None:
        raise client_error(503)

    monkeypatch.setattr(bench.operators, "delete_drains", delete_drains)
    with pytest.raises(ClientError):
        bench.tick()
    assert len(bench.store.snapshots) == before + 1


def test_what_is_wrong_with_a_launch_and_with_the_configuration_is_shown_together(
    bench: Bench, tmp_path: Path
) -> None:
    bench.autoscaler.config.path.write_text("fleet: [")
    bench.ec2.room = 0
    bench.tick()
    problem = str(bench.store.snapshots[-1].problem)
    assert "InsufficientInstanceCapacity" in problem
    assert "the last good limits stay in force" in problem
    assert bench.store.snapshots[-1].max_workers == 19


def test_an_instance_that_is_never_heard_of_is_replaced_ended_and_told(bench: Bench) -> None:
    bench.tick()
    assert bench.ec2.alive() == ["i-0", "i-1"]
    bench.ec2.consoles["i-0"] = "no disk"

    def live(seconds: int) -> None:
        for _ in range(seconds):
            bench.registry.record([heartbeat("i-1"), heartbeat("i-2")])
            bench.registry.mark_read_until(bench.clock.now)
            bench.tick()

    live(122)
    assert bench.ec2.alive() == ["i-0", "i-1", "i-2"], "replaced at once"
    told = {each.instance_id: each.marked for each in bench.store.instances().instances}
    assert told["i-0"] == "no heartbeat within 2 min of its launch: checked again, then terminated"
    assert told["i-1"] is None
    live(20)
    assert bench.ec2.alive() == ["i-1", "i-2"]
    reason = "no heartbeat within 2 min of its launch"
    event = f"terminated i-0: {reason}, confirmed by a second check; its console ends: no disk"
    assert event in [each.words for each in bench.store.decisions().decisions]


def test_workers_of_the_minimum_are_asked_to_stay_and_let_go_when_it_is_lowered(bench: Bench) -> None:
    bench.sqs.visible = 0
    bench.operators.stored = Commands(limits=LimitsOverride(min_workers=2, max_workers=3, since=EPOCH))
    for _ in range(3):
        bench.tick()
    assert bench.ec2.tags == {"i-0": {PROTECTED_TAG}, "i-1": {PROTECTED_TAG}}
    bench.operators.stored = Commands(limits=LimitsOverride(min_workers=1, max_workers=3, since=EPOCH))
    for _ in range(3):
        bench.tick()
    assert bench.ec2.tags == {"i-0": {PROTECTED_TAG}, "i-1": set()}


def test_when_a_launch_is_tried_next_is_shown_and_no_decision(bench: Bench) -> None:
    bench.ec2.room = 0
    bench.tick()
    problem = "EC2 has no room for workers: c7a.large: InsufficientInstanceCapacity"
    assert str(bench.store.snapshots[-1].problem).startswith(f"{problem}; next try in ")
    for _ in range(60):
        bench.tick()
    assert [each.words for each in bench.store.decisions().decisions].count(problem) == 1
    bench.ec2.room = 100
    for _ in range(31):
        bench.tick()
    assert bench.store.snapshots[-1].problem is None


def test_before_the_journal_of_launches_has_been_taken_over_nothing_is_launched(bench: Bench) -> None:
    def fail(_when: str) -> None:
        raise refusal("InternalServerError", "PutItem")

    bench.table.call = failing_writes(fail)
    with pytest.raises(ClientError):
        bench.tick()
    assert bench.ec2.calls == []
    bench.table.call = run_effect
    bench.tick()
    assert len(bench.ec2.alive()) == 2


def test_a_look_is_told_in_the_log_and_a_failed_one_is_not(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        bench.sqs.error = refusal("InternalError", "GetQueueAttributes")
        with pytest.raises(ClientError):
            bench.tick()
        assert "fleet" not in caplog.messages
        bench.sqs.error = None
        bench.tick()
        bench.tick()
    assert caplog.messages.count("fleet") == 1
