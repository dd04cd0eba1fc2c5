"""The clairvoyant bound: what no fleet can beat, and a fleet that reaches it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fleet import fleet_settings
from core.config import FleetSettings
from simulator.bound import MissingError, batch_bound, fluid_bound, lower_bound, need
from simulator.engine import CERTAIN, Conditions, Simulation, simulate_fleet
from simulator.table import row_of
from simulator.traces import Mmpp, Trace, batch, poisson
from tests.simulation.stories import Script, plan

pytest.importorskip("scipy", reason="./scripts/setup.sh simulate")
USUAL = Conditions()
POLICIES = (
    fleet_settings("backlog"),
    fleet_settings("backlog", images_per_worker=1),
    fleet_settings("deadline", target_seconds=10),
    fleet_settings("deadline", target_seconds=120),
)


def test_the_bound_of_a_batch_is_the_fewest_workers_that_do_95_percent_in_time() -> None:
    # 95 images by 90 s: 32 each after a boot of 42 s, so 3 workers: 25 s for each, and 150 s of work.
    assert batch_bound(100, 90.0, USUAL) == pytest.approx((3 * 25 + 150) / 150)
    # 5 s more than a boot: 3 images each, so 32 workers are too many; 8 s: 5 each, 19 workers of a minute.
    assert batch_bound(100, 47.0, USUAL) == math.inf
    assert batch_bound(100, 49.5, USUAL) == pytest.approx(19 * 60 / 150)


def test_no_policy_that_starts_from_nothing_is_faster_than_a_boot() -> None:
    assert batch_bound(10, 42.0, USUAL) == math.inf


def test_a_bound_is_reached_by_a_fleet_that_knows_the_arrivals() -> None:
    conditions = replace(USUAL, machine=CERTAIN, idle_seconds=0.001)
    trace = batch(380, 60.0)
    outcome = Simulation(trace, conditions, Script({0.0: plan(10)})).run()
    assert outcome.cost / lower_bound(trace, outcome.p95, conditions) == pytest.approx(1.0, abs=0.03)


def test_a_steady_stream_costs_its_work_and_a_boot_at_least() -> None:
    trace = Trace("steady", np.arange(0, 3_000, 1.5), 3_000.0, 60.0)
    bound = fluid_bound(trace, 60.0, USUAL, bins=500)
    work = len(trace.arrivals) * 1.5
    assert bound == pytest.approx(1 + 25 / work, abs=0.01)


def test_the_sooner_the_dearer() -> None:
    trace = Trace("bursts", Mmpp((0.5, 10.0), (200.0, 40.0)).arrivals(2_000.0, seed=2), 2_000.0, 60.0)
    costs = [fluid_bound(trace, p95, USUAL, bins=300) for p95 in (200.0, 80.0, 50.0, 46.0)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_images_that_come_before_the_first_boot_ends_can_only_be_late_in_part() -> None:
    assert fluid_bound(Trace("short", np.linspace(0, 30, 20), 30.0, 60.0), 5.0, USUAL) == math.inf


@settings(max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.3, 2.0, 8.0]),
    st.sampled_from([120.0, 600.0]),
    st.sampled_from(POLICIES),
)
def test_no_policy_costs_less_than_the_bound(seed: int, rate: float, seconds: float, policy: FleetSettings) -> None:
    half = int(seconds / 2)
    trace = Trace("any", np.append(poisson([rate] * half + [rate / 9] * half, 1.0, seed), seconds), seconds, 60.0)
    outcome = simulate_fleet(trace, policy, USUAL, seed)
    assert outcome.cost >= lower_bound(trace, outcome.p95, USUAL, bins=60) - 1e-9


@given(st.integers(1, 400), st.integers(0, 100), st.sampled_from(POLICIES))
def test_no_policy_costs_less_than_the_bound_of_a_batch(images: int, seed: int, policy: FleetSettings) -> None:
    trace = batch(images, 60.0)
    outcome = simulate_fleet(trace, policy, USUAL, seed)
    assert outcome.cost >= lower_bound(trace, outcome.p95, USUAL) - 1e-9


def test_several_simulations_are_each_held_to_their_own_percentile() -> None:
    made = [batch(50, 60.0), batch(100, 60.0)]
    played = [(trace, simulate_fleet(trace, POLICIES[1], USUAL, seed)) for seed, trace in enumerate(made)]
    least = sum(batch_bound(len(trace.arrivals), each.p95, USUAL) * each.work_seconds for trace, each in played)
    row = row_of("batches", "backlog", played, USUAL)
    assert row.measures["cost_over_bound"] == pytest.approx(sum(each.billed_seconds for _, each in played) / least)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.partition(".")[0])

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(MissingError, match=r"needs scipy: \./scripts/setup\.sh simulate"):
        need("scipy.optimize")
