"""Orders of ops are read now and then, and carried out once."""

from collections.abc import Iterable
from dataclasses import replace

import pytest

from core.fleet_store import Orders
from core.messages import FleetPause
from services.ec2 import Instance
from services.sqs import QueueCounts
from tests.support.controller import EPOCH, Clock, instance, refusal
from tests.unit.web_tier.controller.autoscaler.apply.test_drain import Tags, drainer
from web_tier.controller.autoscaler.apply.orders import GONE_SECONDS, READ_SECONDS, DrainCommands, OrdersWatch
from web_tier.controller.autoscaler.observe.observe import Observation
from web_tier.controller.autoscaler.tell.decisions import News


class Store:
    """Says what it is told to, and forgets what is dropped."""

    def __init__(self) -> None:
        self.there = Orders()
        self.error: Exception | None = None
        self.reads = 0

    def orders(self) -> Orders:
        self.reads += 1
        if self.error:
            raise self.error
        return self.there

    def drop_drains(self, instance_ids: Iterable[str]) -> None:
        dropped = set(instance_ids)
        self.there = replace(self.there, drain=tuple(key for key in self.there.drain if key not in dropped))


def test_an_order_is_seen_within_a_second_and_read_no_more_often() -> None:
    clock, store = Clock(), Store()
    watch = OrdersWatch(store, clock)
    assert [watch.current() for _ in range(9)] == [Orders()] * 9
    assert store.reads == 1
    store.there = Orders(pause=FleetPause(since=EPOCH))
    clock.now += READ_SECONDS
    assert watch.current() == store.there


def test_when_they_cannot_be_read_there_is_no_answer() -> None:
    clock, store = Clock(), Store()
    watch = OrdersWatch(store, clock)
    assert watch.current() == Orders()
    store.error = refusal("InternalServerError", "Query")
    clock.now += READ_SECONDS
    for _ in range(2):
        with pytest.raises(type(store.error)):
            watch.current()


class Bench:
    """Orders to drain, and an EC2 that takes down who was asked."""

    def __init__(self, *ordered: str, active: bool = True) -> None:
        self.clock, self.store, self.ec2 = Clock(), Store(), Tags()
        self.store.there = Orders(drain=ordered)
        self.drainer = drainer(self.ec2, self.clock, active=active)
        self.orders = DrainCommands(OrdersWatch(self.store, self.clock), self.drainer, self.clock)

    @property
    def left(self) -> list[str]:
        """The orders that stand."""
        return list(self.store.there.drain)

    def carry_out(self, *instances: Instance, coming: Iterable[str] = ()) -> list[News]:
        """Carry the orders out at a look that shows `instances`."""
        seen = Observation(QueueCounts(0, 0, 0), 0, instances, frozenset(coming))
        return self.orders.carry_out(replace(seen, draining=self.drainer.draining(instances)))


def test_an_instance_is_asked_once_and_its_order_deleted_when_that_is_sure() -> None:
    bench = Bench("i-0")
    assert bench.carry_out(instance("i-0")) == [News("ops have asked i-0 to drain")]
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
    bench.clock.now += GONE_SECONDS - 1
    bench.carry_out()
    assert bench.left == ["i-0"]
    bench.carry_out(instance("i-0"))
    assert bench.ec2.asked == [["i-0"]]
    bench = Bench("i-0")
    bench.carry_out()
    bench.clock.now += GONE_SECONDS
    bench.carry_out()
    assert bench.left == []


def test_one_that_has_just_been_launched_is_asked_as_soon_as_it_is_described() -> None:
    bench = Bench("i-0")
    for _ in range(3):
        bench.carry_out(coming=["i-0"])
        bench.clock.now += GONE_SECONDS
    assert (bench.ec2.asked, bench.left) == ([], ["i-0"])
    bench.carry_out(instance("i-0", "pending"))
    assert bench.ec2.asked == [["i-0"]]


def test_a_controller_that_no_longer_acts_neither_asks_nor_deletes() -> None:
    bench = Bench("i-0", "i-gone", active=False)
    bench.carry_out(instance("i-0"), instance("i-gone", "stopped"))
    assert (bench.ec2.asked, bench.left) == ([], ["i-0", "i-gone"])
