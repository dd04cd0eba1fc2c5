"""What is known of each instance's life, and how far its worker was heard."""

from dataclasses import replace
from datetime import timedelta

import pytest

from core.messages import WorkerState
from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance
from tests.unit.web_tier.controller.test_worker_registry import beat
from web_tier.controller.autoscaler.observe.lives import (
    LAST_WORDS_SECONDS,
    MAX_ADVANCE_SECONDS,
    HeartbeatCoverage,
    InstanceTracker,
    Life,
)
from web_tier.controller.autoscaler.observe.observe import UNSEEN_SECONDS, Observation
from web_tier.controller.worker_registry import WorkerRegistry


class Watch:
    """Lives under a clock; the collector hears everything at once unless it is `deaf`."""

    def __init__(self) -> None:
        self.clock, self.deaf = Clock(), False
        self.registry = WorkerRegistry(self.clock, lambda: EPOCH + timedelta(seconds=self.clock.now))
        self.lives = InstanceTracker(self.registry, self.clock, lambda: EPOCH + timedelta(seconds=self.clock.now))

    def say(self, worker: str, state: WorkerState = "busy") -> None:
        """Let a worker be heard."""
        self.registry.note([beat(worker, state=state)])

    def look(self, **states: str) -> dict[str, Life]:
        """Look at the instances in these states a moment later: `look(a="running")`."""
        return self.look_at(observation(**states))

    def look_at(self, seen: Observation, seconds: float = 1.0) -> dict[str, Life]:
        """Look `seconds` later."""
        self.clock.now += seconds
        if not self.deaf:
            self.registry.heard_all(self.clock.now)
        return dict(self.lives.look(seen))

    def wait(self, seconds: int, **states: str) -> dict[str, Life]:
        """Look each second for so long."""
        for _ in range(seconds):
            self.look(**states)
        return self.look(**states)


def observation(**states: str) -> Observation:
    """Instances by their ids, in these states; `coming` ones are described as stopped, `launched` ones not at all."""
    there = tuple(
        instance(key, "stopped" if state == "coming" else state)
        for key, state in states.items()
        if state != "launched"
    )
    coming = frozenset(key for key, state in states.items() if state in {"coming", "launched"})
    return Observation(QueueCounts(0, 0, 0), 0, there, coming)


@pytest.fixture
def watch() -> Watch:
    """One whose controller has begun with an empty fleet."""
    begun = Watch()
    begun.look()
    return begun


def test_a_life_begins_when_an_instance_is_first_seen_coming_and_its_words_count(watch: Watch) -> None:
    life = watch.look(a="launched")["a"]
    assert (life.begun, life.launched, life.own, life.alive, life.heard) == (1002, 1002, True, False, None)
    watch.clock.now = 1030
    watch.say("a")
    life = watch.look(a="running")["a"]
    assert (life.begun, life.alive, life.heard, life.said) == (1002, True, 1030, "busy")
    assert watch.lives.unheard(["a", "b"]) == {"b"}


def test_a_controller_that_takes_over_knows_the_age_of_what_it_finds_and_gives_it_its_allowance_again() -> None:
    watch = Watch()
    life = watch.look(a="running")["a"]
    assert (life.begun, life.launched, life.own) == (1001, 0, False)


def test_what_was_said_before_an_instance_was_started_again_does_not_count(watch: Watch) -> None:
    watch.say("a", "ended")
    watch.look(a="stopped")
    life = watch.look(a="coming")["a"]
    assert (life.heard, life.begun) == (None, 1003)
    assert watch.look(a="stopped")["a"].gone is not None
    assert watch.look(a="coming")["a"].begun == 1005
    assert watch.look(a="pending")["a"].begun == 1005, "it is the same life"
    watch.say("a")
    assert watch.look(a="running")["a"].heard == 1006


def test_an_instance_that_is_missing_from_a_description_for_a_moment_lives_on(watch: Watch) -> None:
    watch.look(a="running")
    watch.look()
    life = watch.look(a="running")["a"]
    assert (life.begun, life.gone) == (1002, None)


def test_boots_that_end_without_a_word_are_counted_until_a_new_worker_is_heard_of(watch: Watch) -> None:
    for name in ("a", "b", "c"):
        watch.look(**{name: "running"})
        watch.wait(int(LAST_WORDS_SECONDS) + 1)
    assert watch.lives.failed_boots == 3
    watch.look(d="running")
    watch.say("d")
    watch.look(d="running")
    assert watch.lives.failed_boots == 0


def test_a_word_that_is_heard_after_its_instance_has_gone_counts(watch: Watch) -> None:
    watch.look(a="running")
    watch.look()
    watch.say("a", "ended")
    watch.wait(int(UNSEEN_SECONDS))
    assert watch.lives.failed_boots == 0


def test_no_boot_has_failed_as_long_as_nobody_listens(watch: Watch) -> None:
    watch.deaf = True
    watch.look(a="running")
    assert watch.wait(int(UNSEEN_SECONDS) + 1) == {}
    assert watch.lives.failed_boots == 0


def test_neither_what_another_controller_launched_nor_what_was_asked_to_end_is_a_failed_boot() -> None:
    watch = Watch()
    watch.look(a="running")
    watch.look_at(replace(observation(a="running", b="running"), draining=frozenset({"b"})))
    watch.wait(int(UNSEEN_SECONDS))
    assert watch.lives.failed_boots == 0


def test_a_stopped_instance_whose_boot_fails_again_and_again_counts_each_time(watch: Watch) -> None:
    for _ in range(3):
        watch.look(a="coming")
        watch.look(a="running")
        watch.look(a="stopped")
    watch.wait(10, a="stopped")
    assert watch.lives.failed_boots == 3


def test_the_oldest_of_those_that_have_outlived_their_time_come_first() -> None:
    watch = Watch()
    watch.look(a="running")
    watch.look(a="running", b="running")
    watch.wait(97, a="running", b="running", c="running")
    assert watch.lives.outlived(98) == ("a", "b")
    assert watch.lives.outlived(0) == ()


def test_a_gap_in_listening_counts_for_no_more_than_a_heartbeat() -> None:
    hearing = HeartbeatCoverage().advanced(None).advanced(1000.0).advanced(1004.0)
    assert hearing == HeartbeatCoverage(1004.0, 4.0)
    assert hearing.advanced(1300.0) == HeartbeatCoverage(1300.0, 4.0 + MAX_ADVANCE_SECONDS)
