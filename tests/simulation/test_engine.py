"""The simulated fleet: nothing is lost, the maximum and the billing hold, and the controller's own code decides."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fleet import fleet_settings
from core.config import FleetSettings, load_config
from scripts.aws.deploy.settings import validated_config
from scripts.run.system import ROOT
from simulator.engine import (
    BEGIN,
    CERTAIN,
    LINGER_SECONDS,
    Conditions,
    ConfiguredDecision,
    InstanceProfile,
    Simulation,
    SimulationOutcome,
    StalledError,
    pooled,
    simulate_fleet,
)
from simulator.traces import Trace, batch, named
from tests.simulation.stories import Script, arrivals, plan
from tests.support.autoscaler import PRICES
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.observe import Observation
from web_tier.autoscaler.playback import NEVER

CALM = Conditions(CERTAIN, image_seconds=1.5, max_workers=19, idle_seconds=math.inf)
SHORT = replace(CALM, idle_seconds=5.0)


def simulate(
    trace: Trace, decision: Callable[[Observation], Plan], conditions: Conditions, seed: int = 0
) -> SimulationOutcome:
    return Simulation(trace, conditions, decision, seed).run()


@dataclass
class Whim:
    """Launches and drains at random, within the maximum or far beyond it."""

    seed: int

    def __post_init__(self) -> None:
        self._luck = np.random.default_rng(self.seed)

    def __call__(self, seen: Observation) -> Plan:
        names = [each.instance_id for each in seen.instances]
        drained = tuple(name for name in names if self._luck.random() < 0.02)
        wanted = int(self._luck.integers(0, 30)) if self._luck.random() < 0.1 else 0
        return plan(wanted + (1 if not names and seen.requests.visible else 0), drained)


some_arrivals = st.lists(st.floats(0, 300), min_size=1, max_size=80).map(lambda times: arrivals(*sorted(times)))
some_conditions = st.builds(
    lambda most, service, idle: Conditions(InstanceProfile(), service, most, idle_seconds=idle),
    st.integers(1, 5),
    st.sampled_from([0.1, 1.5, 20.0]),
    st.sampled_from([0.4, 5.0, 30.0]),
)


@given(some_arrivals, st.integers(0, 1_000), some_conditions, st.integers(0, 50))
def test_whatever_is_decided_nothing_is_lost_and_the_maximum_and_the_billing_hold(
    trace: Trace, whim: int, conditions: Conditions, seed: int
) -> None:
    outcome = simulate(trace, Whim(whim), conditions, seed)
    assert len(outcome.latencies) == len(trace.arrivals)
    assert np.all(outcome.latencies >= conditions.image_seconds - 1e-6)
    assert outcome.peak <= conditions.max_workers
    assert outcome.work_seconds <= outcome.billed_seconds + 1e-6
    assert outcome.launches >= 1
    again = simulate(trace, Whim(whim), conditions, seed)
    assert again.billed_seconds == outcome.billed_seconds
    assert np.array_equal(again.latencies, outcome.latencies)


@given(some_arrivals, st.integers(0, 50))
def test_images_are_started_in_the_order_in_which_they_came(trace: Trace, seed: int) -> None:
    conditions = Conditions(InstanceProfile(), max_workers=4)
    outcome = simulate_fleet(trace, fleet_settings("backlog", images_per_worker=1, max_workers=4), conditions, seed)
    starts = trace.arrivals + outcome.latencies - 1.5
    assert np.all(np.diff(starts) >= -1e-9)


def test_an_idle_worker_ends_itself_at_the_very_second_and_pays_for_it() -> None:
    script = Script({0.0: plan(1)})
    outcome = simulate(arrivals(0.0, 44.0, length=200.0), script, replace(CALM, idle_seconds=40.0))
    assert outcome.latencies.tolist() == pytest.approx([43.5, 1.5])
    assert outcome.billed_seconds == 45.5 - 17 + 40 + 0.5  # in whole seconds
    assert [each.at for each in script.seen if each.instances][-1] == BEGIN + timedelta(seconds=85)


def test_a_worker_that_ended_idle_takes_no_image_that_arrives_before_a_new_decision() -> None:
    script = Script({0.0: plan(1), 84.0: plan(1)})
    outcome = simulate(arrivals(0.0, 83.8), script, replace(CALM, idle_seconds=40.0))  # idle since 43.5 s
    assert outcome.latencies.tolist() == pytest.approx([43.5, 84 + 42 + 1.5 - 83.8])


def test_the_worker_that_has_waited_longest_gets_the_image() -> None:
    script = Script({0.0: plan(2)})
    simulate(arrivals(50.0, 60.0, 70.0, 80.0, 130.0), script, replace(CALM, idle_seconds=60.0))
    assert len(script.at(125.0).instances) == 2  # each has had an image in the last minute


def test_a_draining_worker_finishes_what_it_has_and_takes_no_more() -> None:
    script = Script({0.0: plan(1), 50.0: plan(1, ("new-0",))})
    outcome = simulate(arrivals(0.0, 0.0, length=200.0), script, replace(CALM, image_seconds=20.0))
    assert script.at(51.0).draining == {"new-0"}
    assert (script.at(51.0).requests.in_flight, script.at(51.0).requests.visible) == (1, 1)
    assert [each.instance_id for each in script.at(62.0).instances] == ["new-1"]
    assert outcome.latencies.tolist() == pytest.approx([62.0, 50 + 42 + 20])


def test_a_worker_that_is_drained_while_it_boots_ends_at_once() -> None:
    script = Script({0.0: plan(1), 10.0: plan(1, ("new-0",)), 30.0: plan(0, ("new-1",)), 31.0: plan(1)})
    outcome = simulate(arrivals(0.0, length=100.0), script, CALM)
    assert not script.at(31.0).instances
    # The first was pending all the time, the second has run for 3 s; the third worked.
    assert outcome.billed_seconds == 0 + 60 + (LINGER_SECONDS + 100 - 31 - 17)
    assert outcome.latencies.tolist() == pytest.approx([31 + 42 + 1.5])


def test_an_instance_that_never_reports_is_ended_after_its_allowance() -> None:
    script = Script({0.0: plan(1)})
    with pytest.raises(StalledError, match="1 images of story have waited for 14400 s"):
        simulate(arrivals(0.0, length=0.0), script, Conditions(InstanceProfile(slow_share=0.0, never_share=1.0)))
    assert len(script.at(119.0).instances) == 1
    assert not script.at(120.0).instances
    assert script.at(119.0).ready == 0


def test_launches_beyond_the_maximum_are_refused_and_counted() -> None:
    outcome = simulate(batch(5, 60.0), Script({0.0: plan(20)}), SHORT)
    assert (outcome.peak, outcome.launches, outcome.beyond_maximum) == (19, 19, 1)


def test_an_observation_counts_what_waits_what_is_in_flight_and_who_is_ready() -> None:
    script = Script({0.0: plan(2)})
    simulate(batch(10, 60.0), script, SHORT)
    before, after = script.at(42.0), script.at(46.0)
    assert (before.requests.visible, before.requests.in_flight) == (10, 0)
    assert (after.requests.visible, after.requests.in_flight) == (4, 2)
    assert (script.at(30.0).ready, script.at(30.0).available) == (0, 2)
    assert script.at(30.0).metrics.unregistered == {"new-0": 30.0, "new-1": 30.0}
    assert [each.state for each in script.at(16.0).instances] == ["pending", "pending"]
    assert [each.state for each in script.at(17.0).instances] == ["running", "running"]


def test_idle_workers_that_have_run_for_the_billed_minimum_are_spare() -> None:
    script = Script({0.0: plan(2), 30.0: plan(1)})
    simulate(arrivals(0.0, 76.0, length=120.0), script, replace(CALM, image_seconds=5.0, idle_seconds=100.0))
    assert script.at(76.0).metrics.spare == ()
    assert script.at(77.0).metrics.spare == ("new-0",), (
        "the other one has the second image, the third runs since 47 s"
    )
    assert script.at(107.0).metrics.spare == ("new-0", "new-1", "new-2")


def test_times_are_measured_only_once_there_is_something_to_measure() -> None:
    script = Script({0.0: plan(1)})
    simulate(batch(20, 60.0), script, SHORT)
    assert (script.at(41.0).metrics.boot_seconds, script.at(42.0).metrics.boot_seconds) == (None, 42.0)
    # Nine answers by 55.5 s, ten by 57 s.
    assert (script.at(56.0).metrics.image_seconds, script.at(57.0).metrics.image_seconds) == (None, 1.5)


def test_launches_of_the_last_minute_and_how_long_images_wait_are_observed() -> None:
    script = Script({0.0: plan(2), 30.0: plan(1)})
    simulate(batch(7, 60.0), script, SHORT)
    assert [script.at(second).recent_launches for second in (0, 1, 31)] == [0, 2, 3]
    assert script.at(30.0).demand.waiting == ((30.0, 7),)


@pytest.mark.parametrize(
    ("ended_at", "billed"),
    [(17.0, 0), (16.0, 0), (17.5, 60), (77.0, 60), (77.1, 61), (78.0, 61), (177.0, 160)],
    ids=["as soon as it runs", "pending", "half a second", "a minute", "a little more", "a second more", "longer"],
)
def test_seconds_are_billed_from_running_on_and_at_least_a_minute_of_them(ended_at: float, billed: int) -> None:
    assert CERTAIN.billed(0.0, ended_at) == billed


def test_one_boot_in_twenty_is_slow_and_one_in_fifty_never_ends() -> None:
    boots = list(islice(InstanceProfile().boots(seed=3), 20_000))
    assert boots.count(80.0) / len(boots) == pytest.approx(0.05, rel=0.1)
    assert boots.count(NEVER) / len(boots) == pytest.approx(0.02, rel=0.15)
    assert set(boots) == {42.0, 80.0, NEVER}


def test_another_boot_time_scales_its_parts_and_its_tail() -> None:
    quick = InstanceProfile.booting_in(4.2)
    assert (quick.boot_seconds, quick.pending_seconds, quick.slow_boot_seconds) == pytest.approx((4.2, 1.7, 8.0))
    assert InstanceProfile.booting_in(42.0) == InstanceProfile()


def outcome_of(*latencies: float, billed: float = 100.0, work: float = 50.0, peak: int = 1) -> SimulationOutcome:
    return SimulationOutcome(np.array(latencies), billed, work, 2, peak, 1)


def test_at_least_so_many_percent_were_answered_within_a_percentile() -> None:
    twenty = outcome_of(*range(1, 21))
    assert twenty.p95 == 19.0  # 19 of 20
    assert twenty.percentile(50) == 10.0


def test_several_simulations_are_pooled() -> None:
    both = pooled([outcome_of(1.0, billed=100.0, work=50.0, peak=3), outcome_of(3.0, 5.0, billed=200.0, work=70.0)])
    assert sorted(both.latencies) == [1.0, 3.0, 5.0]
    assert (both.billed_seconds, both.work_seconds, both.launches, both.peak) == (300.0, 120.0, 2, 3)
    assert both.beyond_maximum == 2


def test_a_deadline_with_more_time_takes_fewer_workers() -> None:
    peaks = [
        simulate_fleet(batch(200, 90.0), fleet_settings("deadline", target_seconds=target), Conditions(CERTAIN)).peak
        for target in (70.0, 100.0, 200.0)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1]


def test_the_spending_caps_hold_in_a_simulation() -> None:
    capped = fleet_settings("backlog", dollars_per_day=3.5 * PRICES.launch_dollars(["c7a.large"]))
    trace, conditions = batch(100, 90.0), Conditions(CERTAIN)
    assert simulate_fleet(trace, capped, conditions, prices=PRICES).launches == 3
    assert simulate_fleet(trace, capped, conditions).launches == 10, "without prices, no cap"


def test_a_schedule_goes_by_the_time_of_the_simulation() -> None:
    values = fleet_settings("schedule").model_dump() | {
        "schedule": [{"from": "00:10", "to": "00:20", "min_workers": 3}]
    }
    decision, seen = ConfiguredDecision(FleetSettings.model_validate(values)), list[tuple[float, int]]()

    def listening(observation: Observation) -> Plan:
        decided = decision(observation)
        if decided.launch:
            seen.append(((observation.at - BEGIN).total_seconds(), decided.launch))
        return decided

    simulate(arrivals(1_300.0), listening, replace(CALM, idle_seconds=60.0))
    assert seen == [(600.0 - 42.0, 3), (1_300.0, 1)], "a boot before the schedule's ten minutes, and after them"


@pytest.mark.parametrize(("policy", "least"), [("backlog", 2), ("deadline", 2), ("fixed", 3)])
def test_a_standby_stays_when_it_is_idle_and_is_not_launched_again_and_again(policy: str, least: int) -> None:
    far = Trace("far", np.array([0.0, 1_000.0]), 1_100.0, 60.0)
    settings = fleet_settings(policy, min_workers=2, max_workers=3)
    outcome = simulate_fleet(far, settings, Conditions(CERTAIN, max_workers=3))
    assert outcome.launches == least
    assert outcome.latencies[1] == pytest.approx(1.5), "a worker is running"
    assert ConfiguredDecision(settings).kept == least


def test_the_default_policy_is_the_cheaper_one_on_aws_and_the_faster_one_locally() -> None:
    """On AWS each second of an instance is paid for; on this machine workers cost nothing."""
    stack, local = validated_config({}), load_config(ROOT / "config.yaml", {})
    here = InstanceProfile(pending_seconds=0.1, init_seconds=1.9, slow_share=0.0, never_share=0.0)
    aws = Conditions(
        InstanceProfile.booting_in(stack.fleet.boot_seconds),
        stack.fleet.image_seconds,
        stack.fleet.max_workers,
        idle_seconds=stack.worker.idle_seconds,
    )
    two_cores = Conditions(here, local.fleet.image_seconds, 2, 0.25, local.worker.idle_seconds)
    crowd = named(aws.max_workers / aws.image_seconds)["flash-crowd"](0)

    def outcomes(trace: Trace, fleet: FleetSettings, conditions: Conditions) -> dict[str, SimulationOutcome]:
        choices = {each: fleet.model_copy(update={"policy": each}) for each in ("backlog", "deadline")}
        return {each: simulate_fleet(trace, chosen, conditions) for each, chosen in choices.items()}

    for trace in (batch(1_000, 180.0), crowd):
        on_aws = outcomes(trace, stack.fleet, aws)
        assert on_aws["deadline"].cost <= on_aws["backlog"].cost, trace.name
        if trace is crowd:
            assert on_aws["deadline"].p95 <= aws.machine.boot_seconds
    local_fleet = local.fleet.model_copy(update={"max_workers": 2, "boot_seconds": 2.0, "target_seconds": 5.0})
    on_this_machine = outcomes(batch(1_000, 180.0), local_fleet, two_cores)
    assert on_this_machine["backlog"].p95 <= on_this_machine["deadline"].p95
    assert (stack.fleet.policy, local.fleet.policy) == ("deadline", "backlog")


@pytest.mark.parametrize("images", [200, 1_000, 10_000])
@pytest.mark.parametrize("hours", [1.0, 8.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_batch_that_may_be_finished_later_is_done_by_then_and_costs_less(
    images: int, hours: float, seed: int
) -> None:
    settings = fleet_settings("deadline", target_seconds=30)
    soon = batch(images, 30.0)
    later = replace(soon, finish_seconds=3_600 * hours)
    now, then = (simulate_fleet(trace, settings, Conditions(), seed) for trace in (soon, later))
    assert then.latencies.max() <= later.finish_seconds
    assert then.billed_seconds < now.billed_seconds
    assert then.cost < 1.1 + 180 / now.work_seconds  # the work itself, and about one boot
    assert then.peak < now.peak
