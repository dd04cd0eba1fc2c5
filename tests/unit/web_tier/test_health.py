"""Instance health: heartbeats, the records of instances, which instances are unhealthy, and their termination."""

import logging
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.fleet.models import FleetInstance
from core.ids import new_id
from core.messages import ClassificationResult, WorkerState
from services.backoff import Backoff
from services.lease import Tenure
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, fleet_settings, heartbeat, instance
from tests.support.clocks import PlayedClock
from tests.support.memory_aws.ec2 import EPOCH, MemoryEC2
from web_tier.autoscaler.health import (
    DRAIN_GRACE_SECONDS,
    MAX_CONSOLE_CHARACTERS,
    MAX_INSTANCES_PER_CALL,
    REPEAT_SECONDS,
    SECOND_CHECK_SECONDS,
    UnhealthyTerminator,
)
from web_tier.autoscaler.liveness import ENDED_SECONDS, InstanceRecord, InstanceTracker, WorkerRegistry
from web_tier.autoscaler.observe import Observation

ALLOWANCE, SILENT, DRAIN = 120, 60, 30.0
SETTINGS = fleet_settings(boot_allowance_seconds=ALLOWANCE, silent_seconds=SILENT)
IMPATIENT = fleet_settings(boot_allowance_seconds=ALLOWANCE, silent_seconds=30)
"""The shortest silence that a configuration may have."""


class Scene:
    """Instances under a clock; the collector reads every heartbeat at once unless it is `down`."""

    def __init__(self) -> None:
        self.clock, self.down = Clock(), False
        self.registry = WorkerRegistry(PlayedClock(self.clock, self.now))
        self.tracker = InstanceTracker(self.registry)

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.clock.now)

    def beat(self, worker: str, state: WorkerState = "busy") -> None:
        """Record a heartbeat of a worker."""
        at = EPOCH + timedelta(seconds=self.clock.now)
        self.registry.record([heartbeat(worker, state=state).model_copy(update={"at": at})])

    def observe(self, *draining: str, **states: str) -> dict[str, InstanceRecord]:
        """Update the tracker with instances in these states a second later: `observe(a="running")`."""
        self.clock.now += 1
        if not self.down:
            self.registry.mark_read_until(self.clock.now)
        return dict(self.tracker.update(described(**states), frozenset(draining)))

    def wait(self, seconds: int, **states: str) -> dict[str, InstanceRecord]:
        """Observe the same for so long."""
        for _ in range(seconds):
            self.observe(**states)
        return self.observe(**states)


def described(**states: str) -> Observation:
    """Instances in these states; `launching` ones are described as stopped, `launched` ones not at all."""
    there = tuple(
        instance(key, "stopped" if state == "launching" else state)
        for key, state in states.items()
        if state != "launched"
    )
    launching = frozenset(key for key, state in states.items() if state in {"launching", "launched"})
    return Observation(QueueCounts(0, 0, 0), 0, there, launching)


@pytest.fixture
def scene() -> Scene:
    """A tracker of a controller that began with an empty fleet."""
    scene = Scene()
    scene.observe()
    return scene


def test_a_new_controller_knows_the_age_of_instances_and_restarts_their_allowance() -> None:
    scene = Scene()
    record = scene.observe(a="running")["a"]
    assert (record.first_seen_at, record.launched_at) == (1001, 0)


def test_heartbeats_from_before_a_restart_do_not_count(scene: Scene) -> None:
    scene.beat("a", "ended")
    scene.observe(a="stopped")
    record = scene.observe(a="launching")["a"]
    assert (record.last_heartbeat_at, record.first_seen_at) == (None, 1003)
    assert scene.observe(a="stopped")["a"].missing_since is not None
    assert scene.observe(a="launching")["a"].first_seen_at == 1005
    assert scene.observe(a="pending")["a"].first_seen_at == 1005, "it is the same run"
    scene.beat("a")
    assert scene.observe(a="running")["a"].last_heartbeat_at == 1006


def test_each_run_of_a_stopped_instance_is_a_run_of_its_own(scene: Scene) -> None:
    runs = []
    for _ in range(3):
        scene.observe(a="launching")
        runs += scene.tracker.ended
        scene.observe(a="running")
        scene.observe(a="stopped")
    scene.wait(4, a="stopped")
    for _ in range(3):
        scene.observe(a="stopped")
        runs += scene.tracker.ended
    assert [(run.last_heartbeat_at, run.missing_since is not None) for run in runs] == [(None, True)] * 3


def test_instances_past_their_lifetime_are_listed_oldest_first() -> None:
    scene = Scene()
    scene.observe(a="running")
    scene.observe(a="running", b="running")
    scene.wait(97, a="running", b="running", c="running")
    assert scene.tracker.past_lifetime(98) == ("a", "b")
    assert scene.tracker.past_lifetime(0) == ()


def answer(worker: str) -> ClassificationResult:
    return ClassificationResult(
        job_id=new_id(), image_id=new_id(), status="done", label="cat", score=1, worker=worker, attempts=1
    )


def registry(clock: Clock | None = None, max_workers: int = 5) -> WorkerRegistry:
    ticking = clock or Clock()
    return WorkerRegistry(ticking, max_workers)


def test_a_worker_is_known_by_its_heartbeats_and_by_its_answers() -> None:
    clock = Clock(100)
    known = registry(clock)
    known.record([heartbeat("i-1", images=7), answer("i-2")])
    clock.now = 130
    known.record([answer("i-1")])
    first, second = (known.statuses()[worker] for worker in ("i-1", "i-2"))
    assert (first.images, first.state, first.in_flight, first.images_per_second) == (8, "busy", 2, 2.4)
    assert (first.first_heartbeat_at, first.last_heartbeat_at) == (100, 130)
    assert first.seen_at == EPOCH + timedelta(seconds=130)
    assert (second.images, second.state) == (1, None)
    assert known.answers == 2
    known.record([heartbeat("i-1", images=1)])
    assert known.statuses()["i-1"].images == 8, "a heartbeat that counts fewer images than were answered"


def test_an_ended_worker_is_evicted_after_a_while() -> None:
    clock = Clock()
    known = registry(clock)
    known.record([heartbeat("i-1"), heartbeat("i-2"), heartbeat("i-1", state="ended")])
    assert (known.statuses()["i-1"].state, known.active()) == ("ended", 1)
    clock.now += ENDED_SECONDS + 1
    known.record([heartbeat("i-2")])
    assert known.statuses().keys() == {"i-2"}


def test_a_late_heartbeat_does_not_erase_the_end_of_a_worker_that_answered_nothing() -> None:
    known = registry()
    end = heartbeat("i-1", state="ended").model_copy(
        update={"at": EPOCH + timedelta(milliseconds=5), "end": "failed", "reason": "no room"}
    )
    known.record([end, heartbeat("i-1", state="ready")])
    status = known.statuses()["i-1"]
    assert (status.state, status.end, status.end_reason) == ("ended", "failed", "no room")


def test_a_worker_of_a_restarted_instance_begins_again() -> None:
    clock = Clock(100)
    known = registry(clock)
    known.record([heartbeat("i-1", images=7, state="ended")])
    clock.now = 130
    later = EPOCH + timedelta(seconds=30)
    known.record([heartbeat("i-1", images=0, state="ready").model_copy(update={"at": later})])
    status = known.statuses()["i-1"]
    assert (status.state, status.images, status.first_heartbeat_at) == ("ready", 0, 130)


def test_of_too_many_workers_those_that_reported_last_stay() -> None:
    known = registry(max_workers=3)
    known.record([heartbeat(f"i-{number}") for number in range(4)])
    known.record([heartbeat("i-1"), heartbeat("i-4")])
    assert known.statuses().keys() == {"i-3", "i-1", "i-4"}


def test_a_new_controller_adopts_the_statuses_that_were_stored() -> None:
    stored = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=EPOCH,
        worker="busy", images=40, in_hand=3, heard_at=EPOCH,
    )  # fmt: skip
    known = registry()
    known.adopt([stored, stored.model_copy(update={"instance_id": "i-2", "heard_at": None})])
    assert known.statuses().keys() == {"i-1"}
    known.record([answer("i-1")])
    status = known.statuses()["i-1"]
    assert (status.images, status.first_heartbeat_at, known.active()) == (41, None, 1)


class HealthScene(Scene):
    """A terminator over a simulated EC2; its instances run from the beginning."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.ec2, self.is_active = MemoryEC2(), True
        self.ec2.states |= dict.fromkeys(names, "running")
        self.drained: set[str] = set()
        tenure = Tenure(active=lambda: self.is_active)
        self.health = UnhealthyTerminator(self.ec2.fleet(), self.tracker, DRAIN, tenure, self.clock)
        self.health.backoff = Backoff(first_seconds=1.0, max_seconds=30.0, uniform=lambda _low, high: high)

    def check(self, seconds: int = 1, *working: str) -> frozenset[str]:
        """Check each second for so long, while these workers report every ten; return the unhealthy instances."""
        unhealthy: frozenset[str] = frozenset()
        for _ in range(seconds):
            if not int(self.clock.now) % 10:
                for worker in working:
                    self.beat(worker)
            self.clock.now += 1
            if not self.down:
                self.registry.mark_read_until(self.clock.now)
            states = {each.instance_id: each.state for each in self.ec2.fleet().instances()}
            unhealthy = self.health.check(described(**states), frozenset(self.drained), SETTINGS)
            self.health.terminate_confirmed()
        return unhealthy

    @property
    def ended(self) -> list[str]:
        """The instances that were terminated, in order."""
        return [key for call in self.ec2.terminated for key in call]


def test_one_that_falls_silent_is_ended() -> None:
    scene = HealthScene("a", "b")
    scene.check(300, "a", "b")
    assert scene.check(SILENT + 1, "b") == {"a"}
    assert scene.health.reasons()["a"].startswith("no heartbeat for 60 s")
    scene.check(int(SECOND_CHECK_SECONDS), "b")
    assert scene.ended == ["a"]


def test_an_instance_that_runs_on_after_its_worker_ended_is_terminated() -> None:
    scene = HealthScene("a")
    scene.check(300, "a")
    scene.beat("a", "ended")
    scene.check(SILENT + int(SECOND_CHECK_SECONDS) + 1)
    assert scene.ended == ["a"]
    assert [each.words for each in scene.health.drain_events()] == [
        "terminated a: its worker ended 60 s ago but the instance still runs, confirmed by a second check"
    ]


def test_a_draining_instance_that_does_not_end_is_terminated_although_it_reports() -> None:
    scene = HealthScene("a")
    scene.check(10, "a")
    scene.drained.add("a")
    assert scene.check(int(DRAIN + DRAIN_GRACE_SECONDS), "a") == frozenset()
    assert scene.check(1, "a") == {"a"}
    assert scene.health.reasons() == {
        "a": "asked to drain 90 s ago but still running: checked again, then terminated"
    }
    scene.check(int(SECOND_CHECK_SECONDS), "a")
    assert scene.ended == ["a"]


def test_while_the_collector_is_down_nothing_is_silent_and_no_second_check_counts() -> None:
    scene = HealthScene("a", "b")
    scene.check(300, "a", "b")
    scene.down = True
    assert scene.check(600) == frozenset()
    scene.down = False
    assert scene.check() == frozenset(), "heartbeats of that time may be lost, or come with the next receive"
    scene.check(20, "a", "b")
    assert scene.check(SILENT + 1, "b") == {"a"}
    scene.down = True
    assert scene.check(600, "b") == {"a"}
    assert scene.ended == [], "there was no second check"


def test_stopping_and_stopped_instances_are_not_unhealthy() -> None:
    scene = HealthScene("a", "b", "c")
    scene.ec2.states |= {"a": "stopping", "b": "stopped", "c": "shutting-down"}
    assert scene.check(1_000) == frozenset()
    assert scene.ended == []


def test_the_log_and_not_the_event_has_the_end_of_the_console(caplog: pytest.LogCaptureFixture) -> None:
    scene = HealthScene("a", "b")
    scene.ec2.consoles["b"] = "x" * 10_000 + "\x1b[31mkernel panic\n\nno init\u202e <b>found</b>"
    with caplog.at_level(logging.WARNING):
        scene.check(ALLOWANCE + 1 + int(SECOND_CHECK_SECONDS))
    assert scene.ended == ["a", "b"]
    logged = [
        vars(record)["console"] for record in caplog.records if record.message == "terminated an unhealthy instance"
    ]
    assert (logged[0], len(logged[1]), logged[1][-5:]) == ("", MAX_CONSOLE_CHARACTERS, "d</b>")
    assert "the console could not be read" in caplog.text
    [event] = scene.health.drain_events()
    reason = "no heartbeat within 2 min of its launch"
    assert event.words == f"terminated a and 1 other: {reason}, confirmed by a second check"
    assert scene.health.drain_events() == []


def test_a_refused_termination_is_shown_and_retried() -> None:
    scene = HealthScene("a")
    scene.check(ALLOWANCE + int(SECOND_CHECK_SECONDS))
    scene.ec2.refuses = True
    scene.check(60)
    assert str(scene.health.last_error).startswith("a could not be terminated: ")
    scene.ec2.refuses = False
    scene.check(31)
    assert (scene.ended, scene.health.last_error) == (["a"], None)


def test_an_instance_that_cannot_be_terminated_delays_no_other() -> None:
    scene = HealthScene("a", "b", "c")
    scene.ec2.protected = {"a"}
    scene.check(ALLOWANCE + 200)
    assert sorted(scene.ended) == ["b", "c"]
    assert "a could not be terminated" in str(scene.health.last_error)


def test_instances_are_terminated_a_few_at_a_time() -> None:
    scene = HealthScene(*(f"i-{number:02}" for number in range(2 * MAX_INSTANCES_PER_CALL + 3)))
    scene.check(ALLOWANCE + 3 + int(SECOND_CHECK_SECONDS))
    assert [len(call) for call in scene.ec2.terminated] == [MAX_INSTANCES_PER_CALL, MAX_INSTANCES_PER_CALL, 3]


def test_an_instance_that_is_alive_long_after_its_termination_is_terminated_again() -> None:
    scene = HealthScene("a")
    scene.ec2.stale["a"] = "running"
    assert scene.check(ALLOWANCE + 1 + int(SECOND_CHECK_SECONDS) + int(REPEAT_SECONDS) - 1) == {"a"}
    assert scene.health.reasons()["a"].endswith("terminating")
    assert scene.ended == ["a"]
    scene.check(1)
    assert scene.ended == ["a", "a"]


def test_without_the_lease_nothing_is_terminated() -> None:
    scene = HealthScene("a")
    scene.is_active = False
    scene.check(ALLOWANCE + 100)
    assert scene.ended == []

    def freeze(InstanceId: str, Latest: bool) -> dict[str, str]:  # noqa: N803 (EC2's names)
        scene.is_active = False  # the lease is lost while the console is read
        return {"Output": ""}

    scene.is_active, scene.ec2.get_console_output = True, freeze  # type: ignore[method-assign]
    scene.check(5)
    assert scene.ended == []


@given(
    beats=st.lists(st.floats(0, 2), min_size=30, max_size=30),
    rounds=st.lists(st.tuples(st.floats(0.1, 90), st.floats(0, 60), st.booleans()), min_size=1, max_size=20),
    boot=st.floats(0, ALLOWANCE - 1),
    state=st.sampled_from(["ready", "busy", "draining"]),
)
def test_a_worker_that_reports_is_never_terminated_however_late_reports_are_read(
    beats: list[float], rounds: list[tuple[float, float, bool]], boot: float, state: WorkerState
) -> None:
    """Rounds of the collector: the pause before each, how long it takes, and whether it leaves the queue drained.

    Heartbeats that are sent are recorded at the end of the first round that begins after them; those that are left in
    the queue by a later one. The autoscaler checks all the time.
    """
    clock, ec2 = Clock(0.0), MemoryEC2()
    ec2.states["a"] = "running"
    registry = WorkerRegistry(clock)
    health = UnhealthyTerminator(ec2.fleet(), InstanceTracker(registry), DRAIN, Tenure(), clock)
    late = iter(beats * 1_000)
    unread, next_beat = list[float](), boot

    def live_until(moment: float) -> None:
        nonlocal next_beat
        while clock.now < moment:
            clock.now = min(moment, clock.now + 1.0)
            while next_beat <= clock.now:
                unread.append(next_beat)
                next_beat += 10.0 + next(late)
            assert health.check(described(a="running"), frozenset(), IMPATIENT) == frozenset()
            health.terminate_confirmed()

    for pause, takes, drained in rounds * 3:
        live_until(clock.now + pause)
        asked_at, taken = clock.now, list(unread)
        if not drained:
            taken = taken[: len(taken) // 2]
        del unread[: len(taken)]
        live_until(clock.now + takes)
        registry.record([heartbeat("a", state=state) for _ in taken])
        if drained:
            registry.mark_read_until(asked_at)
    assert ec2.terminated == []
