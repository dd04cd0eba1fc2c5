"""Instance health: which instances are unhealthy, and how they are terminated."""

import logging
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.messages import WorkerState
from services.backoff import Backoff
from tests.support.autoscaler import EPOCH, Clock, FakeEC2, fleet_settings, heartbeat
from tests.unit.web_tier.test_liveness import Scene, described
from web_tier.autoscaler.health import (
    DRAIN_GRACE_SECONDS,
    MAX_CONSOLE_CHARACTERS,
    MAX_CONSOLE_SECONDS,
    MAX_INSTANCES_PER_CALL,
    MAX_REPORTED_CHARACTERS,
    REPEAT_SECONDS,
    SECOND_CHECK_SECONDS,
    UnhealthyTerminator,
    find_issue,
    issue_in_words,
)
from web_tier.autoscaler.liveness import HeartbeatCoverage, InstanceRecord, InstanceTracker, WorkerRegistry

ALLOWANCE, SILENT, DRAIN = 120, 60, 30.0
SETTINGS = fleet_settings(boot_allowance_seconds=ALLOWANCE, silent_seconds=SILENT)
IMPATIENT = fleet_settings(boot_allowance_seconds=ALLOWANCE, silent_seconds=30)
"""As little patience as a configuration may have."""


class HealthScene(Scene):
    """A sweeper over a simulated EC2; its instances run from the beginning."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.ec2, self.holds = FakeEC2(), True
        self.ec2.states |= dict.fromkeys(names, "running")
        self.drained: set[str] = set()
        self.health = UnhealthyTerminator(self.ec2.fleet(), self.tracker, DRAIN, lambda: self.holds, self.clock)
        self.health.backoff = Backoff(first_seconds=1.0, max_seconds=30.0, uniform=lambda _low, high: high)

    def sweep(self, seconds: int = 1, *speaking: str) -> frozenset[str]:
        """Look and sweep each second for so long, while these workers speak every ten; return who is marked."""
        marked: frozenset[str] = frozenset()
        for _ in range(seconds):
            if not int(self.clock.now) % 10:
                for worker in speaking:
                    self.say(worker)
            self.clock.now += 1
            if not self.deaf:
                self.registry.mark_read_until(self.clock.now)
            states = {each.instance_id: each.state for each in self.ec2.fleet().instances()}
            marked = self.health.check(described(**states), frozenset(self.drained), SETTINGS)
            self.health.terminate_confirmed()
        return marked

    @property
    def ended(self) -> list[str]:
        """Whom the sweep has ended."""
        return [key for call in self.ec2.terminated for key in call]


def test_one_that_is_never_heard_of_is_marked_after_its_allowance_and_ended_at_the_second_look() -> None:
    scene = HealthScene("a", "b")
    assert scene.sweep(ALLOWANCE, "b") == frozenset()
    assert scene.sweep(1, "b") == {"a"}
    assert scene.health.reasons() == {"a": "no heartbeat within 2 min of its launch: checked again, then terminated"}
    scene.sweep(int(SECOND_CHECK_SECONDS) - 1, "b")
    assert scene.ended == []
    scene.sweep(1, "b")
    assert scene.ended == ["a"]
    assert scene.sweep(100, "b") == frozenset()
    assert (scene.ended, scene.health.terminated) == (["a"], 1)


def test_one_that_falls_silent_is_ended() -> None:
    scene = HealthScene("a", "b")
    scene.sweep(300, "a", "b")
    assert scene.sweep(SILENT + 1, "b") == {"a"}
    assert scene.health.reasons()["a"].startswith("no heartbeat for 60 s")
    scene.sweep(int(SECOND_CHECK_SECONDS), "b")
    assert scene.ended == ["a"]


def test_a_machine_that_goes_on_when_its_worker_has_ended_is_ended() -> None:
    scene = HealthScene("a")
    scene.sweep(300, "a")
    scene.say("a", "ended")
    scene.sweep(SILENT + int(SECOND_CHECK_SECONDS) + 1)
    assert scene.ended == ["a"]
    assert [each.words for each in scene.health.drain_events()] == [
        "terminated a: its worker ended 60 s ago but the instance still runs, confirmed by a second check"
    ]


def test_any_word_takes_the_mark_back() -> None:
    scene = HealthScene("a")
    assert scene.sweep(ALLOWANCE + 10) == {"a"}
    scene.say("a")
    assert scene.sweep() == frozenset()
    assert scene.sweep(SILENT - 2) == frozenset()
    assert scene.ended == []


def test_one_that_was_asked_to_end_and_does_not_is_ended_though_it_speaks() -> None:
    scene = HealthScene("a")
    scene.sweep(10, "a")
    scene.drained.add("a")
    assert scene.sweep(int(DRAIN + DRAIN_GRACE_SECONDS), "a") == frozenset()
    assert scene.sweep(1, "a") == {"a"}
    assert scene.health.reasons() == {
        "a": "asked to drain 90 s ago but still running: checked again, then terminated"
    }
    scene.sweep(int(SECOND_CHECK_SECONDS), "a")
    assert scene.ended == ["a"]


def test_a_collector_that_is_down_makes_nobody_silent_and_no_mark_final() -> None:
    scene = HealthScene("a", "b")
    scene.sweep(300, "a", "b")
    scene.deaf = True
    assert scene.sweep(3_600) == frozenset()
    scene.deaf = False
    assert scene.sweep() == frozenset(), "what they said meanwhile may be lost, or come with the next receive"
    scene.sweep(20, "a", "b")
    assert scene.sweep(SILENT + 1, "b") == {"a"}
    scene.deaf = True
    assert scene.sweep(3_600, "b") == {"a"}
    assert scene.ended == [], "there was no second check"


def test_what_stops_or_has_stopped_is_no_ghost() -> None:
    scene = HealthScene("a", "b", "c")
    scene.ec2.states |= {"a": "stopping", "b": "stopped", "c": "shutting-down"}
    assert scene.sweep(1_000) == frozenset()
    assert scene.ended == []


def test_the_console_is_kept_in_the_log_and_its_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    scene = HealthScene("a", "b")
    scene.ec2.consoles["b"] = "x" * 10_000 + "\x1b[31mkernel panic\n\nno init\u202e <b>found</b>"
    with caplog.at_level(logging.WARNING):
        scene.sweep(ALLOWANCE + 1 + int(SECOND_CHECK_SECONDS))
    assert scene.ended == ["a", "b"]
    kept = [
        vars(record)["console"] for record in caplog.records if record.message == "terminated an unhealthy instance"
    ]
    assert (kept[0], len(kept[1]), kept[1][-5:]) == ("", MAX_CONSOLE_CHARACTERS, "d</b>")
    assert "the console could not be read" in caplog.text
    [news] = scene.health.drain_events()
    reason = "no heartbeat within 2 min of its launch"
    assert news.words.startswith(f"terminated a and 1 other: {reason}, confirmed by a second check; its console ends")
    assert news.words.endswith("xxx [31mkernel panic no init <b>found</b>")
    assert len(news.words.partition("ends: ")[2]) == MAX_REPORTED_CHARACTERS
    assert scene.health.drain_events() == []


def test_consoles_that_take_long_are_not_all_waited_for() -> None:
    scene, asked = HealthScene("a", "b", "c"), list[str]()

    def slow(InstanceId: str, Latest: bool) -> dict[str, str]:  # noqa: N803 (EC2's names)
        asked.append(InstanceId)
        scene.clock.now += MAX_CONSOLE_SECONDS
        return {"Output": "slow"}

    scene.ec2.get_console_output = slow  # type: ignore[method-assign]
    scene.sweep(ALLOWANCE + 1 + int(SECOND_CHECK_SECONDS))
    assert (asked, scene.ended) == (["a"], ["a", "b", "c"])


def test_when_ec2_refuses_it_is_told_and_tried_again_later_and_later() -> None:
    scene = HealthScene("a")
    scene.sweep(ALLOWANCE + int(SECOND_CHECK_SECONDS))
    scene.ec2.refuses = True
    tries = 0

    def counted(operation: str) -> None:
        nonlocal tries
        tries += 1
        FakeEC2._may_change(scene.ec2, operation)

    scene.ec2._may_change = counted  # type: ignore[method-assign]
    scene.sweep(60)
    assert 3 <= tries <= 8
    assert str(scene.health.last_error).startswith("a could not be terminated: ")
    scene.ec2.refuses = False
    scene.sweep(31)
    assert (scene.ended, scene.health.last_error) == (["a"], None)


def test_one_that_cannot_be_ended_stands_in_nobody_elses_way() -> None:
    scene = HealthScene("a", "b", "c")
    scene.ec2.protected = {"a"}
    scene.sweep(ALLOWANCE + 200)
    assert sorted(scene.ended) == ["b", "c"]
    assert "a could not be terminated" in str(scene.health.last_error)


def test_many_are_ended_a_few_at_a_time() -> None:
    scene = HealthScene(*(f"i-{number:02}" for number in range(2 * MAX_INSTANCES_PER_CALL + 3)))
    scene.sweep(ALLOWANCE + 3 + int(SECOND_CHECK_SECONDS))
    assert [len(call) for call in scene.ec2.terminated] == [MAX_INSTANCES_PER_CALL, MAX_INSTANCES_PER_CALL, 3]


def test_one_that_is_described_as_alive_long_after_its_end_is_ended_again() -> None:
    scene = HealthScene("a")
    scene.ec2.stale["a"] = "running"
    assert scene.sweep(ALLOWANCE + 1 + int(SECOND_CHECK_SECONDS) + int(REPEAT_SECONDS) - 1) == {"a"}
    assert scene.health.reasons()["a"].endswith("terminating")
    assert scene.ended == ["a"]
    scene.sweep(1)
    assert scene.ended == ["a", "a"]


def test_without_the_lease_nobody_is_ended() -> None:
    scene = HealthScene("a")
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
    health = UnhealthyTerminator(ec2.fleet(), InstanceTracker(registry, clock), DRAIN, lambda: True, clock)
    late = iter(beats * 1_000)
    unheard, next_beat = list[float](), boot

    def live_until(moment: float) -> None:
        nonlocal next_beat
        while clock.now < moment:
            clock.now = min(moment, clock.now + 1.0)
            while next_beat <= clock.now:
                unheard.append(next_beat)
                next_beat += 10.0 + next(late)
            assert health.check(described(a="running"), frozenset(), IMPATIENT) == frozenset()
            health.terminate_confirmed()

    for pause, takes, drained in rounds * 3:
        live_until(clock.now + pause)
        asked_at, taken = clock.now, list(unheard)
        if not drained:
            taken = taken[: len(taken) // 2]
        del unheard[: len(taken)]
        live_until(clock.now + takes)
        registry.record([heartbeat("a", state=said) for _ in taken])
        if drained:
            registry.mark_read_until(asked_at)
    assert ec2.terminated == []


NEW = InstanceRecord(
    valid_from=0.0,
    first_seen_at=1000.0,
    observed_at_first_seen=500.0,
    launched_at=1000.0,
    began_here=True,
    is_alive=True,
)
HEARD = replace(NEW, last_heartbeat_at=1010.0, observed_at_heartbeat=510.0, worker_state="busy")


def why(
    record: InstanceRecord, until: float | None, *, observed: float | None = None, now: float = 1000.0
) -> str | None:
    """Why an instance is unhealthy after all heartbeats until `until` were read, by default without a gap."""
    coverage = HeartbeatCoverage(until, (until or 0.0) - 500.0 if observed is None else observed)
    issue = find_issue(record, coverage, SETTINGS, 30.0, now)
    return None if issue is None else issue_in_words(issue, SETTINGS, 30.0)


@pytest.mark.parametrize(
    ("record", "until", "words"),
    [
        (NEW, 1119.0, None),
        (NEW, 1120.0, "no heartbeat within 2 min of its launch"),
        (HEARD, 1119.0, None),
        (HEARD, 1120.0, "no heartbeat for 60 s"),
        (replace(HEARD, last_heartbeat_at=1100.0, observed_at_heartbeat=600.0), 1159.0, None),
        (replace(HEARD, worker_state="ended"), 1120.0, "its worker ended 60 s ago but the instance still runs"),
    ],
)
def test_one_is_suspected_that_is_alive_and_has_not_been_heard_of_for_too_long(
    record: InstanceRecord, until: float, words: str | None
) -> None:
    assert why(record, until) == words


def test_nobody_is_silent_as_long_as_nobody_has_listened() -> None:
    assert why(NEW, None, now=9999.0) is None
    assert why(HEARD, None, now=9999.0) is None


def test_neither_time_in_which_nobody_listened_counts_nor_time_before_the_beginning() -> None:
    assert why(NEW, 9999.0, observed=500.0 + 119.0) is None
    assert why(NEW, 9999.0, observed=500.0 + 120.0) is not None
    assert why(NEW, 1119.0, observed=9999.0) is None


def test_one_that_was_asked_to_end_has_its_time_for_that_whatever_is_heard_of_it() -> None:
    asked = replace(HEARD, drain_requested_at=1000.0)
    longest = 30.0 + DRAIN_GRACE_SECONDS
    assert why(asked, None, now=1000.0 + longest - 1) is None
    assert why(asked, None, now=1000.0 + longest) == "asked to drain 90 s ago but still running"
