"""Workers are asked once, remembered until they are gone, and asked again when EC2 refused."""

from dataclasses import replace
from typing import Any, cast

from services.ec2 import Fleet
from tests.unit.web_tier.controller.fakes import Clock, instance, refusal
from web_tier.controller.autoscaler.drain import PAUSE_SECONDS, Drainer


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
