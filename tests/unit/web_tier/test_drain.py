"""Drain, scale-in protection, and the operators' commands."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

import pytest

from core.fleet.models import FleetPause
from core.fleet.store import Commands
from services.ec2 import Fleet, Instance
from services.metadata import PROTECTED_TAG
from services.sqs import QueueCounts
from tests.support.autoscaler import (
    EPOCH,
    Clock,
    CommandStore,
    FakeEC2,
    booting,
    fleet_settings,
    instance,
    observation,
    refusal,
)
from web_tier.autoscaler.decide import decide, workers_to_protect
from web_tier.autoscaler.drain import (
    COMMAND_SECONDS,
    MISSING_SECONDS,
    PAUSE_SECONDS,
    DrainCommands,
    Drainer,
    OperatorCommands,
    ScaleInProtection,
)
from web_tier.autoscaler.observe import FleetMetrics, Observation
from web_tier.autoscaler.reporting import FleetEvent


class Tags:
    """EC2 as far as tags go; `fails` refuses the next call."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.fails = False

    def create_tags(self, *, Resources: list[str], Tags: list[dict[str, str]]) -> None:  # noqa: N803
        if self.fails:
            raise refusal("RequestLimitExceeded", "CreateTags")
        self.asked.append(Resources)


def drainer(ec2: Tags, clock: Clock, *, active: bool = True) -> Drainer:
    return Drainer(Fleet(cast(Any, ec2), "worker"), lambda: active, clock)


def test_whoever_was_asked_drains_also_while_descriptions_do_not_show_it() -> None:
    ec2, here = Tags(), [instance("i-1"), instance("i-2")]
    asking = drainer(ec2, Clock())
    assert asking.draining(here) == frozenset()
    asking.drain(["i-1"], "too many")
    assert ec2.asked == [["i-1"]]
    assert asking.draining(here) == {"i-1"}
    assert asking.draining(here[1:]) == frozenset(), "it has ended"


def test_whoever_an_earlier_controller_asked_is_known_by_the_tag() -> None:
    here = [replace(instance("i-1"), draining=True), instance("i-2")]
    assert drainer(Tags(), Clock()).draining(here) == {"i-1"}


def test_after_a_refusal_nobody_counts_as_asked_and_it_is_tried_again_later() -> None:
    ec2, clock = Tags(), Clock()
    ec2.fails, asking = True, drainer(ec2, clock)
    asking.drain(["i-1"], "too many")
    ec2.fails = False
    assert asking.draining([instance("i-1")]) == frozenset()
    asking.drain(["i-1"], "too many")
    assert ec2.asked == [], "too soon"
    clock.now += PAUSE_SECONDS
    asking.drain(["i-1"], "too many")
    assert ec2.asked == [["i-1"]]


def test_without_the_lease_nobody_is_asked() -> None:
    ec2 = Tags()
    drainer(ec2, Clock(), active=False).drain(["i-1"], "too many")
    assert ec2.asked == []


def test_a_stopped_worker_is_no_longer_asked_so_that_it_works_once_it_is_started_again() -> None:
    ec2, clock = FakeEC2(states={"i-1": "running", "i-2": "running"}), Clock()
    asking = Drainer(ec2.fleet(), lambda: True, clock)
    asking.drain(["i-1", "i-2"], "too many")
    ec2.states["i-1"], ec2.refuses = "stopped", True
    asking.untag_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [True, True]
    ec2.refuses = False
    asking.untag_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [True, True], "too soon"
    clock.now += PAUSE_SECONDS
    asking.untag_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [False, True]
    ec2.states["i-1"] = "running"
    assert asking.draining(ec2.fleet().instances()) == {"i-2"}


def test_a_stopped_worker_is_not_started_while_it_would_end_again() -> None:
    waiting = Observation(QueueCounts(20, 0, 0), 0, (replace(instance("i-1", "stopped"), draining=True),))
    assert (decide(waiting, fleet_settings()).start, decide(waiting, fleet_settings()).launch) == ((), 1)


def test_an_order_is_seen_within_a_second_and_read_no_more_often() -> None:
    clock, store = Clock(), CommandStore()
    watch = OperatorCommands(store, clock)
    assert [watch.current() for _ in range(9)] == [Commands()] * 9
    assert store.reads == 1
    store.stored = Commands(pause=FleetPause(since=EPOCH))
    clock.now += COMMAND_SECONDS
    assert watch.current() == store.stored


def test_when_they_cannot_be_read_there_is_no_answer() -> None:
    clock, store = Clock(), CommandStore()
    watch = OperatorCommands(store, clock)
    assert watch.current() == Commands()
    store.error = refusal("InternalServerError", "Query")
    clock.now += COMMAND_SECONDS
    for _ in range(2):
        with pytest.raises(type(store.error)):
            watch.current()


class Bench:
    """Commands to drain, and an EC2 that takes down who was asked."""

    def __init__(self, *ordered: str, active: bool = True) -> None:
        self.clock, self.store, self.ec2 = Clock(), CommandStore(), Tags()
        self.store.stored = Commands(drain=ordered)
        self.drainer = drainer(self.ec2, self.clock, active=active)
        self.commands = DrainCommands(OperatorCommands(self.store, self.clock), self.drainer, self.clock)

    @property
    def left(self) -> list[str]:
        """The orders that stand."""
        return list(self.store.stored.drain)

    def carry_out(self, *instances: Instance, launching: Iterable[str] = ()) -> list[FleetEvent]:
        """Carry the orders out at a look that shows `instances`."""
        seen = Observation(QueueCounts(0, 0, 0), 0, instances, frozenset(launching))
        return self.commands.carry_out(replace(seen, draining=self.drainer.draining(instances)))


def test_an_instance_is_asked_once_and_its_order_deleted_when_that_is_sure() -> None:
    bench = Bench("i-0")
    assert bench.carry_out(instance("i-0")) == [FleetEvent("ops have asked i-0 to drain")]
    assert bench.ec2.asked == [["i-0"]]
    assert bench.left == ["i-0"]
    assert [bench.carry_out(instance("i-0")) for _ in range(3)] == [[]] * 3
    assert bench.ec2.asked == [["i-0"]]
    assert bench.left == []


def test_an_order_that_an_earlier_controller_carried_out_is_deleted_without_asking_again() -> None:
    bench = Bench("i-0")
    assert bench.carry_out(replace(instance("i-0"), draining=True)) == []
    assert (bench.ec2.asked, bench.left) == ([], [])


def test_an_order_stands_as_long_as_ec2_refuses_and_is_told_once() -> None:
    bench = Bench("i-0")
    bench.ec2.fails = True
    told = [bench.carry_out(instance("i-0")) for _ in range(3)]
    assert [len(news) for news in told] == [1, 0, 0]
    assert bench.left == ["i-0"]
    bench.ec2.fails = False
    bench.clock.now += 10
    for _ in range(2):
        bench.carry_out(instance("i-0"))
    assert (bench.ec2.asked, bench.left) == ([["i-0"]], [])


def test_an_order_for_an_instance_that_has_stopped_is_dropped_with_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench("i-0")
    assert bench.carry_out(instance("i-0", "stopped")) == []
    assert (bench.ec2.asked, bench.left) == ([], [])
    assert [record.instance for record in caplog.records] == ["i-0"]  # type: ignore[attr-defined]
    assert "no such instance is running" in caplog.text


def test_an_instance_that_a_lagging_description_does_not_show_for_a_moment_is_not_given_up() -> None:
    bench = Bench("i-0")
    bench.carry_out()
    bench.clock.now += MISSING_SECONDS - 1
    bench.carry_out()
    assert bench.left == ["i-0"]
    bench.carry_out(instance("i-0"))
    assert bench.ec2.asked == [["i-0"]]
    bench = Bench("i-0")
    bench.carry_out()
    bench.clock.now += MISSING_SECONDS
    bench.carry_out()
    assert bench.left == []


def test_one_that_has_just_been_launched_is_asked_as_soon_as_it_is_described() -> None:
    bench = Bench("i-0")
    for _ in range(3):
        bench.carry_out(launching=["i-0"])
        bench.clock.now += MISSING_SECONDS
    assert (bench.ec2.asked, bench.left) == ([], ["i-0"])
    bench.carry_out(instance("i-0", "pending"))
    assert bench.ec2.asked == [["i-0"]]


def test_a_controller_that_no_longer_acts_neither_asks_nor_deletes() -> None:
    bench = Bench("i-0", "i-gone", active=False)
    bench.carry_out(instance("i-0"), instance("i-gone", "stopped"))
    assert (bench.ec2.asked, bench.left) == ([], ["i-0", "i-gone"])


FOUR = observation(states=("running", "running", "pending", "running"))


def test_the_oldest_that_were_heard_of_stand_by_and_one_that_boots_only_for_want_of_others() -> None:
    assert workers_to_protect(FOUR, 2) == ("i-0", "i-1")
    late = replace(FOUR, metrics=FleetMetrics(unregistered=booting("i-0", "i-2")))
    assert workers_to_protect(late, 2) == ("i-1", "i-3")
    assert workers_to_protect(late, 3) == ("i-1", "i-3", "i-0")
    assert workers_to_protect(FOUR, 9) == ("i-0", "i-1", "i-2", "i-3")
    assert workers_to_protect(FOUR, 0) == ()


def test_who_stands_by_already_goes_on() -> None:
    assert workers_to_protect(replace(FOUR, protected=frozenset({"i-3"})), 2) == ("i-3", "i-0")


def test_who_is_about_to_end_or_does_not_work_is_no_standby() -> None:
    going = replace(
        FOUR, draining=frozenset({"i-0"}), unhealthy=frozenset({"i-1"}), protected=frozenset({"i-0", "i-1"})
    )
    plan = decide(going, fleet_settings(min_workers=2))
    assert (plan.protect, plan.unprotect) == (("i-2", "i-3"), ("i-0", "i-1"))


def test_only_the_difference_is_asked_for() -> None:
    standing = replace(FOUR, protected=frozenset({"i-1", "i-3"}))
    assert (
        decide(standing, fleet_settings(min_workers=2)).protect,
        decide(standing, fleet_settings(min_workers=2)).unprotect,
    ) == ((), ())
    assert decide(standing, fleet_settings(min_workers=1)).unprotect == ("i-3",)
    assert decide(standing, fleet_settings()).unprotect == ("i-1", "i-3")


def test_a_stopped_standby_is_let_go_so_that_it_is_none_when_it_is_started_again() -> None:
    stopped = replace(observation(states=("stopped",)), protected=frozenset({"i-0"}))
    assert decide(stopped, fleet_settings()).unprotect == ("i-0",)


def test_of_a_fixed_fleet_all_stand_by() -> None:
    assert decide(FOUR, fleet_settings(policy="fixed", max_workers=4)).protect == ("i-0", "i-1", "i-2", "i-3")


def test_a_paused_fleet_keeps_its_standby() -> None:
    paused = replace(FOUR, pause=FleetPause(since=EPOCH), protected=frozenset({"i-1"}))
    plan = decide(paused, fleet_settings(min_workers=2))
    assert (plan.kind, plan.protect, plan.unprotect) == ("paused", ("i-0",), ())


def test_workers_are_told_once_although_descriptions_lag() -> None:
    ec2, clock = FakeEC2(states={"a": "running", "b": "running"}), Clock()
    protection = ScaleInProtection(ec2.fleet(), lambda: True, clock)
    old = ec2.fleet().instances()
    assert protection.protected(old) == frozenset()
    protection.apply(["a", "b"], [])
    assert ec2.tags == {"a": {PROTECTED_TAG}, "b": {PROTECTED_TAG}}
    assert protection.protected(old) == {"a", "b"}
    tagged = ec2.fleet().instances()
    protection.apply([], ["a"])
    assert protection.protected(tagged) == {"b"}
    assert [each.protected for each in ec2.fleet().instances()] == [False, True]


def test_a_controller_that_takes_over_knows_who_stands_by_by_the_tag() -> None:
    ec2 = FakeEC2(states={"a": "running", "b": "terminated"}, tags={"a": {PROTECTED_TAG}, "b": {PROTECTED_TAG}})
    described = ec2.fleet().instances(("running", "terminated"))
    assert ScaleInProtection(ec2.fleet(), lambda: True, Clock()).protected(described) == {"a"}


def test_after_a_refusal_nobody_counts_as_told_and_it_is_tried_again_later() -> None:
    ec2, clock = FakeEC2(states={"a": "running"}, refuses=True), Clock()
    protection = ScaleInProtection(ec2.fleet(), lambda: True, clock)
    protection.apply(["a"], [])
    assert protection.protected(ec2.fleet().instances()) == frozenset()
    ec2.refuses = False
    protection.apply(["a"], [])
    assert ec2.tags == {}, "too soon"
    clock.now += PAUSE_SECONDS
    protection.apply(["a"], [])
    assert ec2.tags == {"a": {PROTECTED_TAG}}


def test_without_the_lease_nobody_is_told() -> None:
    ec2 = FakeEC2(states={"a": "running"})
    ScaleInProtection(ec2.fleet(), lambda: False, Clock()).apply(["a"], [])
    assert ec2.tags == {}
