"""Offerings: which are tried in which order, and which EC2 has refused."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import FleetSettings
from tests.support.autoscaler import Clock, fleet_settings
from web_tier.autoscaler.offerings import (
    ERROR_SCOPE,
    FIRST_PAUSE_SECONDS,
    MAX_PAUSE_SECONDS,
    MAX_REPORTED,
    Offering,
    UnavailableOfferings,
    offerings,
)

ALL: FleetSettings = fleet_settings(
    market="spot", instance_types=("c7a.large", "c6a.large"), subnet_ids=("subnet-1", "subnet-2")
)
OPTIONS = offerings(ALL)


def rests(clock: Clock) -> UnavailableOfferings:
    """Rests without a random part."""
    return UnavailableOfferings(clock, lambda _low, high: high)


def test_the_options_goes_through_spot_before_on_demand_types_in_order_and_subnets_within_a_type() -> None:
    markets, types, subnets = ("spot", "on_demand"), ("c7a.large", "c6a.large"), ("subnet-1", "subnet-2")
    assert [(each.market, each.instance_type, each.subnet_id) for each in OPTIONS] == list(
        product(markets, types, subnets)
    )
    assert offerings(fleet_settings()) == (Offering("on_demand", "c7a.large", None),)


def test_each_launch_begins_with_the_next_subnet_and_prefers_market_and_type_as_before() -> None:
    three = fleet_settings(market="spot", instance_types=("c7a.large", "c6a.large"), subnet_ids=("a", "b", "c"))
    optionss = [offerings(three, launches) for launches in range(4)]
    assert [options[0].subnet_id for options in optionss] == ["a", "b", "c", "a"]
    assert [options[1].subnet_id for options in optionss] == ["b", "c", "a", "b"]
    order = [(each.market, each.instance_type) for each in optionss[0]]
    for options in optionss:
        assert [(each.market, each.instance_type) for each in options] == order
        assert set(options) == set(optionss[0])


def test_what_is_named_twice_is_tried_once() -> None:
    assert (
        len(offerings(fleet_settings(instance_types=("c7a.large", "c7a.large"), subnet_ids=("subnet-1",) * 3))) == 1
    )


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
    ],
)
def test_a_refusal_lets_all_choices_rest_that_it_is_true_of(code: str, left: int) -> None:
    found = rests(Clock())
    found.mark_refused(OPTIONS[0], code, OPTIONS)
    assert found.best(OPTIONS) != OPTIONS[0]
    assert sum(not found.has_none_of([choice]) for choice in OPTIONS) == left


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation", "InvalidAMIID.NotFound"])
def test_a_refusal_that_concerns_every_offering_makes_none_unavailable(code: str) -> None:
    assert code not in ERROR_SCOPE


def test_each_refusal_in_a_row_doubles_the_rest_up_to_the_bound_and_success_ends_that() -> None:
    clock = Clock()
    found = rests(clock)
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


def test_when_all_rest_the_one_whose_rest_ends_first_is_the_best() -> None:
    clock = Clock()
    found = rests(clock)
    for choice in (OPTIONS[2], *OPTIONS):
        found.mark_refused(choice, "InsufficientInstanceCapacity", [])
        clock.now += 1
    assert found.has_none_of(OPTIONS)
    assert found.best(OPTIONS) == OPTIONS[0]
    found = rests(clock)
    for choice in reversed(OPTIONS):
        found.mark_refused(choice, "InsufficientInstanceCapacity", [])
        clock.now += 1
    assert found.best(OPTIONS) == OPTIONS[-1]


@given(st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from([*ERROR_SCOPE]), st.integers(0, 300))))
def test_there_is_always_a_choice_and_none_that_rests_is_preferred_to_one_that_does_not(
    refusals: list[tuple[Offering, str, int]],
) -> None:
    clock = Clock()
    found = rests(clock)
    for choice, code, after in refusals:
        found.mark_refused(choice, code, OPTIONS)
        clock.now += after
        free = [each for each in OPTIONS if not found.has_none_of([each])]
        assert found.best(OPTIONS) == free[0] if free else found.best(OPTIONS) in OPTIONS


def test_what_rests_is_told_with_the_reason_and_no_more_than_a_few_of_many() -> None:
    found = rests(Clock())
    found.mark_refused(OPTIONS[0], "VcpuLimitExceeded", OPTIONS)
    found.mark_short(OPTIONS[4], 12, 19)
    assert found.in_words(OPTIONS) == (
        "c7a.large (Spot) in subnet-1: VcpuLimitExceeded, c7a.large (Spot) in subnet-2: VcpuLimitExceeded, "
        "c7a.large in subnet-1: only 12 of 19"
    )
    for choice in OPTIONS:
        found.mark_refused(choice, "Unsupported", OPTIONS)
    assert found.in_words(OPTIONS).count("Unsupported") == MAX_REPORTED
    assert found.in_words(OPTIONS).endswith(", and 2 more")


def test_of_a_code_with_many_meanings_the_message_is_told() -> None:
    found, free_plan = rests(Clock()), "InvalidParameterCombination: The specified instance type is not eligible"
    found.mark_refused(OPTIONS[0], "InvalidParameterCombination", OPTIONS[:1], free_plan)
    found.mark_refused(OPTIONS[1], "VcpuLimitExceeded", OPTIONS[1:2], "VcpuLimitExceeded: You have requested more")
    assert found.in_words(OPTIONS) == (
        f"c7a.large (Spot) in subnet-1: {free_plan}, c7a.large (Spot) in subnet-2: VcpuLimitExceeded"
    )


def test_a_launch_is_what_the_configuration_says() -> None:
    spec = Offering("on_demand", "c6a.large", "subnet-2").spec(
        fleet_settings(security_group_ids=("sg-1",), scale_in="stop")
    )
    assert (spec.instance_type, spec.subnet_id, spec.market) == ("c6a.large", "subnet-2", "on_demand")
    assert (spec.image_id, spec.security_group_ids) == (fleet_settings().image_id, ("sg-1",))
    assert (spec.shutdown_behavior, spec.user_data) == ("stop", fleet_settings().user_data)
    assert Offering.of(spec) == Offering("on_demand", "c6a.large", "subnet-2")


def test_with_a_launch_template_everything_that_it_has_is_left_to_it() -> None:
    own = fleet_settings(launch_template="workers", instance_profile="worker", security_group_ids=("sg-1",))
    spec = Offering("spot", "c7a.large", "subnet-1").spec(own)
    assert (spec.image_id, spec.user_data, spec.instance_profile, spec.security_group_ids) == (None, None, None, ())
    assert (spec.launch_template, spec.market, spec.shutdown_behavior) == ("workers", "spot", "terminate")
