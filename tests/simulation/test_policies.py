"""Each policy of the comparison decides as its documentation says, the product's own by the controller's code."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from benchmarks.fleet import fleet_settings
from core.config import FleetSettings
from simulator.engine import Conditions, simulate
from simulator.policies import (
    BEGIN,
    RayServe,
    RaySettings,
    TargetTracking,
    acceptable_backlog,
    desired_replicas,
    fixed,
    jobs_to_create,
    keda_accurate,
    metrics,
    one_per_message,
    ours,
    ray_serve,
    wanted,
)
from simulator.traces import Trace, batch
from simulator.workers import CERTAIN
from tests.simulation.stories import fleet_view
from tests.support.autoscaler import PRICES
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.observe import Observation


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """Listen to what `decide` is shown, and let it decide."""
    seen: list[Observation] = []

    def listening(observation: Observation, fleet: FleetSettings) -> object:
        seen.append(observation)
        return decide(observation, fleet)

    monkeypatch.setattr("simulator.policies.decide", listening)
    return seen


def test_the_spending_caps_hold_in_a_simulation() -> None:
    cap = 3.5 * PRICES.launch_dollars(["c7a.large"])
    capped = fleet_settings().model_copy(update={"dollars_per_day": cap})
    outcome = simulate(batch(100, 90.0), ours(capped, prices=PRICES), Conditions(CERTAIN))
    assert outcome.launches == 3
    assert simulate(batch(100, 90.0), ours(capped), Conditions(CERTAIN)).launches == 10, "without prices, no cap"


def test_the_controllers_own_decision_is_carried_out() -> None:
    outcome = simulate(batch(100, 90.0), ours(fleet_settings()), Conditions(CERTAIN))
    assert (outcome.launches, outcome.peak) == (10, 10)  # ten images a worker
    assert outcome.billed_seconds == 10 * 60


def test_the_decision_is_shown_what_the_controller_would_observe(shown: list[Observation]) -> None:
    now = fleet_view(200.0, visible=5, in_flight=2, ready=2, booting=1, draining=1)
    ours(fleet_settings()).new().decide(replace(now, image_seconds=1.5, boot_seconds=42.0))
    observation = shown[0]
    assert (observation.requests.visible, observation.requests.in_flight) == (5, 2)
    assert [each.state for each in observation.instances] == ["running", "running", "running", "pending"]
    assert (observation.capacity, observation.draining) == (4, frozenset({"w0"}))
    assert observation.metrics.image_seconds == 1.5


def test_how_long_images_wait_is_measured_by_the_simulations_clock(shown: list[Observation]) -> None:
    policy = ours(fleet_settings()).new()
    policy.decide(fleet_view(0.0, visible=7))
    policy.decide(fleet_view(30.0, visible=7))
    assert shown[1].demand.waiting == ((30.0, 7),)


def test_workers_that_the_plan_drains_are_drained() -> None:
    fleet = fleet_settings().model_copy(update={"policy": "deadline"})
    order = ours(fleet).new().decide(fleet_view(200.0, ready=3))
    assert order.launch == 0
    assert order.drain
    assert set(order.drain) <= {"w0", "w1", "w2"}


def test_workers_that_boot_are_unregistered_and_idle_ones_that_have_run_for_a_minute_are_spare() -> None:
    found = metrics(fleet_view(200.0, ready=2, booting=3, draining=1))
    assert list(found.unregistered.values()) == [10.0, 10.0, 10.0]
    assert found.spare == ("w1", "w2")  # not the draining one
    assert metrics(fleet_view(200.0, ready=2, booting=3, draining=1, in_flight=1)).spare == ("w2",)


def test_a_description_is_made_anew_only_when_the_fleet_has_changed(shown: list[Observation]) -> None:
    policy = ours(fleet_settings()).new()
    for changes in (1, 1, 2):
        policy.decide(replace(fleet_view(ready=1), changes=changes))
    assert shown[0].instances is shown[1].instances is not shown[2].instances


def test_workers_are_kept_at_the_configured_minimum() -> None:
    fleet = fleet_settings().model_copy(update={"min_workers": 2})
    rule = ours(fleet, idle_seconds=7.0)
    assert (rule.new().terms.floor, rule.new().terms.idle_seconds) == (2, 7.0)
    outcome = simulate(batch(1, 90.0), rule, Conditions(CERTAIN))
    assert outcome.launches >= 2


def test_a_schedule_goes_by_the_time_of_the_simulation(shown: list[Observation]) -> None:
    values = fleet_settings().model_dump() | {
        "policy": "schedule",
        "schedule": [{"from": "00:10", "to": "00:20", "min_workers": 3}],
    }
    fleet = FleetSettings.model_validate(values)
    rule = ours(fleet)
    assert rule.name == "schedule"
    orders = {minute: rule.new().decide(fleet_view(60.0 * minute)).launch for minute in (5, 9.99, 15, 25)}
    assert orders == {5: 0, 9.99: 3, 15: 3, 25: 0}
    assert shown[0].at == BEGIN + timedelta(minutes=5)


@pytest.mark.parametrize(("policy", "least"), [("backlog", 2), ("deadline", 2), ("fixed", 3)])
def test_a_standby_stays_when_it_is_idle_and_is_not_launched_again_and_again(policy: str, least: int) -> None:
    fleet = fleet_settings().model_copy(update={"policy": policy, "min_workers": 2, "max_workers": 3})
    far = Trace("far", np.array([0.0, 1_000.0]), 1_100.0, 60.0)
    outcome = simulate(far, ours(fleet), Conditions(CERTAIN, max_workers=3))
    assert outcome.launches == least
    assert outcome.latencies[1] == pytest.approx(1.5), "a worker is running"


def test_one_per_message_launches_what_is_lacking_up_to_the_maximum() -> None:
    policy = one_per_message(19).new()
    assert policy.decide(fleet_view(visible=100)).launch == 19
    assert policy.decide(fleet_view(visible=3, in_flight=2, ready=2, booting=1)).launch == 2
    assert policy.decide(fleet_view(visible=100, ready=19)).launch == 0
    assert policy.decide(fleet_view(visible=0, ready=5)).launch == 0


def test_one_per_message_takes_the_whole_fleet_for_a_hundred_images() -> None:
    outcome = simulate(batch(100, 90.0), one_per_message(19), Conditions())
    assert (outcome.peak, outcome.launches) == (19, 19)


def test_a_fixed_fleet_never_changes() -> None:
    policy = fixed(19).new()
    assert (policy.terms.prepared, policy.terms.floor) == (19, 19)
    order = policy.decide(fleet_view(visible=1_000, ready=19))
    assert (order.launch, order.drain) == (0, ())


@pytest.mark.parametrize(
    ("queue", "running", "pending", "jobs"),
    [
        (3, 0, 0, 3),
        (3, 1, 1, 2),  # the pending one will take one of the three
        (3, 2, 0, 3),  # those that run have taken theirs
        (10, 0, 0, 5),
        (10, 3, 0, 2),  # no more than the maximum
        (10, 5, 5, 0),
        (0, 2, 1, 0),
    ],
)
def test_as_many_jobs_as_messages_that_no_job_is_coming_for(
    queue: int, running: int, pending: int, jobs: int
) -> None:
    """As in the documentation of `accurate`, with a `maxReplicaCount` of 5 and a message for each job."""
    assert jobs_to_create(queue, running, pending, maximum=5, queue_length=1) == jobs


def test_a_job_is_for_five_messages_by_default() -> None:
    assert jobs_to_create(11, 0, 0, maximum=19) == 3


def test_the_queue_is_polled_every_thirty_seconds() -> None:
    policy = keda_accurate(19).new()
    launched = [policy.decide(fleet_view(float(now), visible=50)).launch for now in (0, 1, 29, 30, 31)]
    assert launched == [10, 0, 0, 10, 0]


def test_what_is_in_hand_is_not_in_the_queue() -> None:
    assert keda_accurate(19).new().decide(fleet_view(in_flight=10, ready=10)).launch == 0


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
