"""The launcher: nothing is launched twice, nothing is omitted, and refused offerings give way to others."""

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import FleetSettings
from services.sqs import QueueCounts
from tests.support.autoscaler import Clock, Scaler, failing, fleet_settings
from tests.support.memory_aws.ec2 import MemoryEC2
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.launcher import TRANSITIONS, TRANSITIONS_OF_REPEATED, CallState, JournalAction
from web_tier.autoscaler.metrics import total_of
from web_tier.autoscaler.observe import LAUNCH_VISIBLE_SECONDS, Observation
from web_tier.autoscaler.offerings import (
    ERROR_SCOPE,
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_REPORTED,
    Offering,
    UnavailableOfferings,
    offerings,
)


@pytest.mark.parametrize("failure", ["lost", "lost RequestLimitExceeded", "timeout", "InternalError", "503"])
def test_a_launch_of_unknown_outcome_is_repeated_with_its_token_and_gives_exactly_n(failure: str) -> None:
    scaler = Scaler(failing(failure))
    scaler.hide_launches()
    scaler.round(100)
    assert scaler.problem() is not None
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5
    assert len(set(scaler.tokens())) == 1
    assert scaler.problem() is None
    scaler.round(100)
    assert len(scaler.ec2.alive()) == 5


def test_a_refusal_of_the_repeated_call_says_nothing_about_the_first() -> None:
    scaler = Scaler(failing("lost", "RequestLimitExceeded"))
    scaler.hide_launches()
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


def test_a_refused_launch_backs_off_and_is_repeated_with_a_new_token() -> None:
    scaler = Scaler(failing("InsufficientInstanceCapacity", "RequestLimitExceeded"))
    scaler.round(20)
    assert scaler.problem() == "EC2 refuses launches: c7a.large: InsufficientInstanceCapacity"
    scaler.round(20, after=0.1)
    assert len(scaler.ec2.calls) == 1, "it is backing off"
    scaler.round(0)
    assert scaler.problem() is None, "nothing is missing"
    scaler.active = False
    scaler.round(20)
    assert len(scaler.ec2.calls) == 1, "the lease is lost"
    scaler.active = True
    scaler.round(20)
    scaler.round(20)
    assert len(set(scaler.tokens())) == 3
    assert scaler.problem() is None
    assert len(scaler.ec2.alive()) == 1
    metrics = scaler.launcher.metrics
    outcomes = {name: total_of(metrics.launch_calls, {name}) for name in ("no_capacity", "rejected", "complete")}
    assert outcomes == {"no_capacity": 1, "rejected": 1, "complete": 1}
    assert metrics.registry.get_sample_value("fleetsight_instances_launched_total") == 1


def test_of_a_partial_launch_the_rest_is_tried_again() -> None:
    scaler = Scaler(MemoryEC2(room=12))
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 12
    scaler.ec2.room = 100
    scaler.round(1_000)
    assert len(scaler.ec2.alive()) == 19
    assert [call["MaxCount"] for call in scaler.ec2.calls] == [19, 7]


def test_nothing_is_launched_twice_while_descriptions_lag() -> None:
    scaler = Scaler()
    scaler.hide_launches()
    for _ in range(int(LAUNCH_VISIBLE_SECONDS)):
        scaler.round(100, after=1.0)
    assert len(scaler.ec2.alive()) == 5


def test_stopped_instances_that_cannot_be_started_do_not_prevent_launches() -> None:
    scaler = Scaler(MemoryEC2(states={"i-0": "stopped"}, start_fails="IncorrectInstanceState"))
    scaler.round(40)
    assert scaler.problem() == "IncorrectInstanceState: no"
    scaler.round(40)
    assert len(scaler.ec2.alive()) == 2


def test_a_start_whose_reply_was_lost_is_repeated_and_nothing_launched_in_its_place() -> None:
    scaler = Scaler(failing("lost", "RequestLimitExceeded"))
    scaler.ec2.states["i-0"] = scaler.ec2.stale["i-0"] = "stopped"
    for _ in range(3):
        scaler.round(20)
    assert scaler.ec2.states == {"i-0": "pending"}
    assert scaler.ec2.calls == []


def test_every_state_has_a_transition_and_no_refused_repeat_discards_the_first_call() -> None:
    assert set(TRANSITIONS) == set(TRANSITIONS_OF_REPEATED) == set(CallState)
    discarded = {state for state, (action, _) in TRANSITIONS_OF_REPEATED.items() if action is JournalAction.DISCARD}
    assert discarded == {CallState.SPENT}


def test_a_lost_launch_of_which_a_part_is_described_is_made_again_even_without_room() -> None:
    scaler = Scaler(failing("lost"))
    scaler.ec2.hidden.update(f"i-{number}" for number in range(3, 19))
    scaler.round(1_000)
    scaler.round(1_000, fleet_settings(max_workers=5))
    assert len(scaler.ec2.calls) == 2, "it did take place, so that a second call gives the same"
    scaler.round(1_000, after=1)
    assert len(scaler.ec2.alive()) == 19
    assert scaler.problem() is None


SPOT = {"market": "spot", "instance_types": ("c7a.large", "c6a.large"), "subnet_ids": ("subnet-1", "subnet-2")}


def requested(scaler: Scaler) -> list[tuple[bool, str, str, int]]:
    """Each call: whether it was for Spot, type, subnet, and how many."""
    return [
        ("InstanceMarketOptions" in call, call["InstanceType"], call["SubnetId"], call["MaxCount"])
        for call in scaler.ec2.calls
    ]


def offering_ec2(answers: dict[tuple[bool, str, str], int | str]) -> MemoryEC2:
    """An EC2 that has so many of each offering, or refuses it; all others it has."""
    return MemoryEC2(
        offer=lambda call: answers.get(("InstanceMarketOptions" in call, call["InstanceType"], call["SubnetId"]))
    )


def test_a_refused_choice_gives_way_to_the_next_with_a_new_token_at_the_next_round() -> None:
    scaler = Scaler(offering_ec2({(True, "c7a.large", "subnet-1"): "InsufficientInstanceCapacity"}))
    fleet = fleet_settings(**SPOT)
    scaler.round(100, fleet)
    assert "c7a.large (Spot) in subnet-1: InsufficientInstanceCapacity" in str(scaler.problem())
    assert scaler.launcher.status_text == scaler.problem(), "no call waits"
    scaler.round(100, fleet, after=0.1)
    assert requested(scaler) == [(True, "c7a.large", "subnet-1", 5), (True, "c7a.large", "subnet-2", 5)]
    assert len(set(scaler.tokens())) == 2
    assert len(scaler.ec2.alive()) == 5
    assert scaler.problem() is None


def test_the_rest_of_a_partial_launch_goes_to_the_next_choice_at_the_next_round() -> None:
    scaler = Scaler(offering_ec2({(True, "c7a.large", "subnet-1"): 12}))
    fleet = fleet_settings(**SPOT)
    scaler.round(1_000, fleet)
    scaler.round(1_000, fleet, after=0.1)
    assert requested(scaler) == [(True, "c7a.large", "subnet-1", 19), (True, "c7a.large", "subnet-2", 7)]
    assert len(scaler.ec2.alive()) == 19


def test_a_wait_for_spot_capacity_asks_each_choice_once_and_delays_no_other_launch() -> None:
    choices = product((True,), SPOT["instance_types"], SPOT["subnet_ids"])
    scaler = Scaler(offering_ec2(dict.fromkeys(choices, "InsufficientInstanceCapacity")))
    fleet, seen = fleet_settings(**SPOT), Observation(QueueCounts(4, 0, 0), 0, ())
    for _ in range(9):
        scaler.clock.now += 0.1
        scaler.launcher.sync_from_store()
        scaler.launcher.apply(Plan(1, (), "starting", "", 1, is_patient=True), seen, fleet)
    assert [call[0] for call in requested(scaler)] == [True] * 4
    assert "c7a.large (Spot) in subnet-1: InsufficientInstanceCapacity" in str(scaler.problem())
    scaler.round(100, fleet, after=0.1)
    assert requested(scaler)[4:] == [(False, "c7a.large", "subnet-1", 5)]
    assert len(scaler.ec2.alive()) == 5


def test_launches_are_spread_over_the_subnets() -> None:
    scaler = Scaler(MemoryEC2())
    fleet = fleet_settings(**{**SPOT, "subnet_ids": ("subnet-1", "subnet-2", "subnet-3")})
    for backlog in (20, 40, 60, 80):
        scaler.round(backlog, fleet, after=0.1)
    assert [call[:3] for call in requested(scaler)] == [
        (True, "c7a.large", subnet) for subnet in ("subnet-1", "subnet-2", "subnet-3", "subnet-1")
    ]


def test_when_all_choices_rest_it_is_backed_off_and_said_which_and_until_when() -> None:
    scaler = Scaler(MemoryEC2(offer=lambda _call: "VcpuLimitExceeded"))
    fleet = fleet_settings(instance_types=("c7a.large", "c6a.large"))
    for _ in range(5):
        scaler.round(20, fleet, after=0.1)
    assert [call["InstanceType"] for call in scaler.ec2.calls] == ["c7a.large", "c6a.large"]
    problem = "EC2 refuses launches: c7a.large: VcpuLimitExceeded, c6a.large: VcpuLimitExceeded"
    assert scaler.problem() == problem
    assert scaler.launcher.status_text == f"{problem}; next try in 1 s"
    scaler.ec2.offer = lambda _call: None
    scaler.round(20, fleet, after=1)
    assert len(scaler.ec2.alive()) == 1
    assert scaler.problem() is None
    assert scaler.launcher.status_text is None


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "AuthFailure", "InvalidAMIID.NotFound"])
def test_what_would_meet_every_choice_backs_off_without_another_one(code: str) -> None:
    scaler = Scaler(failing(code))
    fleet = fleet_settings(**SPOT)
    scaler.round(100, fleet)
    scaler.round(100, fleet, after=0.1)
    assert len(scaler.ec2.calls) == 1, "it is backing off"
    assert scaler.problem() == f"{code}: no"
    scaler.round(100, fleet)
    assert [call[:3] for call in requested(scaler)] == [(True, "c7a.large", "subnet-1")] * 2
    assert len(scaler.ec2.alive()) == 5


_offers = st.dictionaries(
    st.tuples(st.booleans(), st.sampled_from(["c7a.large", "c6a.large"]), st.sampled_from(["subnet-1", "subnet-2"])),
    st.one_of(
        st.integers(1, 19),
        st.sampled_from(
            ["InsufficientInstanceCapacity", "Unsupported", "InsufficientFreeAddressesInSubnet", "VcpuLimitExceeded"]
        ),
    ),
)


@given(_offers, st.integers(1, 19))
def test_a_fleet_is_complete_once_refusing_choices_were_tried_and_another_has_room(
    offers: dict[tuple[bool, str, str], int | str], wanted: int
) -> None:
    scaler = Scaler(offering_ec2(offers))
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
    tried = [call[:3] for call in requested(scaler)]
    assert len(set(tried)) == len(tried), "no unavailable offering is tried again"
    on_spot = [spot for spot, _, _ in tried]
    assert on_spot == sorted(on_spot, reverse=True), "all Spot choices come before those on demand"


ALL: FleetSettings = fleet_settings(
    market="spot", instance_types=("c7a.large", "c6a.large"), subnet_ids=("subnet-1", "subnet-2")
)
OPTIONS = offerings(ALL)


def unavailable(clock: Clock) -> UnavailableOfferings:
    """Refusals without a random part."""
    return UnavailableOfferings(clock, lambda _low, high: high)


def test_offerings_are_spot_first_then_types_in_order_and_subnets_within_a_type() -> None:
    markets, types, subnets = ("spot", "on_demand"), ("c7a.large", "c6a.large"), ("subnet-1", "subnet-2")
    assert [(each.market, each.instance_type, each.subnet_id) for each in OPTIONS] == list(
        product(markets, types, subnets)
    )
    assert offerings(fleet_settings()) == (Offering("on_demand", "c7a.large", None),)
    repeated = fleet_settings(instance_types=("c7a.large", "c7a.large"), subnet_ids=("subnet-1",) * 3)
    assert len(offerings(repeated)) == 1


@pytest.mark.parametrize(
    ("code", "left"),
    [
        ("InsufficientInstanceCapacity", 7),
        ("SpotMaxPriceTooLow", 7),
        ("InsufficientFreeAddressesInSubnet", 4),
        ("VcpuLimitExceeded", 6),
        ("InvalidParameterCombination", 6),
        ("InvalidParameterValue", 6),
        ("UnsupportedOperation", 6),
        ("MaxSpotInstanceCountExceeded", 4),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", 4),
        ("UnauthorizedOperation", 4),
        ("PendingVerification", 0),
        ("OptInRequired", 0),
        ("Blocked", 0),
    ],
)
def test_a_refusal_makes_each_offering_unavailable_that_it_is_true_of(code: str, left: int) -> None:
    found = unavailable(Clock())
    found.mark_refused(OPTIONS[0], code, OPTIONS)
    assert (found.best(OPTIONS) == OPTIONS[0]) == (left == 0)
    assert sum(not found.has_none_of([each]) for each in OPTIONS) == left


def test_each_refusal_in_a_row_doubles_the_pause_to_a_bound_until_a_launch_succeeds() -> None:
    clock = Clock()
    found = unavailable(clock)
    lengths = []
    for _ in range(6):
        begun = clock.now
        found.mark_refused(OPTIONS[0], "Unsupported", OPTIONS)
        while found.best(OPTIONS) != OPTIONS[0]:
            clock.now += 1
        lengths.append(clock.now - begun)
    assert lengths == [60, 120, 240, 480, 600, 600]
    assert (FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS) == (60, 600)
    found.mark_available(OPTIONS[0])
    found.mark_short(OPTIONS[0], 12, 19)
    clock.now += FIRST_PAUSE_SECONDS
    assert found.best(OPTIONS) == OPTIONS[0]


@given(st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from([*ERROR_SCOPE]), st.integers(0, 300))))
def test_there_is_always_an_offering_and_an_available_one_is_preferred(
    refusals: list[tuple[Offering, str, int]],
) -> None:
    clock = Clock()
    found = unavailable(clock)
    for offering, code, after in refusals:
        found.mark_refused(offering, code, OPTIONS)
        clock.now += after
        free = [each for each in OPTIONS if not found.has_none_of([each])]
        assert found.best(OPTIONS) == free[0] if free else found.best(OPTIONS) in OPTIONS


def test_unavailable_offerings_are_named_with_the_reason_and_only_a_few_of_many() -> None:
    found = unavailable(Clock())
    found.mark_refused(OPTIONS[0], "VcpuLimitExceeded", OPTIONS)
    found.mark_short(OPTIONS[4], 12, 19)
    assert found.in_words(OPTIONS) == (
        "c7a.large (Spot) in subnet-1: VcpuLimitExceeded, c7a.large (Spot) in subnet-2: VcpuLimitExceeded, "
        "c7a.large in subnet-1: only 12 of 19"
    )
    for offering in OPTIONS:
        found.mark_refused(offering, "Unsupported", OPTIONS)
    assert found.in_words(OPTIONS).count("Unsupported") == MAX_REPORTED
    assert found.in_words(OPTIONS).endswith(", and 2 more")


def test_of_a_code_with_many_meanings_the_message_is_shown() -> None:
    found, free_plan = (
        unavailable(Clock()),
        "InvalidParameterCombination: The specified instance type is not eligible",
    )
    found.mark_refused(OPTIONS[0], "InvalidParameterCombination", OPTIONS[:1], free_plan)
    found.mark_refused(OPTIONS[1], "VcpuLimitExceeded", OPTIONS[1:2], "VcpuLimitExceeded: You have requested more")
    assert found.in_words(OPTIONS) == (
        f"c7a.large (Spot) in subnet-1: {free_plan}, c7a.large (Spot) in subnet-2: VcpuLimitExceeded"
    )


def test_a_launch_template_keeps_what_it_defines() -> None:
    spec = Offering("spot", "c7a.large", "subnet-1").spec(fleet_settings(launch_template="workers"))
    assert (spec.image_id, spec.user_data) == (None, None)
    assert (spec.launch_template, spec.market, spec.shutdown_behavior) == ("workers", "spot", "terminate")
