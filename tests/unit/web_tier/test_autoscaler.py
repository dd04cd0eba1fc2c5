"""One round of the autoscaler, and the settings that it reads in each round."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import cast, get_args

import pytest
import yaml
from botocore.exceptions import ClientError

from core.config import FleetSettings, load_config
from core.fleet.models import CircuitState, FleetSnapshot, LimitsOverride
from core.fleet.store import FleetStore
from core.ids import new_id
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Counts, Job
from core.jobs.store import JobStore
from services.demand_signal import DemandListener
from services.lease import Tenure
from tests.conftest import ROOT, shipped_values
from tests.support.autoscaler import (
    Clock,
    CommandStore,
    RecordingStore,
    counted_queue,
    flat_prices,
    fleet_settings,
    heartbeat,
)
from tests.support.clocks import PlayedClock
from tests.support.jobs import done, put_counts, record
from tests.support.memory_aws.calls import failing_writes, refusal, run_effect
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.ec2 import EPOCH, MemoryEC2
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.estimators import FAILED_MODEL_SECONDS
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.health import UnhealthyTerminator
from web_tier.autoscaler.later import LaterJobs
from web_tier.autoscaler.launch_journal import ControllerJournal
from web_tier.autoscaler.launcher import Launcher
from web_tier.autoscaler.liveness import InstanceTracker, WorkerRegistry
from web_tier.autoscaler.loop import REST_SECONDS, SIGNALLED_SECONDS, Autoscaler
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS, Observer, RecentLaunches
from web_tier.autoscaler.outstanding import OutstandingPacks
from web_tier.autoscaler.policies import POLICIES
from web_tier.autoscaler.reporting import FleetEvent, Reporter


class Listener(DemandListener):
    """A listener without a socket: each wait takes the whole time, or none after a signal."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("requests")
        self.clock, self.waits, self.signalled = clock, list[float](), False

    def listen(self) -> bool:
        return True

    def wait(self, seconds: float) -> bool:
        self.waits.append(round(seconds, 6))
        self.clock.now += 0 if self.signalled else seconds
        return self.signalled


class Bench:
    """An autoscaler over fakes of EC2 and SQS; its stores are tables in memory."""

    def __init__(
        self, tmp_path: Path, hourly: float = 0.0, before: FleetSnapshot | None = None, **settings: object
    ) -> None:
        self.clock, self.ec2, self.sqs = Clock(), MemoryEC2(), counted_queue(20)
        self.table, self.operators, self.store = MemoryTable(), CommandStore(), RecordingStore()
        launches, self.registry = RecentLaunches(self.clock), WorkerRegistry(self.clock)
        queue, fleet, clock = self.sqs.queue(), self.ec2.fleet(), PlayedClock(self.clock)
        journal, tracker = (
            ControllerJournal(FleetStore(self.table), "me", self.clock),
            InstanceTracker(self.registry),
        )
        self.autoscaler = Autoscaler(
            config=FleetConfigWatcher(tmp_path / "none.yaml", fleet_settings(**settings)),
            store=self.operators,
            observer=Observer(queue, queue, fleet, launches, OutstandingPacks(self.table, clock), clock),
            health=UnhealthyTerminator(fleet, tracker, 60, Tenure(), self.clock),
            launcher=Launcher(fleet, launches, journal, Tenure(), self.clock),
            meter=BillingMeter(flat_prices(hourly), before, clock=self.clock),
            reporter=Reporter(self.store, self.registry),
            later=LaterJobs(JobStore(self.table), self.clock),
            interval_seconds=0.1,
            signals=Listener(self.clock),
            on_outage=[self.set_outage],
        )
        self.signals = cast(Listener, self.autoscaler.signals)

    @property
    def shown(self) -> FleetSnapshot:
        """The last snapshot."""
        return self.store.snapshots[-1]

    @property
    def decisions(self) -> list[str]:
        """The words of the last decisions, newest first."""
        return [each.words for each in self.store.decisions().decisions]

    def set_outage(self, reason: str | None) -> None:
        """Keep what would be sent to operators."""
        self.outage = reason

    def open_job(self, counts: Counts) -> Job:
        """Open a job with these counts, and return it."""
        job = Job(new_id(), "batch", EPOCH)
        OpenJobs(self.table).reopen(job.job_id, EPOCH)
        put_counts(JobStore(self.table), job.job_id, counts)
        return job

    def tick(self) -> float:
        """Run the next round, a second later."""
        self.clock.now += 1
        return self.autoscaler.tick()


def test_each_round_decides_by_what_is_metered_and_committed_in_it(tmp_path: Path) -> None:
    """A worker is committed while it starts, and metered in the round that sees it running: never neither or both."""
    bench = Bench(tmp_path, hourly=0.36, images_per_worker=1, dollars_per_day=3.5 * 0.006)
    for _ in range(6):
        bench.tick()
    assert len(bench.ec2.alive()) == 3
    assert bench.shown.reason.startswith("the day's spending cap is reached")
    bench.ec2.states |= dict.fromkeys(bench.ec2.alive(), "running")
    for _ in range(6):
        bench.tick()
        spending = bench.shown.spending
        assert spending is not None
        assert spending.today + spending.committed == pytest.approx(3 * 0.006)
    assert bench.shown.cost == pytest.approx(3 * 0.006)
    assert len(bench.ec2.calls) == 1


def test_workers_that_end_between_two_rounds_are_billed_and_reach_the_cap(tmp_path: Path) -> None:
    bench, started = Bench(tmp_path, hourly=0.36, dollars_per_day=7.5 * 0.006), set[str]()
    for _ in range(400):
        bench.tick()
        started |= set(bench.ec2.alive())
        bench.ec2.states |= dict.fromkeys(bench.ec2.alive(), "terminated")
    assert len(started) == 7
    assert bench.shown.billed_seconds == 7 * 60
    assert bench.shown.reason.startswith("the day's spending cap is reached")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One with 23 images in the queue."""
    return Bench(tmp_path)


def test_workers_start_for_images_but_no_more_than_there_are_packs_to_receive(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_workers=40, launches_per_minute=40)
    bench.open_job(Counts(images=1_150, packs=23))
    bench.tick()
    shown = bench.shown
    assert (shown.visible, shown.in_flight, shown.delayed, shown.packs) == (1_000, 100, 50, 23)
    assert shown.reason == "starting 21 workers (0 → 21, limit 40): 1,150 images in 23 packs left, 20 per worker"


def test_a_worker_with_a_pack_is_busy_and_those_beside_it_are_not(bench: Bench) -> None:
    bench.tick()
    first, second = bench.ec2.alive()
    bench.registry.record([heartbeat(first), heartbeat(second, state="ready")])
    bench.sqs.others_visible = bench.sqs.others_delayed = 0
    bench.sqs.others_in_flight = 1
    job = bench.open_job(Counts(images=50, packs=1))
    for _ in range(11):
        bench.tick()
    assert bench.shown.in_flight == 50
    bench.registry.record([done(record(job)) for _ in range(50)])
    bench.tick()
    assert bench.shown.image_seconds == pytest.approx(11 / 50, rel=0.1), "worker-seconds of one, not of both"


@pytest.mark.parametrize("failing", ["queue", "commands", "journal"])
def test_a_round_that_cannot_read_its_state_launches_nothing_and_is_shown(bench: Bench, failing: str) -> None:
    error = refusal("InternalServerError", "Query")

    def fail(_when: str) -> None:
        raise error

    if failing == "queue":
        bench.sqs.errors["counts"] = [error]
    elif failing == "commands":
        bench.operators.error = error
    else:
        bench.table.call = failing_writes(fail)  # the journal of launches cannot be taken over
    with pytest.raises(ClientError):
        bench.tick()
    assert (bench.ec2.calls, bench.store.snapshots) == ([], [])
    bench.operators.error = None
    bench.table.call = run_effect
    assert bench.tick() == 0.1
    assert len(bench.ec2.alive()) == 2
    assert bench.shown.problem is None


@pytest.mark.parametrize(("loaded", "shown"), [((), ("b" * 64,)), (("b" * 64,), ())])
def test_a_model_that_workers_cannot_load_is_shown_unless_one_has_it(
    bench: Bench, loaded: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    bench.tick()
    first, second = bench.ec2.alive()
    failing = heartbeat(first).model_copy(update={"failed_model": "b" * 64})
    bench.registry.record([failing, heartbeat(second).model_copy(update={"models": loaded})])
    bench.tick()
    assert bench.shown.failed_models == shown
    end = {"state": "ended", "end": "idle", "at": failing.at + timedelta(seconds=1)}
    bench.registry.record([failing.model_copy(update=end)])
    bench.tick()
    assert bench.shown.failed_models == shown, "a worker that can load nothing ends soon"
    bench.clock.now += FAILED_MODEL_SECONDS
    bench.tick()
    assert bench.shown.failed_models == ()


def test_a_failed_launch_is_shown_with_its_reason_until_one_succeeds(bench: Bench) -> None:
    failures = ["InsufficientInstanceCapacity"] * 20
    bench.ec2.fail = lambda: failures.pop() if failures else None
    bench.tick()
    shown = [(bench.shown.launch_error, bench.shown.halt)]
    failures.clear()
    bench.clock.now += 600
    bench.tick()
    shown.append((bench.shown.launch_error, bench.shown.halt))
    error = "EC2 refuses launches: c7a.large: InsufficientInstanceCapacity"
    assert shown == [(error, "launches fail"), (None, None)]


def test_row_16_a_fleet_that_cannot_be_described_is_not_taken_for_none(bench: Bench) -> None:
    bench.tick()
    before = bench.ec2.alive()
    bench.clock.now += LAUNCH_VISIBLE_SECONDS
    bench.tick()  # describes both, and tracks their launch no longer
    bench.ec2.error, bench.sqs.others_visible = refusal("RequestLimitExceeded", "DescribeInstances"), 400
    with pytest.raises(ClientError):
        bench.tick()
    assert (bench.ec2.alive(), len(bench.ec2.calls)) == (before, 1)
    assert bench.shown.running + bench.shown.pending == len(before) == 2
    assert "could not be observed" in str(bench.shown.problem)
    assert bench.outage == bench.shown.problem
    bench.ec2.error = None
    bench.tick()
    assert (bench.shown.problem, bench.outage) == (None, None)


def test_row_61_an_open_circuit_is_shown_and_outlives_its_controller(bench: Bench, tmp_path: Path) -> None:
    reason = "access denied for PutObject"
    bench.sqs.others_visible = 400
    bench.tick()
    dead = heartbeat("i-0", state="ended").model_copy(update={"end": "failed", "reason": reason})
    bench.registry.record([dead.model_copy(update={"worker": each}) for each in bench.ec2.alive()])
    bench.tick()
    assert (bench.shown.circuit.state, bench.shown.circuit.reason) == (CircuitState.HALF_OPEN, reason)
    problem = f"workers end without an answer, so one at a time starts until one answers: {reason}"
    assert (bench.shown.problem, bench.outage, bench.decisions[0]) == (problem, problem, problem)
    successor = Bench(tmp_path, before=bench.shown)
    successor.sqs.others_visible = 400
    successor.tick()
    assert (len(successor.ec2.alive()), successor.shown.problem) == (1, problem)


def test_a_fleet_at_rest_waits_for_a_demand_signal(bench: Bench) -> None:
    bench.sqs.others_visible = bench.sqs.others_in_flight = bench.sqs.others_delayed = 0
    assert (bench.tick(), bench.signals.waits) == (0, [REST_SECONDS])
    bench.signals.signalled = True
    assert (bench.tick(), len(bench.signals.waits)) == (0.1, 2)
    # SQS may count the messages later, and a program that signals all the time does not shorten the interval.
    bench.clock.now -= 1
    for _ in range(4):
        assert (bench.tick(), len(bench.signals.waits)) == (0.1, 2)
    bench.clock.now += SIGNALLED_SECONDS
    assert (bench.tick(), len(bench.signals.waits)) == (0.1, 3)


@pytest.mark.parametrize("what", ["visible", "in_flight", "delayed", "workers", "minimum", "no signals", "interval"])
def test_a_fleet_that_is_not_at_rest_has_its_next_round_after_the_interval(bench: Bench, what: str) -> None:
    bench.sqs.others_visible = bench.sqs.others_in_flight = bench.sqs.others_delayed = 0
    if what == "workers":
        bench.ec2.states["i-1"] = "running"
    elif what == "minimum":
        bench.autoscaler.config.fleet = fleet_settings(min_workers=1)
    elif what == "no signals":
        bench.autoscaler.signals = None
    elif what == "interval":
        bench.autoscaler.interval_seconds = REST_SECONDS
    else:
        setattr(bench.sqs, f"others_{what}", 1)
    assert (bench.tick(), bench.signals.waits) == (bench.autoscaler.interval_seconds, [])


def test_problems_of_a_launch_and_of_the_configuration_are_shown_together(bench: Bench, tmp_path: Path) -> None:
    bench.autoscaler.config.path.write_text("fleet: [")
    bench.ec2.room = 0
    bench.tick()
    problem = str(bench.shown.problem)
    assert "InsufficientInstanceCapacity" in problem
    assert "InsufficientInstanceCapacity" in str(bench.outage), "no worker runs and images wait"
    assert "the last good limits stay in force until config.yaml is corrected" in problem
    assert bench.shown.max_workers == 19


def test_when_a_launch_is_tried_next_is_shown_and_no_decision(bench: Bench) -> None:
    bench.ec2.room = 0
    bench.tick()
    problem = "EC2 refuses launches: c7a.large: InsufficientInstanceCapacity"
    assert str(bench.shown.problem).startswith(f"{problem}; next try in ")
    for _ in range(60):
        bench.tick()
    assert bench.decisions.count(problem) == 1
    bench.ec2.room = 100
    for _ in range(31):
        bench.tick()
    assert bench.shown.problem is None


def write_settings(path: Path, **fleet: object) -> None:
    values = shipped_values()
    values["fleet"] |= fleet
    path.write_text(yaml.safe_dump(values))


@pytest.fixture
def watcher(tmp_path: Path) -> FleetConfigWatcher:
    path = tmp_path / "config.yaml"
    write_settings(path)
    return FleetConfigWatcher(path, load_config(path, {}).fleet, load=lambda changed: load_config(changed, {}))


@pytest.mark.parametrize(
    "broken", ["fleet: {max_workers: [", "", "fleet: {max_workers: -1}", "no such: key", "\x00", "fleet: 3", None]
)
def test_a_broken_or_missing_file_changes_nothing_and_is_logged_once(
    watcher: FleetConfigWatcher, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    caplog.set_level(logging.INFO)
    watcher.path.unlink() if broken is None else watcher.path.write_text(broken)
    assert [watcher.current().max_workers for _ in range(3)] == [19] * 3
    assert "the last good limits stay in force until config.yaml is corrected" in str(watcher.problem)
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    assert watcher.current(ORDER).max_workers == 5
    watcher.drain_events()
    write_settings(watcher.path)
    assert watcher.current().max_workers == 19
    assert (watcher.problem, len(watcher.drain_events())) == (None, 1), "only the limits have changed"
    write_settings(watcher.path, max_workers=7)
    assert watcher.current().max_workers == 7
    assert "max_workers 19 -> 7" in caplog.text


ORDER = LimitsOverride(min_workers=1, max_workers=5, since=EPOCH, reason="budget")


def test_operator_limits_replace_configured_ones_and_each_change_is_shown_once(
    watcher: FleetConfigWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        assert (watcher.current(ORDER).min_workers, watcher.current(ORDER).max_workers) == (1, 5)
    assert caplog.messages == ["the fleet's limits were set by ops: min_workers 0 -> 1, max_workers 19 -> 5"]
    words = "limits 1..5, set by ops at 00:00 UTC (budget); config.yaml says 0..19"
    assert watcher.drain_events() == [FleetEvent(words, EPOCH)]
    for _ in range(3):
        assert watcher.current().max_workers == 19
    assert caplog.messages[1:] == [
        "the fleet's limits were taken back by ops: min_workers 1 -> 0, max_workers 5 -> 19"
    ]
    assert watcher.drain_events() == [FleetEvent("limits 0..19 again, as config.yaml says")]


def test_other_changes_of_the_file_take_effect_under_limits_of_operators_too(watcher: FleetConfigWatcher) -> None:
    watcher.current(ORDER)
    write_settings(watcher.path, max_workers=300, images_per_worker=7)
    fleet = watcher.current(ORDER)
    assert (fleet.max_workers, fleet.images_per_worker, watcher.configured.max_workers) == (5, 7, 300)
    assert "max_workers 19 -> 300" in watcher.drain_events()[-1].words
    assert watcher.current().max_workers == 300


def test_every_policy_of_the_configuration_has_a_function_and_a_comment() -> None:
    names = set(get_args(FleetSettings.model_fields["policy"].annotation))
    assert names == POLICIES.keys()
    comments = (ROOT / "config.yaml").read_text()
    assert [name for name in names if f"\n  # {name}: " not in comments] == []


def run_until_drained(bench: Bench, *, rounds: int = 60, ended: str = "terminated", images: int = 0) -> list[str]:
    """Run rounds, in which each worker reports and a drained one ends; return the ids that were drained."""
    for _ in range(rounds):
        for key in bench.ec2.alive():
            bench.ec2.states[key] = ended if key in bench.ec2.drained else "running"
        bench.registry.record([heartbeat(key, images) for key in bench.ec2.alive()])
        bench.tick()
    return list(dict.fromkeys(bench.ec2.drained))


def test_workers_are_replaced_after_the_default_version_of_their_template_has_changed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_workers=2, max_workers=3, launch_template="worker")
    assert run_until_drained(bench) == []
    first = bench.ec2.alive()
    bench.ec2.default_version = 2
    assert run_until_drained(bench, rounds=120) == first
    assert {bench.ec2.versions[key] for key in bench.ec2.alive()} == {2}


def test_no_worker_is_replaced_by_a_version_that_was_read_once_or_cannot_be_read(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_workers=2, max_workers=3, launch_template="worker")
    run_until_drained(bench)
    bench.ec2.default_version = 2
    run_until_drained(bench, rounds=16)
    bench.ec2.default_version = 1
    assert run_until_drained(bench) == [], "another reply showed the former version"
    bench.ec2.default_version, bench.ec2.refuses = 2, True
    run_until_drained(bench)
    assert not any("draining" in each for each in bench.decisions)
    bench.ec2.refuses = False
    assert len(run_until_drained(bench, rounds=120)) == 2


def test_a_fleet_that_lacks_workers_is_replaced_and_loses_one_at_most(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_workers=6, max_workers=8, launch_template="worker")
    bench.ec2.room = 4  # such as a quota
    assert run_until_drained(bench, images=1) == []
    first = bench.ec2.alive()
    bench.ec2.default_version = 2
    assert run_until_drained(bench, rounds=600, images=1) == first
    assert [bench.ec2.versions[key] for key in bench.ec2.alive()] == [2] * 4
    bench.ec2.default_version, bench.ec2.room = 3, 0
    run_until_drained(bench, rounds=600, images=1)
    assert [bench.ec2.versions[key] for key in bench.ec2.alive()] == [2] * 3, "no other can take its place"


def test_a_default_version_that_cannot_be_read_is_shown_until_it_can(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_workers=2, max_workers=3, launch_template="worker")
    bench.ec2.refuses = True
    run_until_drained(bench, rounds=300)
    assert "the default version of the launch template worker is unknown" in str(bench.shown.problem)
    bench.ec2.refuses = False
    run_until_drained(bench, rounds=61)
    assert bench.shown.problem is None


def test_a_worker_of_an_earlier_version_that_stops_is_terminated_and_not_started_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_workers=2, max_workers=3, launch_template="worker", scale_in="stop")
    run_until_drained(bench)
    bench.ec2.default_version = 2
    old = run_until_drained(bench, rounds=120, ended="stopped")
    assert sorted(key for call in bench.ec2.terminated for key in call) == sorted(old)
    assert not bench.ec2.starts


def test_a_worker_of_an_earlier_version_that_may_have_started_is_not_terminated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, min_workers=1, max_workers=1, launch_template="worker", scale_in="stop")
    run_until_drained(bench)
    [worker] = bench.ec2.alive()
    bench.ec2.states[worker] = bench.ec2.stale[worker] = "stopped"
    bench.ec2.fail = lambda: "lost"
    bench.tick()
    assert bench.ec2.alive() == [worker]
    bench.ec2.default_version = 2
    for _ in range(40):
        bench.tick()
    assert bench.ec2.terminated == []
