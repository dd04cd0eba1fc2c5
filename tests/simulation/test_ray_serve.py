from dataclasses import replace

import pytest

from simulator.rivals.ray_serve import RayServe, RaySettings, desired_replicas, ray_serve
from tests.simulation.stories import fleet_view

SETTINGS = RaySettings(max_replicas=19)


@pytest.mark.parametrize(
    ("ongoing", "running", "replicas"),
    [(8, 2, 4), (9, 2, 5), (4, 2, 2), (2, 4, 1), (0, 4, 0), (1_000, 4, 19)],
)
def test_two_ongoing_requests_a_replica_are_aimed_at(ongoing: float, running: int, replicas: int) -> None:
    assert desired_replicas(ongoing, running, SETTINGS) == replicas


def test_factors_scale_the_distance_and_one_replica_goes_at_least() -> None:
    half = replace(SETTINGS, upscaling_factor=0.5, downscaling_factor=0.2)
    assert desired_replicas(16, 4, half) == 6
    assert desired_replicas(6, 4, half) == 3  # a fifth of one replica, rounded up to 4, would be stuck


def test_from_zero_one_replica_starts_at_once() -> None:
    assert ray_serve(19).new().decide(fleet_view(visible=1_000)).launch == 1


def decided(policy: RayServe, seconds: int, begin: int = 0, **seen: int) -> list[tuple[int, int]]:
    """Return at which second, of so many in which it looks the same, how many more (or less) are ordered."""
    orders = [(now, policy.decide(fleet_view(float(now), **seen))) for now in range(begin, begin + seconds)]
    return [(now, order.launch - len(order.drain)) for now, order in orders if order.launch or order.drain]


def test_up_after_thirty_seconds_in_a_row_and_down_after_ten_minutes() -> None:
    policy = RayServe(SETTINGS)
    decided(policy, 1, visible=8)
    assert decided(policy, 31, begin=1, visible=8, ready=1) == [(31, 3)]
    # Seven seconds later the mean over 30 s is below 6, which three replicas are enough for.
    assert decided(policy, 700, begin=32, ready=4)[0] == (32 + 7 + 600, -3)


def test_to_zero_only_from_one() -> None:
    policy = RayServe(SETTINGS)
    decided(policy, 1, visible=8)
    decided(policy, 31, begin=1, visible=8, ready=1)
    assert decided(policy, 700, begin=32, ready=4)[0][1] == -3
    assert decided(policy, 605, begin=800, ready=1)[0][1] == -1


def test_a_wish_that_does_not_last_is_forgotten() -> None:
    policy = RayServe(replace(SETTINGS, look_back_period_s=1.0))
    decided(policy, 1, visible=1)
    for begin in range(1, 200, 40):
        assert decided(policy, 10, begin=begin, visible=300, ready=1) == []
        decided(policy, 30, begin=begin + 10, visible=2, ready=1)


def test_a_wish_to_grow_does_not_wait_for_an_older_one_to_shrink() -> None:
    policy = RayServe(replace(SETTINGS, look_back_period_s=1.0), _target=4)
    assert decided(policy, 500, ready=4) == []
    assert decided(policy, 31, begin=500, visible=12, ready=4) == [(530, 2)]


def test_replicas_that_are_removed_are_the_last_started() -> None:
    policy = RayServe(replace(SETTINGS, downscale_delay_s=0.0, look_back_period_s=1.0), _target=4)
    assert policy.decide(fleet_view(in_flight=4, ready=3, booting=1)).drain == ("w2", "w3")
