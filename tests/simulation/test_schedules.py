"""No schedule of faults leads to what must never happen, and the simulation would notice if one did."""

import os
from collections.abc import Callable

import pytest

from services.ec2 import Fleet, Instance, LaunchSpec
from services.metadata import DRAIN_TAG
from simulator.faults.machines import NEVER, FailureMode
from simulator.faults.schedules import BrokenError, play
from simulator.faults.world import CrashPlan, World, settings_of
from web_tier.autoscaler.health import UnhealthyTerminator
from web_tier.autoscaler.observe import RecentLaunches

SCHEDULES = int(os.environ.get("FLEETSIGHT_FAULT_SCHEDULES", "60"))
"""The same in each run. Others, as many as there is time for: python -m benchmarks fleet_faults."""


def world(**limits: object) -> World:
    return World(settings_of(**{"max_workers": 5, "min_workers": 0, **limits}))


def kinds(of: World) -> set[str]:
    return {violation.kind for violation in of.violations}


def test_no_schedule_of_faults_leads_beyond_the_maximum_ends_a_good_worker_or_leaves_anything() -> None:
    tally = play(SCHEDULES, same=True)
    assert tally["schedules"] >= SCHEDULES
    assert tally["images"] > 0
    assert tally["instances"] > 0


def test_a_fleet_without_faults_answers_everything_and_is_gone_ten_minutes_later() -> None:
    calm = world()
    calm.queues.send(100)
    calm.finish()
    assert calm.violations == []
    assert (calm.queues.answered, len(calm.cloud.instances), calm.cloud.alive()) == (100, 5, [])


@pytest.mark.parametrize("least", [1, 3])
def test_a_standby_is_what_is_left_and_is_not_replaced_again_and_again(least: int) -> None:
    calm = world(min_workers=least)
    calm.queues.send(10)
    calm.finish()
    assert calm.violations == []
    assert len(calm.cloud.alive()) == least
    assert len(calm.cloud.instances) <= 5


def test_instances_that_never_report_are_ended_and_replaced() -> None:
    bad = world()
    bad.failure_modes = (FailureMode(boots=NEVER),)
    bad.queues.send(30)
    bad.run(60)
    assert len(bad.cloud.alive()) == 5
    bad.finish()
    assert bad.violations == []
    assert bad.queues.answered == 30


@pytest.mark.parametrize(
    ("fault", "launched", "at_most"),
    [
        ({"counts_lag": 60.0}, 4, 8),  # counts that are older than a worker's idle period show the first images again
        ({"counts_factor": 3.0}, 12, 12),
        ({"counts_factor": 0.0}, 0, 4),
    ],
    ids=["stale", "too high", "zero"],
)
def test_row_17_wrong_counts_launch_no_more_workers_than_they_show(
    fault: dict[str, float], launched: int, at_most: int
) -> None:
    wrong = world(max_workers=20)
    wrong.run(5)
    for name, value in fault.items():
        setattr(wrong.queues, name, value)
    wrong.queues.send(12)
    wrong.run(70)
    assert len(wrong.cloud.instances) == launched
    wrong.run(60)
    wrong.finish()
    assert len(wrong.cloud.instances) <= at_most
    assert wrong.violations == []
    assert wrong.queues.answered == 12


@pytest.mark.parametrize("policy", ["backlog", "deadline", "schedule"])
def test_row_17_counts_of_zero_end_no_busy_worker(policy: str) -> None:
    wrong = world(policy=policy, target_seconds=40)
    wrong.queues.send(300)
    wrong.run(100)
    wrong.queues.counts_factor = 0.0
    wrong.run(60)
    assert len(wrong.cloud.instances) == len(wrong.cloud.alive()) == 5
    assert not any(DRAIN_TAG in instance.tags for instance in wrong.cloud.instances.values())
    wrong.finish()
    assert wrong.violations == []
    assert (wrong.queues.answered, len(wrong.cloud.instances)) == (300, 5)


def test_a_controller_that_dies_between_launch_and_record_is_followed_by_one_that_counts_what_it_launched() -> None:
    dying = world()
    dying.run(5)
    dying.cloud.faults.describe_lag = 60.0
    dying.crash_plan = CrashPlan("run", "after")
    dying.queues.send(100)
    dying.run(30)
    assert dying.controllers == 2
    assert len(dying.cloud.instances) == 5
    assert dying.violations == []


def _forget(self: RecentLaunches, _instances: object) -> frozenset[str]:
    return frozenset()


def _never(self: UnhealthyTerminator) -> None:
    return None


@pytest.mark.parametrize(
    ("broken", "method", "by"),
    [(RecentLaunches, "launching", _forget), (UnhealthyTerminator, "terminate_confirmed", _never)],
    ids=["launches are forgotten", "unhealthy instances are left"],
)
def test_a_product_that_breaks_a_promise_is_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: type, method: str, by: Callable[..., object]
) -> None:
    monkeypatch.setattr(broken, method, by)
    with pytest.raises((BrokenError, ExceptionGroup)):
        play(150, shrink=False, same=True)


def test_a_launch_with_another_token_each_time_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, launch = iter(range(1_000)), Fleet.launch

    def careless(self: Fleet, spec: LaunchSpec, count: int, _token: str) -> list[Instance]:
        return launch(self, spec, count, f"{next(tokens):064}")

    monkeypatch.setattr(Fleet, "launch", careless)
    lost = world()
    lost.run(5)
    lost.cloud.faults.describe_lag = 60.0
    lost.cloud.faults.launch = "lost"
    lost.queues.send(100)
    lost.run(30)
    assert kinds(lost) == {"beyond the maximum"}
