"""Who stands by, and how they are told."""

from dataclasses import replace

from core.messages import FleetPause
from services.metadata import STAY_TAG
from tests.support.controller import EPOCH, Clock, FakeEC2
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits, look
from web_tier.controller.autoscaler.apply.standby import PAUSE_SECONDS, Standby, to_stand_by
from web_tier.controller.autoscaler.decide.decide import decide
from web_tier.controller.autoscaler.observe.observe import Measured

FOUR = look(states=("running", "running", "pending", "running"))


def test_the_oldest_that_were_heard_of_stand_by_and_one_that_boots_only_for_want_of_others() -> None:
    assert to_stand_by(FOUR, 2) == ("i-0", "i-1")
    unheard = replace(FOUR, measured=Measured(unheard=frozenset({"i-0", "i-2"})))
    assert to_stand_by(unheard, 2) == ("i-1", "i-3")
    assert to_stand_by(unheard, 3) == ("i-1", "i-3", "i-0")
    assert to_stand_by(FOUR, 9) == ("i-0", "i-1", "i-2", "i-3")
    assert to_stand_by(FOUR, 0) == ()


def test_who_stands_by_already_goes_on() -> None:
    assert to_stand_by(replace(FOUR, standby=frozenset({"i-3"})), 2) == ("i-3", "i-0")


def test_who_is_about_to_end_or_does_not_work_is_no_standby() -> None:
    going = replace(FOUR, draining=frozenset({"i-0"}), lost=frozenset({"i-1"}), standby=frozenset({"i-0", "i-1"}))
    plan = decide(going, limits(min_workers=2))
    assert (plan.stay, plan.leave) == (("i-2", "i-3"), ("i-0", "i-1"))


def test_only_the_difference_is_asked_for() -> None:
    standing = replace(FOUR, standby=frozenset({"i-1", "i-3"}))
    assert (decide(standing, limits(min_workers=2)).stay, decide(standing, limits(min_workers=2)).leave) == ((), ())
    assert decide(standing, limits(min_workers=1)).leave == ("i-3",)
    assert decide(standing, limits()).leave == ("i-1", "i-3")


def test_a_stopped_standby_is_let_go_so_that_it_is_none_when_it_is_started_again() -> None:
    stopped = replace(look(states=("stopped",)), standby=frozenset({"i-0"}))
    assert decide(stopped, limits()).leave == ("i-0",)


def test_of_a_fixed_fleet_all_stand_by() -> None:
    assert decide(FOUR, limits(policy="fixed", max_workers=4)).stay == ("i-0", "i-1", "i-2", "i-3")


def test_a_paused_fleet_keeps_its_standby() -> None:
    paused = replace(FOUR, paused=FleetPause(since=EPOCH), standby=frozenset({"i-1"}))
    plan = decide(paused, limits(min_workers=2))
    assert (plan.kind, plan.stay, plan.leave) == ("paused", ("i-0",), ())


def test_workers_are_told_once_although_descriptions_lag() -> None:
    ec2, clock = FakeEC2(states={"a": "running", "b": "running"}), Clock()
    standby = Standby(ec2.fleet(), lambda: True, clock)
    old = ec2.fleet().instances()
    assert standby.standing_by(old) == frozenset()
    standby.ask(["a", "b"], [])
    assert ec2.tags == {"a": {STAY_TAG}, "b": {STAY_TAG}}
    assert standby.standing_by(old) == {"a", "b"}
    tagged = ec2.fleet().instances()
    standby.ask([], ["a"])
    assert standby.standing_by(tagged) == {"b"}
    assert [each.standby for each in ec2.fleet().instances()] == [False, True]


def test_a_controller_that_takes_over_knows_who_stands_by_by_the_tag() -> None:
    ec2 = FakeEC2(states={"a": "running", "b": "terminated"}, tags={"a": {STAY_TAG}, "b": {STAY_TAG}})
    described = ec2.fleet().instances(("running", "terminated"))
    assert Standby(ec2.fleet(), lambda: True, Clock()).standing_by(described) == {"a"}


def test_after_a_refusal_nobody_counts_as_told_and_it_is_tried_again_later() -> None:
    ec2, clock = FakeEC2(states={"a": "running"}, refuses=True), Clock()
    standby = Standby(ec2.fleet(), lambda: True, clock)
    standby.ask(["a"], [])
    assert standby.standing_by(ec2.fleet().instances()) == frozenset()
    ec2.refuses = False
    standby.ask(["a"], [])
    assert ec2.tags == {}, "too soon"
    clock.now += PAUSE_SECONDS
    standby.ask(["a"], [])
    assert ec2.tags == {"a": {STAY_TAG}}


def test_without_the_lease_nobody_is_told() -> None:
    ec2 = FakeEC2(states={"a": "running"})
    Standby(ec2.fleet(), lambda: False, Clock()).ask(["a"], [])
    assert ec2.tags == {}
