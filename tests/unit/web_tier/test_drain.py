"""Drain, scale-in protection, and the operators' commands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import pytest

from core.fleet.models import FleetPause, FleetResume
from core.fleet.store import Commands
from services.ec2 import Instance
from services.lease import Tenure
from services.metadata import DRAIN_TAG, PROTECTED_TAG
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, CommandStore, booting, fleet_settings, instance, observation
from tests.support.memory_aws.ec2 import EPOCH, MemoryEC2
from web_tier.autoscaler.decide import decide, workers_to_protect
from web_tier.autoscaler.drain import COMMAND_SECONDS, MISSING_SECONDS, PAUSE_SECONDS, OperatorCommands, WorkerTags
from web_tier.autoscaler.observe import FleetMetrics, Observation
from web_tier.autoscaler.reporting import FleetEvent

ROLES = ["drain", "protection"]


@dataclass
class Tagger:
    """Tags for draining, or for scale-in protection, over a fake EC2 with the workers `a` and `b`."""

    role: str
    active: bool = True

    def __post_init__(self) -> None:
        self.clock, self.ec2 = Clock(), MemoryEC2(states={"a": "running", "b": "running"})
        self.tag = DRAIN_TAG if self.role == "drain" else PROTECTED_TAG
        self.start()

    def start(self) -> None:
        """Start one that remembers nothing, as another controller does."""
        self.tags = WorkerTags(self.ec2.fleet(), Tenure(active=lambda: self.active), self.clock)

    def add(self, *workers: str) -> None:
        if self.role == "drain":
            self.tags.drain(workers, "too many")
        else:
            self.tags.protect(workers, [])

    def tagged(self, instances: Sequence[Instance]) -> frozenset[str]:
        """The workers that count as tagged, given a description."""
        return (self.tags.draining if self.role == "drain" else self.tags.protected)(instances)

    def described(self) -> list[Instance]:
        return self.ec2.fleet().instances(("running", "stopped", "terminated"))


@pytest.mark.parametrize("role", ROLES)
def test_a_tagged_worker_counts_despite_a_lagging_description_and_a_new_controller(role: str) -> None:
    tagger = Tagger(role)
    old = tagger.described()
    assert tagger.tagged(old) == frozenset()
    tagger.add("a")
    assert tagger.ec2.tags == {"a": {tagger.tag}}
    assert tagger.tagged(old) == {"a"}
    assert tagger.tagged(old[1:]) == frozenset(), "it has ended"
    tagger.start()
    assert tagger.tagged(tagger.described()) == {"a"}


@pytest.mark.parametrize("role", ROLES)
def test_after_a_refusal_no_worker_counts_as_tagged_and_the_call_is_repeated_later(role: str) -> None:
    tagger = Tagger(role)
    tagger.ec2.refuses = True
    tagger.add("a")
    tagger.ec2.refuses = False
    assert tagger.tagged(tagger.described()) == frozenset()
    tagger.add("a")
    assert tagger.ec2.tags == {}, "too soon"
    tagger.clock.now += PAUSE_SECONDS
    tagger.add("a")
    assert tagger.ec2.tags == {"a": {tagger.tag}}


@pytest.mark.parametrize("role", ROLES)
def test_without_the_lease_no_worker_is_tagged(role: str) -> None:
    tagger = Tagger(role, active=False)
    tagger.add("a")
    assert tagger.ec2.tags == {}


def test_a_worker_is_no_longer_protected_although_its_description_lags() -> None:
    tagger = Tagger("protection")
    tagger.add("a", "b")
    described = tagger.described()
    tagger.tags.protect([], ["a"])
    assert tagger.tags.protected(described) == {"b"}
    assert [each.protected for each in tagger.described()] == [False, True]
    tagger.ec2.states["b"] = "terminated"
    tagger.start()
    assert tagger.tags.protected(tagger.described()) == frozenset()


def test_a_stopped_worker_is_untagged_so_that_it_works_once_it_is_started_again() -> None:
    ec2, clock = MemoryEC2(states={"i-1": "running", "i-2": "running"}), Clock()
    tags = WorkerTags(ec2.fleet(), Tenure(), clock)
    tags.drain(["i-1", "i-2"], "too many")
    ec2.states["i-1"], ec2.refuses = "stopped", True
    tags.untag_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [True, True]
    ec2.refuses = False
    tags.untag_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [True, True], "too soon"
    clock.now += PAUSE_SECONDS
    tags.untag_stopped(ec2.fleet().instances())
    assert [each.draining for each in ec2.fleet().instances()] == [False, True]
    ec2.states["i-1"] = "running"
    assert tags.draining(ec2.fleet().instances()) == {"i-2"}


def test_a_stopped_worker_is_not_started_while_it_would_end_again() -> None:
    waiting = Observation(QueueCounts(20, 0, 0), 0, (replace(instance("i-1", "stopped"), draining=True),))
    assert (decide(waiting, fleet_settings()).start, decide(waiting, fleet_settings()).launch) == ((), 1)


class Bench:
    """The operators' commands, and an EC2 in which instances get the tag."""

    def __init__(self, *drain: str, active: bool = True) -> None:
        self.clock, self.store, self.ec2 = Clock(), CommandStore(), MemoryEC2()
        self.store.stored = Commands(drain=drain)
        self.tags = WorkerTags(self.ec2.fleet(), Tenure(active=lambda: active), self.clock)
        self.commands = OperatorCommands(self.store, self.tags)

    @property
    def left(self) -> list[str]:
        """The commands that are stored."""
        return list(self.store.stored.drain)

    def carry_out(self, *instances: Instance, launching: Iterable[str] = ()) -> list[FleetEvent]:
        """Carry the commands out in a round that observes `instances`."""
        observed = Observation(QueueCounts(0, 0, 0), 0, instances, frozenset(launching))
        return self.commands.carry_out_drains(replace(observed, draining=self.tags.draining(instances)))


def test_the_end_of_a_pause_is_an_event_with_its_author_once() -> None:
    bench, resume = Bench(), FleetResume(at=EPOCH, by="ada@example.org")
    bench.store.stored = Commands(pause=FleetPause(since=EPOCH), resume=resume)
    assert bench.commands.report_resume() == [], "the pause has not ended yet, or there is another one"
    bench.store.stored = Commands(resume=resume)
    bench.clock.now += COMMAND_SECONDS
    events = [bench.commands.report_resume() for _ in range(2)]
    assert events == [[FleetEvent("resumed by ada@example.org", EPOCH)], []]
    assert bench.store.stored.resume is None
    standby = Bench(active=False)
    standby.store.stored = Commands(resume=resume)
    assert standby.commands.report_resume() == []
    assert standby.store.stored.resume == resume


def test_a_command_that_an_earlier_controller_carried_out_is_deleted() -> None:
    bench = Bench("i-0")
    assert bench.carry_out(replace(instance("i-0"), draining=True)) == []
    assert (bench.ec2.drained, bench.left) == ([], [])


def test_a_command_stays_while_ec2_refuses_and_is_reported_once() -> None:
    bench = Bench("i-0")
    bench.ec2.refuses = True
    events = [bench.carry_out(instance("i-0")) for _ in range(3)]
    assert [len(each) for each in events] == [1, 0, 0]
    assert bench.left == ["i-0"]
    bench.ec2.refuses = False
    bench.clock.now += 10
    for _ in range(2):
        bench.carry_out(instance("i-0"))
    assert (bench.ec2.drained, bench.left) == (["i-0"], [])


def test_a_command_for_a_stopped_instance_is_deleted_with_a_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench("i-0")
    assert bench.carry_out(instance("i-0", "stopped")) == []
    assert (bench.ec2.drained, bench.left) == ([], [])
    assert [record.instance for record in caplog.records] == ["i-0"]  # type: ignore[attr-defined]
    assert "no such instance is running" in caplog.text


def test_a_command_for_an_instance_that_is_missing_is_kept_for_a_while() -> None:
    bench = Bench("i-0")
    bench.carry_out()
    bench.clock.now += MISSING_SECONDS - 1
    bench.carry_out()
    assert bench.left == ["i-0"]
    bench.carry_out(instance("i-0"))
    assert bench.ec2.drained == ["i-0"]
    bench = Bench("i-0")
    bench.carry_out()
    bench.clock.now += MISSING_SECONDS
    bench.carry_out()
    assert bench.left == []


def test_a_controller_that_no_longer_acts_neither_drains_nor_deletes_commands() -> None:
    bench = Bench("i-0", "i-gone", active=False)
    bench.carry_out(instance("i-0"), instance("i-gone", "stopped"))
    assert (bench.ec2.drained, bench.left) == ([], ["i-0", "i-gone"])


FOUR = observation(states=("running", "running", "pending", "running"))


def test_the_oldest_registered_workers_are_protected_and_booting_ones_if_too_few() -> None:
    assert workers_to_protect(FOUR, 2) == ("i-0", "i-1")
    late = replace(FOUR, metrics=FleetMetrics(unregistered=booting("i-0", "i-2")))
    assert workers_to_protect(late, 2) == ("i-1", "i-3")
    assert workers_to_protect(late, 3) == ("i-1", "i-3", "i-0")
    assert workers_to_protect(FOUR, 9) == ("i-0", "i-1", "i-2", "i-3")
    assert workers_to_protect(FOUR, 0) == ()
    assert workers_to_protect(replace(FOUR, protected=frozenset({"i-3"})), 2) == ("i-3", "i-0")


PROTECTED = replace(FOUR, protected=frozenset({"i-1", "i-3"}))
ENDING = replace(PROTECTED, draining=frozenset({"i-1"}), unhealthy=frozenset({"i-3"}))
STOPPED = replace(observation(states=("stopped",)), protected=frozenset({"i-0"}))
PAUSED = replace(FOUR, pause=FleetPause(since=EPOCH), protected=frozenset({"i-1"}))


@pytest.mark.parametrize(
    ("observed", "settings", "protect", "unprotect"),
    [
        (PROTECTED, {"min_workers": 2}, (), ()),
        (PROTECTED, {"min_workers": 1}, (), ("i-3",)),
        (PROTECTED, {}, (), ("i-1", "i-3")),
        (ENDING, {"min_workers": 2}, ("i-0", "i-2"), ("i-1", "i-3")),
        (STOPPED, {}, (), ("i-0",)),
        (FOUR, {"policy": "fixed", "max_workers": 4}, ("i-0", "i-1", "i-2", "i-3"), ()),
        (PAUSED, {"min_workers": 2}, ("i-0",), ()),
    ],
    ids=["no change", "fewer", "none", "draining and unhealthy", "stopped", "a fixed fleet", "a paused fleet"],
)
def test_workers_of_the_minimum_are_protected_and_others_no_longer(
    observed: Observation, settings: dict[str, object], protect: tuple[str, ...], unprotect: tuple[str, ...]
) -> None:
    plan = decide(observed, fleet_settings(**settings))
    assert (plan.protect, plan.unprotect) == (protect, unprotect)
