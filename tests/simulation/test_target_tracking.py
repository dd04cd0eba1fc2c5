import pytest

from simulator.rivals.target_tracking import TargetTracking, acceptable_backlog, wanted
from tests.simulation.stories import fleet_view


def test_aws_published_example_scales_out_by_five() -> None:
    """1,500 messages on 10 instances, 0.1 s each, 10 s acceptable: 150 in place of 100 on each, so five more."""
    target = acceptable_backlog(10.0, 0.1)
    assert target == pytest.approx(100.0)
    assert wanted(1_500, 10, target) == 10 + 5


def minutes(policy: TargetTracking, count: int, begin: int = 0, **seen: int) -> list[tuple[int, int]]:
    """Return in which minute, of so many in which it looks the same, how many more (or less) are ordered."""
    found = []
    for second in range(begin * 60, (begin + count) * 60):
        order = policy.decide(fleet_view(float(second), **seen))
        if order.launch or order.drain:
            found.append((second // 60, order.launch - len(order.drain)))
    return found


def test_it_scales_out_in_proportion_after_three_datapoints_of_a_minute() -> None:
    policy = TargetTracking(target=100.0, maximum=19)
    assert minutes(policy, 2, visible=250, ready=1) == []
    assert minutes(policy, 1, begin=2, visible=250, ready=1)[0] == (2, 2)


def test_an_instance_that_warms_up_counts_as_capacity() -> None:
    policy = TargetTracking(target=100.0, maximum=19)
    minutes(policy, 3, visible=250, ready=1)
    assert minutes(policy, 2, begin=3, visible=250, ready=1, booting=2) == []


def test_it_scales_in_after_fifteen_datapoints_well_below_and_never_to_zero() -> None:
    policy = TargetTracking(target=100.0, maximum=19, _desired=4)
    assert minutes(policy, 14, visible=0, ready=4) == []
    assert minutes(policy, 1, begin=14, visible=0, ready=4)[0] == (14, -3)


def test_a_little_below_the_target_is_not_low() -> None:
    policy = TargetTracking(target=100.0, maximum=19, _desired=19)
    assert minutes(policy, 60, visible=19 * 92, ready=19) == []
    assert minutes(policy, 15, begin=60, visible=19 * 88, ready=19)[0] == (74, -2)


def test_nothing_is_removed_while_instances_warm_up() -> None:
    policy = TargetTracking(target=100.0, maximum=19, _desired=2)
    minutes(policy, 12, visible=0, ready=2)
    policy._not_in_before = 16 * 60.0
    assert minutes(policy, 4, begin=12, visible=0, ready=2) == []
    assert minutes(policy, 1, begin=16, visible=0, ready=2)[0] == (16, -1)


def test_it_never_wants_more_than_the_maximum() -> None:
    policy = TargetTracking(target=10.0, maximum=19)
    assert minutes(policy, 3, visible=10_000, ready=1)[0] == (2, 18)


def test_without_an_instance_there_is_no_metric() -> None:
    policy = TargetTracking(target=10.0, maximum=19, _desired=0)
    assert minutes(policy, 30, visible=10_000) == []
