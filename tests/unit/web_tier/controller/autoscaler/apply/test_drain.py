"""Workers are asked once, remembered until they are gone, and asked again when EC2 refused."""

from dataclasses import replace
from typing import Any, cast

from services.ec2 import Fleet
from services.sqs import QueueCounts
from tests.support.controller import Clock, FakeEC2, instance, refusal
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits
from web_tier.controller.autoscaler.apply.drain import PAUSE_SECONDS, Drainer
from web_tier.controller.autoscaler.decide.decide import decide
from web_tier.controller.autoscaler.observe.observe import Observation


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
    asking.ask(["i-1"], "too many")
    assert ec2.asked == [["i-1"]]
    assert asking.draining(here) == {"i-1"}
    assert asking.draining(here[1:]) == frozenset(), "it has ended"


def test_whoever_an_earlier_controller_asked_is_known_by_the_tag() -> None:
    here = [replace(instance("i-1"), draining=True), instance("i-2")]
    assert drainer(Tags(), Clock()).draining(here) == {"i-1"}


def test_after_a_refusal_nobody_counts_as_asked_and_it_is_tried_again_later() -> None:
    ec2, clock = Tags(), Clock()
    ec2.fails, asking = True, drainer(ec2, clock)
    asking.ask(["i-1"], "too many")
    ec2.fails = False
    assert asking.draining([instance("i-1")]) == frozenset()
    asking.ask(["i-1"], "too many")
    assert ec2.asked == [], "too soon"
    clock.now += PAUSE_SECONDS
    asking.ask(["i-1"], "too many")
    assert ec2.asked == [["i-1"]]


def test_without_the_lease_nobody_is_asked() -> None:
    ec2 = Tags()
    drainer(ec2, Clock(), active=False).ask(["i-1"], "too many")
    assert ec2.asked == []


def test_a_stopped_worker_is_no_longer_asked_so_that_it_works_once_it_is_started_again() -> None:
    ec2, clock = FakeEC2(states={"i-1": "running", "i-2": "running"}), Clock()
    asking = Drainer(ec2.fleet(), lambda: True, clock)
    asking.ask(["i-1", "i-2"], "too many")
    ec2.states["i-1"], ec2.refuses = "stopped", True
    asking.forget_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [True, True]
    ec2.refuses = False
    asking.forget_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [True, True], "too soon"
    clock.now += PAUSE_SECONDS
    asking.forget_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [False, True]
    ec2.states["i-1"] = "running"
    assert asking.draining(ec2.fleet().instances()) == {"i-2"}


def test_a_stopped_worker_is_not_started_while_it_would_end_again() -> None:
    waiting = Observation(QueueCounts(20, 0, 0), 0, (replace(instance("i-1", "stopped"), draining=True),))
    assert (decide(waiting, limits()).start, decide(waiting, limits()).launch) == ((), 1)
