"""The walk over choices, and the rests of those that were refused."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import Fleet as FleetConfig
from tests.support.controller import Clock
from tests.unit.web_tier.controller.autoscaler.decide.test_decide import limits
from web_tier.controller.autoscaler.apply.choices import (
    FIRST_REST_SECONDS,
    MAX_REPORTED,
    MAX_REST_SECONDS,
    Choice,
    UnavailableOfferings,
    choices,
)
from web_tier.controller.autoscaler.apply.refusals import SCOPES

ALL: FleetConfig = limits(
    market="spot", instance_types=("c7a.large", "c6a.large"), subnet_ids=("subnet-1", "subnet-2")
)
WALK = choices(ALL)


def rests(clock: Clock) -> UnavailableOfferings:
    """Rests without a random part."""
    return UnavailableOfferings(clock, lambda _low, high: high)


def test_the_walk_goes_through_spot_before_on_demand_types_in_order_and_subnets_within_a_type() -> None:
    markets, types, subnets = ("spot", "on_demand"), ("c7a.large", "c6a.large"), ("subnet-1", "subnet-2")
    assert [(each.market, each.instance_type, each.subnet_id) for each in WALK] == list(
        product(markets, types, subnets)
    )
    assert choices(limits()) == (Choice("on_demand", "c7a.large", None),)


def test_each_launch_begins_with_the_next_subnet_and_prefers_market_and_type_as_before() -> None:
    three = limits(market="spot", instance_types=("c7a.large", "c6a.large"), subnet_ids=("a", "b", "c"))
    walks = [choices(three, launches) for launches in range(4)]
    assert [walk[0].subnet_id for walk in walks] == ["a", "b", "c", "a"]
    assert [walk[1].subnet_id for walk in walks] == ["b", "c", "a", "b"]
    order = [(each.market, each.instance_type) for each in walks[0]]
    for walk in walks:
        assert [(each.market, each.instance_type) for each in walk] == order
        assert set(walk) == set(walks[0])


def test_what_is_named_twice_is_tried_once() -> None:
    assert len(choices(limits(instance_types=("c7a.large", "c7a.large"), subnet_ids=("subnet-1",) * 3))) == 1


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
    assert found.refused(WALK[0], code, WALK)
    assert found.best(WALK) != WALK[0]
    assert sum(not found.all_rest([choice]) for choice in WALK) == left


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "UnauthorizedOperation", "InvalidAMIID.NotFound"])
def test_a_refusal_that_is_no_choices_fault_lets_none_rest(code: str) -> None:
    found = rests(Clock())
    assert not found.refused(WALK[0], code, WALK)
    assert found.best(WALK) == WALK[0]


def test_each_refusal_in_a_row_doubles_the_rest_up_to_the_bound_and_success_ends_that() -> None:
    clock = Clock()
    found = rests(clock)
    lengths = []
    for _ in range(6):
        begun = clock.now
        found.refused(WALK[0], "Unsupported", WALK)
        while found.best(WALK) != WALK[0]:
            clock.now += 1
        lengths.append(clock.now - begun)
    assert lengths == [60, 120, 240, 480, 600, 600]
    assert (FIRST_REST_SECONDS, MAX_REST_SECONDS) == (60, 600)
    found.gave(WALK[0])
    found.fell_short(WALK[0], 12, 19)
    clock.now += FIRST_REST_SECONDS
    assert found.best(WALK) == WALK[0]


def test_when_all_rest_the_one_whose_rest_ends_first_is_the_best() -> None:
    clock = Clock()
    found = rests(clock)
    for choice in (WALK[2], *WALK):
        found.refused(choice, "InsufficientInstanceCapacity", [])
        clock.now += 1
    assert found.all_rest(WALK)
    assert found.best(WALK) == WALK[0]
    found = rests(clock)
    for choice in reversed(WALK):
        found.refused(choice, "InsufficientInstanceCapacity", [])
        clock.now += 1
    assert found.best(WALK) == WALK[-1]


@given(
    st.lists(
        st.tuples(st.sampled_from(WALK), st.sampled_from([*SCOPES, "RequestLimitExceeded"]), st.integers(0, 300))
    )
)
def test_there_is_always_a_choice_and_none_that_rests_is_preferred_to_one_that_does_not(
    refusals: list[tuple[Choice, str, int]],
) -> None:
    clock = Clock()
    found = rests(clock)
    for choice, code, after in refusals:
        found.refused(choice, code, WALK)
        clock.now += after
        free = [each for each in WALK if not found.all_rest([each])]
        assert found.best(WALK) == free[0] if free else found.best(WALK) in WALK


def test_what_rests_is_told_with_the_reason_and_no_more_than_a_few_of_many() -> None:
    found = rests(Clock())
    found.refused(WALK[0], "VcpuLimitExceeded", WALK)
    found.fell_short(WALK[4], 12, 19)
    assert found.in_words(WALK) == (
        "c7a.large (Spot) in subnet-1: VcpuLimitExceeded, c7a.large (Spot) in subnet-2: VcpuLimitExceeded, "
        "c7a.large in subnet-1: only 12 of 19"
    )
    for choice in WALK:
        found.refused(choice, "Unsupported", WALK)
    assert found.in_words(WALK).count("Unsupported") == MAX_REPORTED
    assert found.in_words(WALK).endswith(", and 2 more")


def test_of_a_code_with_many_meanings_the_message_is_told() -> None:
    found, free_plan = rests(Clock()), "InvalidParameterCombination: The specified instance type is not eligible"
    found.refused(WALK[0], "InvalidParameterCombination", WALK[:1], free_plan)
    found.refused(WALK[1], "VcpuLimitExceeded", WALK[1:2], "VcpuLimitExceeded: You have requested more")
    assert found.in_words(WALK) == (
        f"c7a.large (Spot) in subnet-1: {free_plan}, c7a.large (Spot) in subnet-2: VcpuLimitExceeded"
    )


def test_a_launch_is_what_the_configuration_says() -> None:
    spec = Choice("on_demand", "c6a.large", "subnet-2").spec(limits(security_group_ids=("sg-1",), scale_in="stop"))
    assert (spec.instance_type, spec.subnet_id, spec.market) == ("c6a.large", "subnet-2", "on_demand")
    assert (spec.image_id, spec.security_group_ids) == (limits().image_id, ("sg-1",))
    assert (spec.shutdown_behavior, spec.user_data) == ("stop", limits().user_data)
    assert Choice.of(spec) == Choice("on_demand", "c6a.large", "subnet-2")


def test_with_a_launch_template_everything_that_it_has_is_left_to_it() -> None:
    own = limits(launch_template="workers", instance_profile="worker", security_group_ids=("sg-1",))
    spec = Choice("spot", "c7a.large", "subnet-1").spec(own)
    assert (spec.image_id, spec.user_data, spec.instance_profile, spec.security_group_ids) == (None, None, None, ())
    assert (spec.launch_template, spec.market, spec.shutdown_behavior) == ("workers", "spot", "terminate")
