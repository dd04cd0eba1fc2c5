"""Ghosts are marked, looked at a second time and ended; whoever speaks never is."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.messages import WorkerState
from tests.support.controller import EPOCH, Clock, FakeEC2
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits
from tests.unit.web_tier.controller.autoscaler.observe.test_lives import Watch, observation
from tests.unit.web_tier.controller.test_worker_registry import beat
from web_tier.controller.autoscaler.apply.ghosts import DRAIN_MARGIN_SECONDS
from web_tier.controller.autoscaler.apply.sweep import (
    AGAIN_SECONDS,
    CONSOLE_CHARACTERS,
    MAX_AT_ONCE,
    READING_SECONDS,
    SECOND_LOOK_SECONDS,
    TOLD_CHARACTERS,
    Sweeper,
)
from web_tier.controller.autoscaler.observe.lives import InstanceTracker
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.backoff import Backoff
from web_tier.controller.worker_registry import WorkerRegistry

ALLOWANCE, SILENT, DRAIN = 120, 60, 30.0
LIMITS = limits(boot_allowance_seconds=ALLOWANCE, silent_seconds=SILENT)
IMPATIENT = limits(boot_allowance_seconds=ALLOWANCE, silent_seconds=30)
"""As little patience as a configuration may have."""


class Scene(Watch):
    """A sweeper over a simulated EC2 whose instances run from the beginning."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.ec2, self.holds = FakeEC2(), True
        self.ec2.states |= dict.fromkeys(names, "running")
        self.asked: set[str] = set()
        self.sweeper = Sweeper(self.ec2.fleet(), self.lives, DRAIN, lambda: self.holds, self.clock)
        self.sweeper.backoff = Backoff(first_seconds=1.0, max_seconds=30.0, uniform=lambda _low, high: high)

    def sweep(self, seconds: int = 1, *speaking: str) -> frozenset[str]:
        """Look and sweep each second for so long, while these workers speak every ten; return who is marked."""
        marked: frozenset[str] = frozenset()
        for _ in range(seconds):
            if not int(self.clock.now) % 10:
                for worker in speaking:
                    self.say(worker)
            self.clock.now += 1
            if not self.deaf:
                self.registry.heard_all(self.clock.now)
            states = {each.instance_id: each.state for each in self.ec2.fleet().instances()}
            marked = self.sweeper.look(replace(observation(**states), draining=frozenset(self.asked)), LIMITS)
            self.sweeper.sweep()
        return marked

    @property
    def ended(self) -> list[str]:
        """Whom the sweep has ended."""
        return [key for call in self.ec2.terminated for key in call]


def test_one_that_is_never_heard_of_is_marked_after_its_allowance_and_ended_at_the_second_look() -> None:
    scene = Scene("a", "b")
    assert scene.sweep(ALLOWANCE, "b") == frozenset()
    assert scene.sweep(1, "b") == {"a"}
    assert scene.sweeper.marked() == {"a": "not heard of for 2 min: looked at again, then ended"}
    scene.sweep(int(SECOND_LOOK_SECONDS) - 1, "b")
    assert scene.ended == []
    scene.sweep(1, "b")
    assert scene.ended == ["a"]
    assert scene.sweep(100, "b") == frozenset()
    assert (scene.ended, scene.sweeper.ended) == (["a"], 1)


def test_one_that_falls_silent_is_ended() -> None:
    scene = Scene("a", "b")
    scene.sweep(300, "a", "b")
    assert scene.sweep(SILENT + 1, "b") == {"a"}
    assert scene.sweeper.marked()["a"].startswith("silent for 60 s")
    scene.sweep(int(SECOND_LOOK_SECONDS), "b")
    assert scene.ended == ["a"]


def test_a_machine_that_goes_on_when_its_worker_has_ended_is_ended() -> None:
    scene = Scene("a")
    scene.sweep(300, "a")
    scene.say("a", "ended")
    scene.sweep(SILENT + int(SECOND_LOOK_SECONDS) + 1)
    assert scene.ended == ["a"]
    assert [each.words for each in scene.sweeper.take_news()] == [
        "ended a: its worker ended 60 s ago and its machine goes on, also at a second look"
    ]


def test_any_word_takes_the_mark_back() -> None:
    scene = Scene("a")
    assert scene.sweep(ALLOWANCE + 10) == {"a"}
    scene.say("a")
    assert scene.sweep() == frozenset()
    assert scene.sweep(SILENT - 2) == frozenset()
    assert scene.ended == []


def test_one_that_was_asked_to_end_and_does_not_is_ended_though_it_speaks() -> None:
    scene = Scene("a")
    scene.sweep(10, "a")
    scene.asked.add("a")
    assert scene.sweep(int(DRAIN + DRAIN_MARGIN_SECONDS), "a") == frozenset()
    assert scene.sweep(1, "a") == {"a"}
    assert scene.sweeper.marked() == {"a": "asked to end 90 s ago and still there: looked at again, then ended"}
    scene.sweep(int(SECOND_LOOK_SECONDS), "a")
    assert scene.ended == ["a"]


def test_a_collector_that_is_down_makes_nobody_silent_and_no_mark_final() -> None:
    scene = Scene("a", "b")
    scene.sweep(300, "a", "b")
    scene.deaf = True
    assert scene.sweep(3_600) == frozenset()
    scene.deaf = False
    assert scene.sweep() == frozenset(), "what they said meanwhile may be lost, or come with the next receive"
    scene.sweep(20, "a", "b")
    assert scene.sweep(SILENT + 1, "b") == {"a"}
    scene.deaf = True
    assert scene.sweep(3_600, "b") == {"a"}
    assert scene.ended == [], "nobody has looked a second time"


def test_what_stops_or_has_stopped_is_no_ghost() -> None:
    scene = Scene("a", "b", "c")
    scene.ec2.states |= {"a": "stopping", "b": "stopped", "c": "shutting-down"}
    assert scene.sweep(1_000) == frozenset()
    assert scene.ended == []


def test_the_console_is_kept_in_the_log_and_its_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene("a", "b")
    scene.ec2.consoles["b"] = "x" * 10_000 + "\x1b[31mkernel panic\n\nno init\u202e <b>found</b>"
    with caplog.at_level(logging.WARNING):
        scene.sweep(ALLOWANCE + 1 + int(SECOND_LOOK_SECONDS))
    assert scene.ended == ["a", "b"]
    kept = [vars(record)["console"] for record in caplog.records if record.message == "ended a ghost"]
    assert (kept[0], len(kept[1]), kept[1][-5:]) == ("", CONSOLE_CHARACTERS, "d</b>")
    assert "no console to keep" in caplog.text
    [news] = scene.sweeper.take_news()
    assert news.words.startswith(
        "ended a and 1 other: not heard of for 2 min, also at a second look; its console ends"
    )
    assert news.words.endswith("xxx [31mkernel panic no init <b>found</b>")
    assert len(news.words.partition("ends: ")[2]) == TOLD_CHARACTERS
    assert scene.sweeper.take_news() == []


def test_consoles_that_take_long_are_not_all_waited_for() -> None:
    scene, asked = Scene("a", "b", "c"), list[str]()

    def slow(InstanceId: str, Latest: bool) -> dict[str, str]:  # noqa: N803 (EC2's names)
        asked.append(InstanceId)
        scene.clock.now += READING_SECONDS
        return {"Output": "slow"}

    scene.ec2.get_console_output = slow  # type: ignore[method-assign]
    scene.sweep(ALLOWANCE + 1 + int(SECOND_LOOK_SECONDS))
    assert (asked, scene.ended) == (["a"], ["a", "b", "c"])


def test_when_ec2_refuses_it_is_told_and_tried_again_later_and_later() -> None:
    scene = Scene("a")
    scene.sweep(ALLOWANCE + int(SECOND_LOOK_SECONDS))
    scene.ec2.refuses = True
    tries = 0

    def counted(operation: str) -> None:
        nonlocal tries
        tries += 1
        FakeEC2._may_change(scene.ec2, operation)

    scene.ec2._may_change = counted  # type: ignore[method-assign]
    scene.sweep(60)
    assert 3 <= tries <= 8
    assert str(scene.sweeper.problem).startswith("a could not be ended: ")
    scene.ec2.refuses = False
    scene.sweep(31)
    assert (scene.ended, scene.sweeper.problem) == (["a"], None)


def test_one_that_cannot_be_ended_stands_in_nobody_elses_way() -> None:
    scene = Scene("a", "b", "c")
    scene.ec2.protected = {"a"}
    scene.sweep(ALLOWANCE + 200)
    assert sorted(scene.ended) == ["b", "c"]
    assert "a could not be ended" in str(scene.sweeper.problem)


def test_many_are_ended_a_few_at_a_time() -> None:
    scene = Scene(*(f"i-{number:02}" for number in range(2 * MAX_AT_ONCE + 3)))
    scene.sweep(ALLOWANCE + 3 + int(SECOND_LOOK_SECONDS))
    assert [len(call) for call in scene.ec2.terminated] == [MAX_AT_ONCE, MAX_AT_ONCE, 3]


def test_one_that_is_described_as_alive_long_after_its_end_is_ended_again() -> None:
    scene = Scene("a")
    scene.ec2.stale["a"] = "running"
    assert scene.sweep(ALLOWANCE + 1 + int(SECOND_LOOK_SECONDS) + int(AGAIN_SECONDS) - 1) == {"a"}
    assert scene.sweeper.marked()["a"].endswith("is being ended")
    assert scene.ended == ["a"]
    scene.sweep(1)
    assert scene.ended == ["a", "a"]


def test_without_the_lease_nobody_is_ended() -> None:
    scene = Scene("a")
    scene.holds = False
    scene.sweep(ALLOWANCE + 100)
    assert scene.ended == []


@settings(max_examples=60)
@given(
    beats=st.lists(st.floats(0, 2), min_size=30, max_size=30),
    rounds=st.lists(st.tuples(st.floats(0.1, 90), st.floats(0, 60), st.booleans()), min_size=1, max_size=60),
    boot=st.floats(0, ALLOWANCE - 1),
    said=st.sampled_from(["ready", "busy", "draining"]),
)
def test_a_worker_that_speaks_every_ten_seconds_is_never_ended_however_late_it_is_heard(
    beats: list[float], rounds: list[tuple[float, float, bool]], boot: float, said: WorkerState
) -> None:
    """Rounds of the collector: the pause before each, how long it takes, and whether it leaves the queue drained.

    Beats that are sent are noted at the end of the first round that begins after them; what is left in the queue is
    noted by a later one. The autoscaler looks all the time.
    """
    clock, ec2 = Clock(0.0), FakeEC2()
    ec2.states["a"] = "running"
    registry = WorkerRegistry(clock, lambda: EPOCH + timedelta(seconds=clock.now))
    sweeper = Sweeper(ec2.fleet(), InstanceTracker(registry, clock), DRAIN, lambda: True, clock)
    late = iter(beats * 1_000)
    unheard, next_beat = list[float](), boot

    def live_until(moment: float) -> None:
        nonlocal next_beat
        while clock.now < moment:
            clock.now = min(moment, clock.now + 1.0)
            while next_beat <= clock.now:
                unheard.append(next_beat)
                next_beat += 10.0 + next(late)
            look: Observation = observation(a="running")
            assert sweeper.look(look, IMPATIENT) == frozenset()
            sweeper.sweep()

    for pause, takes, drained in rounds * 3:
        live_until(clock.now + pause)
        asked_at, taken = clock.now, list(unheard)
        if not drained:
            taken = taken[: len(taken) // 2]
        del unheard[: len(taken)]
        live_until(clock.now + takes)
        registry.note([beat("a", state=said) for _ in taken])
        if drained:
            registry.heard_all(asked_at)
    assert ec2.terminated == []
