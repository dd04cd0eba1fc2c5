"""Liveness: the registry of workers and the records of instances."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.fleet.models import FleetInstance
from core.ids import ImageRef, new_id
from core.messages import Response, WorkerState
from services.sqs import QueueCounts
from tests.support.autoscaler import EPOCH, Clock, heartbeat, instance
from web_tier.autoscaler.liveness import (
    ACTIVE_SECONDS,
    ENDED_SECONDS,
    LAST_HEARTBEAT_SECONDS,
    MAX_COVERAGE_STEP_SECONDS,
    HeartbeatCoverage,
    InstanceRecord,
    InstanceTracker,
    WorkerRegistry,
)
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS, Observation


class Scene:
    """Lives under a clock; the collector hears everything at once unless it is `deaf`."""

    def __init__(self) -> None:
        self.clock, self.deaf = Clock(), False
        self.registry = WorkerRegistry(self.clock, lambda: EPOCH + timedelta(seconds=self.clock.now))
        self.tracker = InstanceTracker(self.registry, self.clock, lambda: EPOCH + timedelta(seconds=self.clock.now))

    def say(self, worker: str, state: WorkerState = "busy") -> None:
        """Let a worker be heard."""
        self.registry.record([heartbeat(worker, state=state)])

    def look(self, **states: str) -> dict[str, InstanceRecord]:
        """Look at the instances in these states a moment later: `look(a="running")`."""
        return self.look_at(described(**states))

    def look_at(self, seen: Observation, seconds: float = 1.0) -> dict[str, InstanceRecord]:
        """Look `seconds` later."""
        self.clock.now += seconds
        if not self.deaf:
            self.registry.mark_read_until(self.clock.now)
        return dict(self.tracker.update(seen, seen.draining))

    def wait(self, seconds: int, **states: str) -> dict[str, InstanceRecord]:
        """Look each second for so long."""
        for _ in range(seconds):
            self.look(**states)
        return self.look(**states)


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
    scene.look()
    return scene


def test_a_life_begins_when_an_instance_is_first_seen_launching_and_its_words_count(scene: Scene) -> None:
    record = scene.look(a="launched")["a"]
    assert (
        record.first_seen_at,
        record.launched_at,
        record.began_here,
        record.is_alive,
        record.last_heartbeat_at,
    ) == (1002, 1002, True, False, None)
    scene.clock.now = 1030
    scene.say("a")
    record = scene.look(a="running")["a"]
    assert (record.first_seen_at, record.is_alive, record.last_heartbeat_at, record.worker_state) == (
        1002,
        True,
        1030,
        "busy",
    )
    assert scene.tracker.unregistered(["a", "b"]) == {"b"}


def test_a_controller_that_takes_over_knows_the_age_of_what_it_finds_and_gives_it_its_allowance_again() -> None:
    scene = Scene()
    record = scene.look(a="running")["a"]
    assert (record.first_seen_at, record.launched_at, record.began_here) == (1001, 0, False)


def test_what_was_said_before_an_instance_was_started_again_does_not_count(scene: Scene) -> None:
    scene.say("a", "ended")
    scene.look(a="stopped")
    record = scene.look(a="launching")["a"]
    assert (record.last_heartbeat_at, record.first_seen_at) == (None, 1003)
    assert scene.look(a="stopped")["a"].missing_since is not None
    assert scene.look(a="launching")["a"].first_seen_at == 1005
    assert scene.look(a="pending")["a"].first_seen_at == 1005, "it is the same life"
    scene.say("a")
    assert scene.look(a="running")["a"].last_heartbeat_at == 1006


def test_an_instance_that_is_missing_from_a_description_for_a_moment_lives_on(scene: Scene) -> None:
    scene.look(a="running")
    scene.look()
    record = scene.look(a="running")["a"]
    assert (record.first_seen_at, record.missing_since) == (1002, None)


def test_boots_that_end_without_a_word_are_counted_until_a_new_worker_is_heard_of(scene: Scene) -> None:
    for name in ("a", "b", "c"):
        scene.look(**{name: "running"})
        scene.wait(int(LAST_HEARTBEAT_SECONDS) + 1)
    assert scene.tracker.failed_boots == 3
    scene.look(d="running")
    scene.say("d")
    scene.look(d="running")
    assert scene.tracker.failed_boots == 0


def test_a_word_that_is_heard_after_its_instance_has_gone_counts(scene: Scene) -> None:
    scene.look(a="running")
    scene.look()
    scene.say("a", "ended")
    scene.wait(int(LAUNCH_VISIBLE_SECONDS))
    assert scene.tracker.failed_boots == 0


def test_no_boot_has_failed_as_long_as_nobody_listens(scene: Scene) -> None:
    scene.deaf = True
    scene.look(a="running")
    assert scene.wait(int(LAUNCH_VISIBLE_SECONDS) + 1) == {}
    assert scene.tracker.failed_boots == 0


def test_neither_what_another_controller_launched_nor_what_was_asked_to_end_is_a_failed_boot() -> None:
    scene = Scene()
    scene.look(a="running")
    scene.look_at(replace(described(a="running", b="running"), draining=frozenset({"b"})))
    scene.wait(int(LAUNCH_VISIBLE_SECONDS))
    assert scene.tracker.failed_boots == 0


def test_a_stopped_instance_whose_boot_fails_again_and_again_counts_each_time(scene: Scene) -> None:
    for _ in range(3):
        scene.look(a="launching")
        scene.look(a="running")
        scene.look(a="stopped")
    scene.wait(10, a="stopped")
    assert scene.tracker.failed_boots == 3


def test_the_oldest_of_those_that_have_outlived_their_time_come_first() -> None:
    scene = Scene()
    scene.look(a="running")
    scene.look(a="running", b="running")
    scene.wait(97, a="running", b="running", c="running")
    assert scene.tracker.past_lifetime(98) == ("a", "b")
    assert scene.tracker.past_lifetime(0) == ()


def test_a_gap_in_listening_counts_for_no_more_than_a_heartbeat() -> None:
    coverage = HeartbeatCoverage().advance(None).advance(1000.0).advance(1004.0)
    assert coverage == HeartbeatCoverage(1004.0, 4.0)
    assert coverage.advance(1300.0) == HeartbeatCoverage(1300.0, 4.0 + MAX_COVERAGE_STEP_SECONDS)


def answer(worker: str) -> Response:
    ref = ImageRef(new_id(), new_id())
    return Response(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label="cat", score=1, worker=worker, attempts=1
    )


def registry(clock: Clock | None = None, max_workers: int = 5) -> WorkerRegistry:
    ticking = clock or Clock()
    return WorkerRegistry(ticking, lambda: EPOCH + timedelta(seconds=ticking.now), max_workers)


def test_a_worker_is_known_by_its_heartbeats_and_by_its_answers() -> None:
    known = registry()
    known.record([heartbeat("i-1", images=7), answer("i-1"), answer("i-2")])
    statuses = known.statuses()
    assert (statuses["i-1"].images, statuses["i-1"].state, statuses["i-1"].in_flight) == (8, "busy", 2)
    assert statuses["i-1"].images_per_second == 2.4
    assert (statuses["i-2"].images, statuses["i-2"].state) == (1, None)
    assert known.answers == 2


def test_a_heartbeat_that_counts_fewer_images_than_were_answered_takes_none_away() -> None:
    known = registry()
    known.record([answer("i-1"), answer("i-1"), heartbeat("i-1", images=1)])
    assert known.statuses()["i-1"].images == 2


def test_it_is_known_when_a_worker_was_first_and_last_heard_of() -> None:
    clock = Clock(100)
    known = registry(clock)
    known.record([heartbeat("i-1")])
    clock.now = 130
    known.record([answer("i-1")])
    status = known.statuses()["i-1"]
    assert (status.first_heartbeat_at, status.last_heartbeat_at, status.seen_at) == (
        100,
        130,
        EPOCH + timedelta(seconds=130),
    )


def test_a_worker_that_has_ended_is_forgotten_after_a_while() -> None:
    clock = Clock()
    known = registry(clock)
    known.record([heartbeat("i-1"), heartbeat("i-2"), heartbeat("i-1", state="ended")])
    assert (known.statuses()["i-1"].state, known.active()) == ("ended", 1)
    clock.now += ENDED_SECONDS + 1
    known.record([heartbeat("i-2")])
    assert known.statuses().keys() == {"i-2"}


def test_what_comes_late_does_not_bring_a_worker_back_that_has_ended() -> None:
    known = registry()
    known.record(
        [
            heartbeat("i-1", images=5),
            heartbeat("i-1", images=7, state="ended"),
            heartbeat("i-1", images=6),
            answer("i-1"),
        ]
    )
    status = known.statuses()["i-1"]
    assert (status.state, status.images) == ("ended", 8)


def test_a_worker_whose_instance_was_started_again_begins_anew() -> None:
    clock = Clock(100)
    known = registry(clock)
    known.record([heartbeat("i-1", images=7, state="ended")])
    clock.now = 130
    known.record([heartbeat("i-1", images=0, state="ready")])
    status = known.statuses()["i-1"]
    assert (status.state, status.images, status.first_heartbeat_at) == ("ready", 0, 130)


def test_of_too_many_workers_those_heard_of_last_stay() -> None:
    known = registry(max_workers=3)
    known.record([heartbeat(f"i-{number}") for number in range(4)])
    known.record([heartbeat("i-1"), heartbeat("i-4")])
    assert known.statuses().keys() == {"i-3", "i-1", "i-4"}


def test_only_workers_that_were_heard_of_lately_may_have_a_heartbeat_on_its_way() -> None:
    clock = Clock()
    known = registry(clock)
    known.record([heartbeat("i-1"), heartbeat("i-2")])
    clock.now += ACTIVE_SECONDS - 1
    known.record([heartbeat("i-2")])
    assert known.active() == 2
    clock.now += 1
    assert known.active() == 1


def test_a_new_controller_begins_with_what_the_last_one_told() -> None:
    told = FleetInstance(
        instance_id="i-1", state="running", instance_type="c7a.large", zone="us-east-1a", launched_at=EPOCH,
        worker="busy", images=40, in_hand=3, heard_at=EPOCH,
    )  # fmt: skip
    known = registry()
    known.adopt([told, told.model_copy(update={"instance_id": "i-2", "heard_at": None})])
    assert known.statuses().keys() == {"i-1"}
    known.record([answer("i-1")])
    assert (known.statuses()["i-1"].images, known.statuses()["i-1"].first_heartbeat_at, known.active()) == (
        41,
        None,
        1,
    )
