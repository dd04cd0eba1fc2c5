import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.bound import batch_bound, fluid_bound, lower_bound
from simulator.comparison import Scene, rivals
from simulator.engine import Conditions, simulate
from simulator.policy import PolicyTerms, ScalingAction
from simulator.rivals.plain import one_per_message
from simulator.traces import Mmpp, Trace, batch, poisson
from simulator.workers import CERTAIN
from tests.simulation.stories import Script

pytest.importorskip("scipy", reason="./scripts/setup.sh simulate")
USUAL = Conditions()


def test_the_bound_of_a_batch_is_the_fewest_workers_that_do_95_percent_in_time() -> None:
    # 95 images by 90 s: 32 each after a boot of 42 s, so 3 workers: 25 s for each, and 150 s of work.
    assert batch_bound(100, 90.0, USUAL) == pytest.approx((3 * 25 + 150) / 150)
    # 5 s more than a boot: 3 images each, so 32 workers are too many; 8 s: 5 each, 19 workers of a minute.
    assert batch_bound(100, 47.0, USUAL) == math.inf
    assert batch_bound(100, 49.5, USUAL) == pytest.approx(19 * 60 / 150)


def test_nobody_who_starts_from_nothing_is_faster_than_a_boot() -> None:
    assert batch_bound(10, 42.0, USUAL) == math.inf
    assert batch_bound(10, 15.0, USUAL, prepared=1) == pytest.approx(60 / 15)


def test_a_bound_is_reached_by_who_knows() -> None:
    conditions = Conditions(CERTAIN)
    trace = batch(380, 60.0)
    outcome = simulate(trace, Script({0.0: ScalingAction(10)}, PolicyTerms(idle_seconds=0.001)).as_rule(), conditions)
    assert outcome.cost / lower_bound(trace, outcome.p95, conditions) == pytest.approx(1.0, abs=0.03)


def test_a_steady_stream_costs_its_work_and_a_boot_at_least() -> None:
    trace = Trace("steady", np.arange(0, 3_000, 1.5), 3_000.0, 60.0)
    bound = fluid_bound(trace, 60.0, USUAL)
    work = len(trace.arrivals) * 1.5
    assert bound == pytest.approx(1 + 25 / work, abs=0.01)


def test_the_sooner_the_dearer() -> None:
    trace = Trace("bursts", Mmpp((0.5, 10.0), (200.0, 40.0)).arrivals(2_000.0, seed=2), 2_000.0, 60.0)
    costs = [fluid_bound(trace, p95, USUAL, bins=300) for p95 in (200.0, 80.0, 50.0, 46.0)]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_what_comes_before_the_first_boot_ends_can_only_be_late_in_part() -> None:
    assert fluid_bound(Trace("short", np.linspace(0, 30, 20), 30.0, 60.0), 5.0, USUAL) == math.inf


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 2.0, 8.0]), st.sampled_from([120.0, 600.0]))
def test_no_policy_costs_less_than_the_bound(seed: int, rate: float, seconds: float) -> None:
    half = int(seconds / 2)
    trace = Trace("any", np.append(poisson([rate] * half + [rate / 9] * half, 1.0, seed), seconds), seconds, 60.0)
    for rule in rivals(USUAL):
        outcome = simulate(trace, rule, USUAL, seed)
        bound = lower_bound(trace, outcome.p95, USUAL, rule.new().terms.prepared, bins=60)
        assert outcome.cost >= bound - 1e-9, rule.name


@given(st.integers(1, 400), st.integers(0, 100))
def test_no_policy_costs_less_than_the_bound_of_a_batch(images: int, seed: int) -> None:
    trace = batch(images, 60.0)
    for rule in rivals(USUAL):
        outcome = simulate(trace, rule, USUAL, seed)
        assert outcome.cost >= lower_bound(trace, outcome.p95, USUAL, rule.new().terms.prepared) - 1e-9, rule.name


def test_several_simulations_are_each_held_to_their_own_percentile() -> None:
    scene = Scene.of("bursts", lambda seed: batch(50 + 50 * seed, 60.0), USUAL, (0, 1))
    played = scene.play(one_per_message(19))
    bounds = [batch_bound(n, each.p95, USUAL) * n for n, each in zip((50, 100), played.outcomes, strict=True)]
    assert played.bound() == pytest.approx(sum(bounds) / 150)
