"""No schedule of faults leads to what must never happen."""

from collections import Counter
from datetime import timedelta

import pytest

from services.metadata import DRAIN_TAG
from tests.simulation.faults.machines import FailureMode
from tests.simulation.faults.schedules import play
from tests.simulation.faults.world import CrashPlan, World, settings_of
from tests.support.autoscaler import POLICY_SETTINGS
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.policies import POLICIES

SCHEDULES = 30
"""For each seed. Others, as many as there is time for: python -m tests.simulation.faults."""


def world(**limits: object) -> World:
    return World(settings_of(**{"max_workers": 5, "min_workers": 0, **limits}))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_no_fault_schedule_exceeds_the_maximum_ends_a_good_worker_or_leaks_instances(seed: int) -> None:
    tally = play(SCHEDULES, first_seed=seed)
    assert tally["schedules"] >= SCHEDULES
    assert tally["images"] > 0
    assert tally["instances"] > 0


def test_a_fleet_without_faults_answers_everything_and_is_gone_ten_minutes_later() -> None:
    calm = world()
    calm.queues.send(100)
    calm.finish()
    assert calm.violations == []
    assert (calm.queues.answered, len(calm.cloud.instances), calm.cloud.alive()) == (100, 5, [])


def test_workers_that_are_killed_as_they_boot_stop_the_fleet_for_seconds() -> None:
    killed = world(max_workers=2)
    killed.failure_modes = (FailureMode(dies=10.0),)
    killed.queues.send(1_200)
    while len(killed.cloud.instances) < 4 or killed.cloud.alive():
        killed.run(1)
    killed.failure_modes = (FailureMode(),)
    killed.run(15)
    assert len(killed.cloud.alive()) == 1
    killed.finish()
    assert (killed.violations, killed.queues.answered) == ([], 1_200)


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


@pytest.mark.parametrize("policy", POLICIES)
def test_row_17_counts_of_zero_end_no_busy_worker(policy: str) -> None:
    own = {"policy": policy, "target_seconds": 40, "max_workers": 5}
    wrong = world(**{**POLICY_SETTINGS.get(policy, {}), **own})
    wrong.queues.send(300)
    wrong.run(100)
    wrong.queues.counts_factor = 0.0
    wrong.run(60)
    assert len(wrong.cloud.instances) == len(wrong.cloud.alive()) == 5
    assert not any(DRAIN_TAG in instance.tags for instance in wrong.cloud.instances.values())
    wrong.finish()
    assert wrong.violations == []
    assert (wrong.queues.answered, len(wrong.cloud.instances)) == (300, 5)


def test_a_launch_of_a_thousand_workers_takes_as_many_calls_as_one_of_nineteen() -> None:
    calls = {}
    for size in (19, 1_000):
        large = world(max_workers=size, images_per_worker=1, launches_per_minute=10 * size)
        large.run(5)
        counted = Counter[str]()
        large.cloud.before_call = lambda operation, counted=counted: counted.update([operation])  # type: ignore[misc]
        large.queues.send(10 * size)
        large.pass_second()
        large.run_round()
        assert len(large.cloud.instances) == size
        calls[size] = counted
    assert calls[19] == calls[1_000]


@pytest.mark.parametrize("launch", [None, "lost", "timeout", "late"])
@pytest.mark.parametrize(
    "crash",
    [
        None,
        CrashPlan("run", "before"),
        CrashPlan("run", "after"),
        CrashPlan("table", "after"),
        CrashPlan("run", "before", 20.0),
        CrashPlan("run", "after", 20.0),
    ],
    ids=str,
)
def test_no_fault_around_a_launch_starts_more_workers_than_the_cap_pays_for(
    launch: str | None, crash: CrashPlan | None
) -> None:
    """Ten starts of a minute are paid for, and each worker that starts is billed for a minute at least."""
    cap = settings_of(max_workers=50, images_per_worker=1, launches_per_minute=3, dollars_per_day=10 * 0.006)
    capped = World(cap, hourly=0.36)
    capped.run(5)
    capped.queues.send(2_000)
    for _ in range(10):
        capped.cloud.faults.launch, capped.crash_plan = launch, crash
        capped.run(10)
        capped.cloud.faults.launch, capped.crash_plan = None, None
        capped.run(20)
    assert 3 <= len(capped.cloud.instances) <= 10
    assert capped.store.last_snapshot is not None
    spending = capped.store.last_snapshot.spending
    assert spending is not None
    assert (spending.reached, spending.end_of("day")) == ("day", EPOCH + timedelta(days=1))
