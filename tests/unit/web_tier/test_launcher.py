"""The launcher: nothing is launched twice, and nothing is left out."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import FleetSettings
from core.fleet.models import JournalEntry
from core.fleet.store import FleetStore
from services.errors import FleetsightError, LaunchError
from services.sqs import QueueCounts
from tests.support.autoscaler import EPOCH, Clock, FakeEC2, fleet_settings, refusal
from tests.support.memory_table import MemoryTable, failing_writes, run_effect
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.launch_journal import Journal, SupersededError
from web_tier.autoscaler.launcher import (
    MAX_BACKOFF_SECONDS,
    TRANSITIONS,
    TRANSITIONS_OF_REPEATED,
    CallState,
    JournalAction,
    Launcher,
    state_after_refusal,
)
from web_tier.autoscaler.observe import ENDED, LAUNCH_VISIBLE_SECONDS, LISTED, Observation, RecentLaunches
from web_tier.autoscaler.offerings import MAX_PAUSE_SECONDS, Offering


class Scaler:
    """Observe, decide and apply on a fake EC2 with a fake clock, as one controller, or as one of several."""

    def __init__(
        self, ec2: FakeEC2 | None = None, table: MemoryTable | None = None, clock: Clock | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.ec2 = ec2 or FakeEC2()
        self.table = table or MemoryTable()
        self.launches = RecentLaunches(self.clock)
        self.active = True
        self.journal = Journal(
            FleetStore(self.table), clock=self.clock, now=lambda: EPOCH + timedelta(seconds=self.clock.now)
        )
        self.launcher = Launcher(self.ec2.fleet(), self.launches, self.journal, lambda: self.active, self.clock)

    def round(self, images: int, fleet: FleetSettings | None = None, *, after: float = MAX_BACKOFF_SECONDS) -> None:
        """Let time pass, then scale once."""
        self.clock.now += after
        self.launcher.sync_from_store()
        instances = self.ec2.fleet().instances((*LISTED, *ENDED))
        seen = Observation(QueueCounts(images, 0, 0), 0, tuple(instances), self.launches.launching(instances))
        fleet = fleet or fleet_settings()
        self.launcher.apply(decide(seen, fleet), seen, fleet)

    def problem(self) -> str | None:
        return self.launcher.last_error

    def tokens(self) -> list[str]:
        return [call["ClientToken"] for call in self.ec2.calls]


def failing(*failures: str | None) -> FakeEC2:
    """An EC2 whose next launches fail so."""
    left: Iterator[str | None] = iter(failures)
    return FakeEC2(fail=lambda: next(left, None))


@pytest.mark.parametrize("failure", ["lost", "timeout", "InternalError", "503"])
def test_a_launch_of_unknown_outcome_is_made_again_with_its_token_and_gives_exactly_n(failure: str) -> None:
    scaler = Scaler(failing(failure))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    scaler.round(100)
    assert scaler.problem() is not None
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 1
    assert scaler.problem() is None
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5


def test_a_refusal_of_the_second_try_says_nothing_of_the_first() -> None:
    scaler = Scaler(failing("lost", "RequestLimitExceeded"))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    for _ in range(3):
        scaler.round(100, after=31)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 1


@pytest.mark.parametrize(("failure", "calls"), [("lost", [2, 1]), ("lost IdempotentInstanceTerminated", [1, 1])])
def test_a_lost_launch_whose_instances_have_ended_is_over(failure: str, calls: list[int]) -> None:
    scaler = Scaler(failing(failure))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(5))
    scaler.round(100)
    scaler.ec2.states |= dict.fromkeys(scaler.ec2.alive(), "terminated")
    for _ in range(3):
        scaler.round(100)
        assert scaler.problem() is None
    assert len(scaler.ec2.alive()) == 5
    assert list(Counter(scaler.tokens()).values()) == calls


def test_a_lost_launch_that_has_appeared_is_not_made_again() -> None:
    scaler = Scaler(failing("lost"))
    scaler.round(1_000)
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 19
    assert len(scaler.ec2.calls) == 1


def test_a_launch_of_unknown_outcome_holds_back_others_that_might_go_beyond_the_maximum() -> None:
    scaler = Scaler(failing("timeout"))
    scaler.round(200)
    scaler.round(200, fleet_settings(max_workers=5))
    assert scaler.ec2.alive() == [], "ten may be there or not: five more might be fifteen"
    scaler.round(200, fleet_settings(max_workers=5), after=LAUNCH_VISIBLE_SECONDS)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 2


def test_a_refused_launch_backs_off_and_comes_again_with_a_new_token() -> None:
    scaler = Scaler(failing("InsufficientInstanceCapacity", "RequestLimitExceeded"))
    scaler.round(20)
    assert scaler.problem() == "EC2 has no room for workers: c7a.large: InsufficientInstanceCapacity"
    scaler.round(20, after=0.1)
    assert len(scaler.ec2.calls) == 1, "it is backing off"
    scaler.round(20)
    scaler.round(20)
    assert len(set(scaler.tokens())) == 3
    assert scaler.problem() is None
    assert len(scaler.ec2.alive()) == 1


def test_refusals_for_ever_wait_no_longer_than_the_bound() -> None:
    scaler = Scaler(FakeEC2(fail=lambda: "VcpuLimitExceeded"))
    for _ in range(50):
        scaler.round(20, after=MAX_BACKOFF_SECONDS)
    assert len(scaler.ec2.calls) == 50


def test_of_a_partial_launch_the_rest_is_tried_again() -> None:
    scaler = Scaler(FakeEC2(room=12))
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 12
    scaler.ec2.room = 100
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 19
    assert [call["MaxCount"] for call in scaler.ec2.calls] == [19, 7]


def test_nothing_is_launched_twice_while_descriptions_lag() -> None:
    scaler = Scaler()
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    for _ in range(int(LAUNCH_VISIBLE_SECONDS)):
        scaler.round(100, after=1.0)
    assert len(scaler.ec2.alive()) == 5


def test_stopped_instances_that_cannot_be_started_do_not_keep_new_ones_from_being_launched() -> None:
    scaler = Scaler(FakeEC2(states={"i-0": "stopped"}, start_fails="IncorrectInstanceState"))
    scaler.round(40)
    assert scaler.problem() == "IncorrectInstanceState: no"
    scaler.round(40)
    assert len(scaler.ec2.alive()) == 2


def test_a_start_whose_reply_was_lost_is_made_again_and_nothing_launched_in_its_place() -> None:
    scaler = Scaler(failing("lost", "RequestLimitExceeded"))
    scaler.ec2.states["i-0"] = scaler.ec2.stale["i-0"] = "stopped"
    for _ in range(3):
        scaler.round(20)
    assert scaler.ec2.states == {"i-0": "pending"}
    assert scaler.ec2.calls == []


def test_stopped_instances_are_started() -> None:
    scaler = Scaler(FakeEC2(states={"i-0": "stopped"}))
    scaler.round(20)
    assert scaler.ec2.states == {"i-0": "pending"}
    assert scaler.ec2.calls == []


def test_nothing_is_launched_once_the_lease_is_lost() -> None:
    scaler = Scaler()
    scaler.active = False
    scaler.round(100)
    assert scaler.ec2.calls == []


def test_a_problem_is_forgotten_when_nothing_is_wanted_any_more() -> None:
    scaler = Scaler(failing("InsufficientInstanceCapacity"))
    scaler.round(20)
    scaler.round(0)
    assert scaler.problem() is None


LAUNCH = JournalEntry(token="1", count=1, at=EPOCH, spec=Offering("spot", "c7a.large").spec(fleet_settings()))
START = JournalEntry(token="2", count=1, at=EPOCH, starts=("i-0",), launched=(EPOCH,))


@pytest.mark.parametrize(
    ("entry", "code", "retries", "state"),
    [
        (LAUNCH, "500", 0, CallState.UNCERTAIN),
        (LAUNCH, "InternalError", 0, CallState.UNCERTAIN),
        (LAUNCH, "InsufficientInstanceCapacity", 0, CallState.NO_CAPACITY),
        (LAUNCH, "InsufficientInstanceCapacity", 2, CallState.NO_CAPACITY),
        (LAUNCH, "400", 0, CallState.REJECTED),
        (LAUNCH, "RequestLimitExceeded", 0, CallState.REJECTED),
        (LAUNCH, "RequestLimitExceeded", 2, CallState.UNCERTAIN),
        (LAUNCH, "IncorrectInstanceState", 0, CallState.REJECTED),
        (LAUNCH, "IdempotentInstanceTerminated", 2, CallState.SPENT),
        (START, "IncorrectInstanceState", 0, CallState.NOT_STARTABLE),
        (START, "InsufficientInstanceCapacity", 2, CallState.NOT_STARTABLE),
        (START, "VcpuLimitExceeded", 0, CallState.REJECTED),
        (START, "503", 0, CallState.UNCERTAIN),
    ],
)
def test_state_after_a_refusal(entry: JournalEntry, code: str, retries: int, state: CallState) -> None:
    assert state_after_refusal(entry, LaunchError(code, "no", retries)) is state


def test_every_state_has_a_transition_and_no_refusal_of_a_repeated_call_discards_the_first_attempt() -> None:
    assert set(TRANSITIONS) == set(TRANSITIONS_OF_REPEATED) == set(CallState)
    discarded = {state for state, (action, _) in TRANSITIONS_OF_REPEATED.items() if action is JournalAction.DISCARD}
    assert discarded == {CallState.SPENT}


def test_a_lost_launch_that_botocore_repeated_and_that_was_throttled_then_gives_exactly_n() -> None:
    scaler = Scaler(failing("lost RequestLimitExceeded"))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    scaler.round(100)
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 1


def test_a_lost_launch_of_which_a_part_is_described_is_made_again_even_without_room() -> None:
    scaler = Scaler(failing("lost"))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(3, 19))
    scaler.round(1_000)
    scaler.round(1_000, fleet_settings(max_workers=5))
    assert len(scaler.ec2.calls) == 2, "it did take place, so that a second call gives the same"
    scaler.round(1_000, after=1)
    assert len(scaler.ec2.alive()) == 19
    assert scaler.problem() is None


def test_the_problem_of_a_lost_launch_is_forgotten_once_its_workers_are_described() -> None:
    scaler = Scaler(failing("lost"))
    scaler.round(100)
    assert scaler.problem() is not None
    scaler.round(200, after=0.1)
    assert scaler.problem() is None
    assert len(scaler.ec2.calls) == 1


def test_instances_that_a_lost_launch_gave_do_not_keep_others_from_being_launched() -> None:
    scaler = Scaler(failing("lost"))
    scaler.round(200)
    scaler.round(380)
    assert len(scaler.ec2.alive()) == 19
    assert [call["MaxCount"] for call in scaler.ec2.calls] == [10, 9]


# Choices

SPOT = {"market": "spot", "instance_types": ("c7a.large", "c6a.large"), "subnet_ids": ("subnet-1", "subnet-2")}


def made(scaler: Scaler) -> list[tuple[bool, str, str, int]]:
    """Each call: whether it was for Spot, type, subnet, and how many."""
    return [
        ("InstanceMarketOptions" in call, call["InstanceType"], call["SubnetId"], call["MaxCount"])
        for call in scaler.ec2.calls
    ]


def offering(answers: dict[tuple[bool, str, str], int | str]) -> FakeEC2:
    """An EC2 that has so many of each choice, or refuses it; all others it has."""
    return FakeEC2(
        offer=lambda call: answers.get(("InstanceMarketOptions" in call, call["InstanceType"], call["SubnetId"]))
    )


def test_a_choice_that_is_refused_gives_way_to_the_next_at_the_next_look_with_a_new_token() -> None:
    scaler = Scaler(offering({(True, "c7a.large", "subnet-1"): "InsufficientInstanceCapacity"}))
    fleet = fleet_settings(**SPOT)
    scaler.round(100, fleet)
    assert "c7a.large (Spot) in subnet-1: InsufficientInstanceCapacity" in str(scaler.problem())
    assert scaler.launcher.status_text == scaler.problem(), "no call waits"
    scaler.round(100, fleet, after=0.1)
    assert made(scaler) == [(True, "c7a.large", "subnet-1", 5), (True, "c7a.large", "subnet-2", 5)]
    assert len(set(scaler.tokens())) == 2
    assert len(scaler.ec2.alive()) == 5
    assert scaler.problem() is None


def test_of_a_partial_launch_the_rest_goes_to_the_next_choice_at_the_next_look() -> None:
    scaler = Scaler(offering({(True, "c7a.large", "subnet-1"): 12}))
    fleet = fleet_settings(**SPOT)
    scaler.round(1_000, fleet)
    scaler.round(1_000, fleet, after=0.1)
    assert made(scaler) == [(True, "c7a.large", "subnet-1", 19), (True, "c7a.large", "subnet-2", 7)]
    assert len(scaler.ec2.alive()) == 19


def test_launches_are_spread_over_the_subnets() -> None:
    scaler = Scaler(FakeEC2())
    fleet = fleet_settings(**{**SPOT, "subnet_ids": ("subnet-1", "subnet-2", "subnet-3")})
    for backlog in (20, 40, 60, 80):
        scaler.round(backlog, fleet, after=0.1)
    assert [call[:3] for call in made(scaler)] == [
        (True, "c7a.large", subnet) for subnet in ("subnet-1", "subnet-2", "subnet-3", "subnet-1")
    ]


def test_without_any_spot_capacity_workers_are_launched_on_demand() -> None:
    scaler = Scaler(
        FakeEC2(offer=lambda call: ("InstanceMarketOptions" in call and "MaxSpotInstanceCountExceeded") or None)
    )
    fleet = fleet_settings(**SPOT)
    for _ in range(2):
        scaler.round(100, fleet, after=0.1)
    assert made(scaler) == [(True, "c7a.large", "subnet-1", 5), (False, "c7a.large", "subnet-1", 5)]
    assert [each.spot for each in scaler.ec2.fleet().instances()] == [False] * 5


def test_the_preferred_choice_is_tried_again_after_its_rest() -> None:
    answers: dict[tuple[bool, str, str], int | str] = {
        (True, "c7a.large", "subnet-1"): "InsufficientInstanceCapacity"
    }
    scaler = Scaler(offering(answers))
    fleet = fleet_settings(**SPOT)
    for _ in range(2):
        scaler.round(20, fleet, after=0.1)
    answers.clear()
    scaler.round(40, fleet, after=0.1)
    scaler.round(60, fleet, after=MAX_PAUSE_SECONDS)
    assert [call[2] for call in made(scaler)] == ["subnet-1", "subnet-2", "subnet-2", "subnet-1"]


def test_when_all_choices_rest_it_is_backed_off_and_said_which_and_until_when() -> None:
    scaler = Scaler(FakeEC2(offer=lambda _call: "VcpuLimitExceeded"))
    fleet = fleet_settings(instance_types=("c7a.large", "c6a.large"))
    for _ in range(5):
        scaler.round(20, fleet, after=0.1)
    assert [call["InstanceType"] for call in scaler.ec2.calls] == ["c7a.large", "c6a.large"]
    problem = "EC2 has no room for workers: c7a.large: VcpuLimitExceeded, c6a.large: VcpuLimitExceeded"
    assert scaler.problem() == problem
    assert scaler.launcher.status_text == f"{problem}; next try in 1 s"
    scaler.ec2.offer = lambda _call: None
    scaler.round(20, fleet, after=1)
    assert len(scaler.ec2.alive()) == 1
    assert scaler.problem() is None
    assert scaler.launcher.status_text is None


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation", "InvalidAMIID.NotFound"])
def test_what_would_meet_every_choice_backs_off_without_another_one(code: str) -> None:
    scaler = Scaler(failing(code))
    fleet = fleet_settings(**SPOT)
    scaler.round(100, fleet)
    scaler.round(100, fleet, after=0.1)
    assert len(scaler.ec2.calls) == 1, "it is backing off"
    assert scaler.problem() == f"{code}: no"
    scaler.round(100, fleet)
    assert [call[:3] for call in made(scaler)] == [(True, "c7a.large", "subnet-1")] * 2
    assert len(scaler.ec2.alive()) == 5


def test_a_launch_of_unknown_outcome_is_made_again_as_it_was_whatever_is_configured_by_then() -> None:
    scaler = Scaler(failing("lost"))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(100))
    scaler.round(100)
    scaler.round(100, fleet_settings(instance_types=("m7a.large",), image_id="ami-2", user_data="#!/bin/true"))
    first, second = scaler.ec2.calls
    assert first == second


_offers = st.dictionaries(
    st.tuples(st.booleans(), st.sampled_from(["c7a.large", "c6a.large"]), st.sampled_from(["subnet-1", "subnet-2"])),
    st.one_of(
        st.integers(1, 19),
        st.sampled_from(
            ["InsufficientInstanceCapacity", "Unsupported", "InsufficientFreeAddressesInSubnet", "VcpuLimitExceeded"]
        ),
    ),
)


@settings(max_examples=60)
@given(_offers, st.integers(1, 19))
def test_whatever_some_choices_refuse_the_fleet_is_complete_once_each_was_tried_and_another_has_room(
    offers: dict[tuple[bool, str, str], int | str], wanted: int
) -> None:
    scaler = Scaler(offering(offers))
    fleet = fleet_settings(
        **{
            **SPOT,
            "instance_types": ("c7a.large", "c6a.large", "m7a.large"),
            "subnet_ids": (*SPOT["subnet_ids"], "subnet-3"),
        }
    )
    for _ in range(18):
        scaler.round(20 * wanted, fleet, after=0.1)
    assert len(scaler.ec2.alive()) == wanted
    assert scaler.problem() is None
    asked = [call[:3] for call in made(scaler)]
    assert len(set(asked)) == len(asked), "nothing is tried twice while it rests"
    on_spot = [spot for spot, _, _ in asked]
    assert on_spot == sorted(on_spot, reverse=True), "all Spot choices come before those on demand"


# The journal


def test_a_launch_is_written_down_before_it_is_made_and_what_it_gave_at_the_latest_at_the_next_look() -> None:
    scaler = Scaler()
    written: list[Any] = []
    scaler.ec2.reached = lambda where: written.append((where, FleetStore(scaler.table).journal().entries))
    scaler.round(100)
    [(_, [entry]), _] = written
    assert (entry.count, entry.instance_ids, entry.token) == (5, None, scaler.tokens()[0])
    assert entry.spec is not None
    scaler.round(100, after=0.1)
    [entry] = FleetStore(scaler.table).journal().entries
    assert entry.instance_ids == tuple(f"i-{number}" for number in range(5))
    assert entry.spec is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_launched_that_may_not_have_been_written_down(when: str) -> None:
    scaler = Scaler()
    scaler.round(0)

    def fail(now: str) -> None:
        if now == when:
            raise refusal("InternalServerError", "PutItem")

    scaler.table.call = failing_writes(fail)
    for _ in range(3):
        with pytest.raises(Exception, match="InternalServerError"):
            scaler.round(100)
    assert scaler.ec2.calls == []
    scaler.table.call = run_effect
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5


def test_a_refused_launch_leaves_nothing_in_the_journal() -> None:
    scaler = Scaler(failing("UnauthorizedOperation"))
    scaler.round(100)
    scaler.round(100, after=0.1)
    assert FleetStore(scaler.table).journal().entries == ()


def test_a_start_of_stopped_instances_is_written_down_too() -> None:
    scaler = Scaler(FakeEC2(states={"i-0": "stopped"}))
    written: list[Any] = []
    scaler.ec2.reached = lambda _where: written.append(FleetStore(scaler.table).journal().entries)
    scaler.round(20)
    [[entry]] = written
    assert (entry.starts, entry.count, entry.spec, entry.instance_ids) == (("i-0",), 1, None, None)


def test_a_successor_counts_what_was_launched_while_descriptions_lag() -> None:
    first = Scaler()
    first.ec2.hidden.update(f"i-{number}" for number in range(100))
    first.round(100)
    first.round(100, after=1)
    second = Scaler(first.ec2, first.table, first.clock)
    for _ in range(int(LAUNCH_VISIBLE_SECONDS) - 1):
        second.round(100, after=1)
    assert len(second.ec2.alive()) == 5
    assert second.launches.recent() == 0


def test_a_successor_knows_how_many_were_launched_within_the_last_minute() -> None:
    first = Scaler()
    first.round(100)
    first.round(100, after=1)
    second = Scaler(first.ec2, first.table, first.clock)
    second.round(100, after=29)
    assert second.launches.recent() == 5
    second.round(100, after=31)
    assert second.launches.recent() == 0


def test_one_that_was_superseded_launches_nothing_and_learns_what_the_other_launched() -> None:
    first = Scaler()
    first.round(0)
    first.ec2.hidden.update(f"i-{number}" for number in range(100))
    second = Scaler(first.ec2, first.table, first.clock)
    second.round(200)
    with pytest.raises(SupersededError):
        first.round(380)
    assert len(first.ec2.alive()) == 10
    first.round(380, after=1)
    assert len(set(first.tokens())) == 1, "what the second had not noted yet is called again with its token"
    first.round(380, after=1)
    assert len(first.ec2.alive()) == 19, "it has the lease again, and goes on from there"


class Killed(BaseException):
    """kill -9."""


STEPS = ("before", "after", "call", "reply")


def interrupt(scaler: Scaler, step: int, action: Any) -> None:
    """Have `action` called when this controller reaches the given one of its steps."""
    left = iter(range(10_000))

    def reached(where: str) -> None:
        assert where in STEPS
        if next(left) == step:
            action()

    scaler.table.call = failing_writes(reached)
    scaler.ec2.reached = reached


def undisturb(scaler: Scaler) -> None:
    """End the interruptions."""
    scaler.table.call = run_effect
    scaler.ec2.reached = lambda _where: None


_failures = ["lost", "lost RequestLimitExceeded", "timeout", "InsufficientInstanceCapacity", "RequestLimitExceeded"]


@settings(max_examples=100)
@given(
    step=st.integers(0, 15),
    killed=st.booleans(),
    rounds=st.integers(0, 4),
    failures=st.lists(st.sampled_from([None, *_failures]), max_size=6),
    demands=st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0.1, 1.0, 12.0])), min_size=1, max_size=5),
    hidden=st.booleans(),
    room=st.integers(1, 19),
    stopped=st.integers(0, 3),
)
def test_wherever_a_controller_is_killed_or_frozen_two_launch_no_more_than_one_would(
    step: int,
    killed: bool,
    rounds: int,
    failures: list[str | None],
    demands: list[tuple[int, float]],
    hidden: bool,
    room: int,
    stopped: int,
) -> None:
    left = iter(failures)
    ec2 = FakeEC2(room=room, fail=lambda: next(left, None))
    ec2.states = dict.fromkeys([f"s-{number}" for number in range(stopped)], "stopped")
    if hidden:
        # Nothing is described in time: all that the second knows of the first is in the journal.
        ec2.hidden.update(f"i-{number}" for number in range(100))
        ec2.stale |= ec2.states
    clock = Clock()
    first = Scaler(ec2, clock=clock)
    second = Scaler(ec2, first.table, clock)
    fleet, most = fleet_settings(max_workers=15), max(images for images, _ in demands)

    def scale(scaler: Scaler, images: int, after: float) -> None:
        with suppress(FleetsightError, ClientError):
            scaler.round(images, fleet, after=after)

    def take_over() -> None:
        undisturb(first)
        for images, after in (demands * 4)[:rounds]:
            scale(second, images, after)
        if killed:
            raise Killed

    interrupt(first, step, take_over)
    try:
        for images, after in demands:
            # The lease is no help here: both believe that they hold it, all the time.
            scale(first, images, after)
    except Killed:
        first.active = False
    undisturb(first)
    for scaler in [second] if killed else [first, second, first, second]:
        scale(scaler, most, 1.0)
        assert ec2.max_alive <= min(15, math.ceil(most / 20))


_events = st.lists(
    st.tuples(
        st.sampled_from(
            [None, None, "lost", "timeout", "500", "InsufficientInstanceCapacity", "RequestLimitExceeded"]
        ),
        st.integers(0, 600),
        st.sampled_from([0.1, 1.0, 30.0]),
        st.integers(0, 6),
        st.sampled_from(["terminated", "stopped"]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=200)
@given(_events, st.integers(0, 12), st.integers(1, 15))
def test_no_schedule_of_faults_and_lags_leads_beyond_the_maximum(
    events: list[tuple[str | None, int, float, int, str, bool]], maximum: int, room: int
) -> None:
    failure: list[str | None] = [None]
    scaler = Scaler(FakeEC2(room=room, fail=lambda: failure[0]))
    fleet = fleet_settings(max_workers=maximum, images_per_worker=10)
    hidden_since: dict[str, float] = {}
    for failure[0], images, after, ended, how, lag in events:
        for key in scaler.ec2.alive()[:ended]:
            scaler.ec2.states[key] = how
        # Descriptions lag, as they do on EC2, by less than what is remembered.
        for key in scaler.ec2.states:
            hidden_since.setdefault(key, scaler.clock.now)
        late = scaler.clock.now + after - LAUNCH_VISIBLE_SECONDS
        scaler.ec2.hidden = {key for key, since in hidden_since.items() if lag and since > late}
        scaler.round(images, fleet, after=after)
        assert scaler.ec2.max_alive <= maximum
