"""The simulated fleet: nothing is lost, the maximum and the billing hold, and queueing theory agrees."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.engine import COLUMNS, LINGER_SECONDS, Conditions, SimulationOutcome, StalledError, simulate, together
from simulator.policies import fixed, one_per_message
from simulator.policy import FleetView, NamedPolicy, PolicyTerms, ScalingAction
from simulator.theory import checks, md1_wait_seconds
from simulator.theory import waiting_share as erlang_c
from simulator.traces import Trace, batch
from simulator.workers import CERTAIN, NEVER, InstanceProfile
from tests.simulation.stories import Script, arrivals

CALM = Conditions(CERTAIN, image_seconds=1.5, max_workers=19)
WORKERS = COLUMNS.index("workers")


class Whim:
    """A policy that launches and drains at random, within the maximum or far beyond it."""

    def __init__(self, seed: int, terms: PolicyTerms) -> None:
        self.terms = terms
        self._luck = np.random.default_rng(seed)

    def decide(self, view: FleetView) -> ScalingAction:
        names = [worker.name for worker in view.workers]
        drained = tuple(name for name in names if self._luck.random() < 0.02)
        wanted = int(self._luck.integers(0, 30)) if self._luck.random() < 0.1 else 0
        return ScalingAction(wanted + (1 if not names and view.visible else 0), drained)


whims = st.builds(
    lambda seed, idle: NamedPolicy("whim", lambda: Whim(seed, PolicyTerms(idle_seconds=idle))),
    st.integers(0, 1_000),
    st.sampled_from([0.4, 5.0, 30.0]),
)
some_arrivals = st.lists(st.floats(0, 300), min_size=1, max_size=80).map(lambda times: arrivals(*sorted(times)))
some_conditions = st.builds(
    lambda most, exponential, service: Conditions(InstanceProfile(), service, exponential, most),
    st.integers(1, 5),
    st.booleans(),
    st.sampled_from([0.1, 1.5, 20.0]),
)


@given(some_arrivals, whims, some_conditions, st.integers(0, 50))
def test_under_every_policy_nothing_is_lost_and_the_maximum_and_the_billing_hold(
    trace: Trace, rule: NamedPolicy, conditions: Conditions, seed: int
) -> None:
    outcome = simulate(trace, rule, conditions, seed)
    services = conditions.service_seconds(len(trace.arrivals), seed)
    assert len(outcome.latencies) == len(trace.arrivals)
    assert np.all(outcome.latencies >= np.array(services) - 1e-6)
    assert outcome.peak <= conditions.max_workers
    assert outcome.history[:, WORKERS].max() <= conditions.max_workers
    assert outcome.history[-1, 1:].tolist() == [0, 0, 0, 0]
    assert outcome.work_seconds <= outcome.billed_seconds + 1e-6
    assert outcome.launches >= 1


@given(some_arrivals, whims, some_conditions, st.integers(0, 50))
def test_the_same_seed_gives_the_same_outcome(
    trace: Trace, rule: NamedPolicy, conditions: Conditions, seed: int
) -> None:
    one, again = (simulate(trace, rule, conditions, seed) for _ in range(2))
    assert one.billed_seconds == again.billed_seconds
    assert np.array_equal(one.latencies, again.latencies)
    assert np.array_equal(one.history, again.history)


@given(some_arrivals, st.integers(0, 50))
def test_images_are_started_in_the_order_in_which_they_came(trace: Trace, seed: int) -> None:
    outcome = simulate(trace, one_per_message(4), Conditions(InstanceProfile(), max_workers=4), seed)
    starts = trace.arrivals + outcome.latencies - 1.5
    assert np.all(np.diff(starts) >= -1e-9)


def test_a_single_worker_boots_and_does_one_image_after_the_other() -> None:
    outcome = simulate(
        batch(3, 60.0), Script({0.0: ScalingAction(1)}, PolicyTerms(idle_seconds=10.0)).as_rule(), CALM
    )
    assert outcome.latencies.tolist() == pytest.approx([43.5, 45.0, 46.5])
    assert outcome.launches == 1
    assert outcome.billed_seconds == 60  # 25 s of init, 4.5 s of work and 10 s of idleness are less than the minimum


def test_an_idle_worker_ends_itself_at_the_very_second_and_pays_for_it() -> None:
    script = Script({0.0: ScalingAction(1)}, PolicyTerms(idle_seconds=40.0))
    outcome = simulate(arrivals(0.0, 44.0, length=200.0), script.as_rule(), CALM)
    assert outcome.latencies.tolist() == pytest.approx([43.5, 1.5])
    assert outcome.billed_seconds == 45.5 - 17 + 40 + 0.5  # in whole seconds
    assert [view.now for view in script.views if view.workers][-1] == 85.0


def test_who_idles_out_between_two_decisions_takes_no_image_that_comes_before_the_next() -> None:
    script = Script({0.0: ScalingAction(1), 84.0: ScalingAction(1)}, PolicyTerms(idle_seconds=40.0))
    outcome = simulate(arrivals(0.0, 83.8), script.as_rule(), CALM)  # idle since 43.5 s
    assert outcome.latencies.tolist() == pytest.approx([43.5, 84 + 42 + 1.5 - 83.8])


def test_the_worker_that_has_waited_longest_gets_the_image() -> None:
    script = Script({0.0: ScalingAction(2)}, PolicyTerms(idle_seconds=60.0))
    simulate(arrivals(50.0, 60.0, 70.0, 80.0, 130.0), script.as_rule(), CALM)
    assert len(script.at(125.0).workers) == 2  # each has had an image in the last minute


def test_a_draining_worker_finishes_what_it_has_and_takes_no_more() -> None:
    trace, slow = arrivals(0.0, 0.0, length=200.0), Conditions(CERTAIN, image_seconds=20.0)
    script = Script({0.0: ScalingAction(1), 50.0: ScalingAction(1, ("i-00000000",))})
    outcome = simulate(trace, script.as_rule(), slow, 0)
    assert [worker.draining for worker in script.at(51.0).workers] == [True, False]
    assert (script.at(51.0).in_flight, script.at(51.0).visible) == (1, 1)
    assert [worker.name for worker in script.at(62.0).workers] == ["i-00000001"]
    assert outcome.latencies.tolist() == pytest.approx([62.0, 50 + 42 + 20])


def test_a_worker_that_is_drained_while_it_boots_ends_at_once() -> None:
    script = Script(
        {
            0.0: ScalingAction(1),
            10.0: ScalingAction(1, ("i-00000000",)),
            30.0: ScalingAction(0, ("i-00000001",)),
            31.0: ScalingAction(1),
        }
    )
    outcome = simulate(arrivals(0.0, length=100.0), script.as_rule(), CALM)
    assert not script.at(31.0).workers
    # The first was pending all the time, the second has run for 3 s; the third worked.
    assert outcome.billed_seconds == 0 + 60 + (LINGER_SECONDS + 100 - 31 - 17)
    assert outcome.latencies.tolist() == pytest.approx([31 + 42 + 1.5])


def test_what_never_reports_is_ended_after_its_allowance() -> None:
    broken = Conditions(InstanceProfile(slow_share=0.0, never_share=1.0))
    script = Script({0.0: ScalingAction(1)})
    with pytest.raises(StalledError, match="1 images of story have waited for 14400 s"):
        simulate(arrivals(0.0, length=0.0), script.as_rule(), broken)
    assert len(script.at(119.0).workers) == 1
    assert not script.at(120.0).workers
    assert script.at(119.0).ready == 0


def test_what_a_policy_wants_beyond_the_maximum_is_refused_and_counted() -> None:
    outcome = simulate(
        batch(5, 60.0), Script({0.0: ScalingAction(20)}, PolicyTerms(idle_seconds=5.0)).as_rule(), CALM
    )
    assert (outcome.peak, outcome.launches, outcome.beyond_maximum) == (19, 19, 1)


def test_prepared_workers_are_ready_at_once_and_paid_from_their_boot_on() -> None:
    outcome = simulate(batch(100, 60.0), fixed(19), CALM)
    assert outcome.latencies.max() == pytest.approx(9.0)  # the sixth round
    assert outcome.launches == 0
    assert outcome.billed_seconds == 19 * 60


def test_an_observation_counts_what_waits_what_is_in_hand_and_what_was_answered() -> None:
    script = Script({0.0: ScalingAction(2)}, PolicyTerms(idle_seconds=5.0))
    simulate(batch(10, 60.0), script.as_rule(), CALM)
    before, after = script.at(42.0), script.at(46.0)
    assert (before.visible, before.in_flight, before.answered) == (10, 0, 0)
    assert (after.visible, after.in_flight, after.answered) == (4, 2, 4)
    assert (script.at(30.0).ready, script.at(30.0).supply) == (0, 2)


def test_figures_are_measured_only_once_there_is_something_to_measure() -> None:
    script = Script({0.0: ScalingAction(1)}, PolicyTerms(idle_seconds=5.0))
    simulate(batch(20, 60.0), script.as_rule(), CALM)
    assert (script.at(41.0).boot_seconds, script.at(42.0).boot_seconds) == (None, 42.0)
    # Nine answers by 55.5 s, ten by 57 s.
    assert (script.at(56.0).image_seconds, script.at(57.0).image_seconds) == (None, 1.5)


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


def test_boots_are_the_same_for_the_same_seed_only() -> None:
    first, again, other = (list(islice(InstanceProfile().boots(seed), 500)) for seed in (1, 1, 2))
    assert first == again != other


def test_another_boot_time_scales_its_parts_and_its_tail() -> None:
    quick = InstanceProfile.booting_in(4.2)
    assert (quick.boot_seconds, quick.pending_seconds, quick.slow_boot_seconds) == pytest.approx((4.2, 1.7, 8.0))
    assert InstanceProfile.booting_in(42.0) == InstanceProfile()


def outcome_of(*latencies: float, billed: float = 100.0, work: float = 50.0, peak: int = 1) -> SimulationOutcome:
    history = np.zeros((1, len(COLUMNS)))
    return SimulationOutcome(np.array(latencies), billed, work, 2.0, peak, 1, 1, history)


def test_cost_is_what_was_billed_by_the_work_itself() -> None:
    assert outcome_of(1.0, billed=120.0, work=50.0).cost == pytest.approx(2.4)


def test_at_least_so_many_percent_were_answered_within_a_percentile() -> None:
    twenty = outcome_of(*range(1, 21))
    assert twenty.p95 == 19.0  # 19 of 20
    assert twenty.percentile(50) == 10.0


def test_a_deadline_is_missed_by_who_is_later() -> None:
    assert outcome_of(1.0, 2.0, 3.0, 4.0).missed(3.0) == 0.25


def test_several_simulations_are_pooled_and_averaged() -> None:
    both = together([outcome_of(1.0, billed=100.0, work=50.0, peak=3), outcome_of(3.0, 5.0, billed=200.0, work=70.0)])
    assert sorted(both.latencies) == [1.0, 3.0, 5.0]
    assert (both.billed_seconds, both.work_seconds, both.launches, both.peak) == (150.0, 60.0, 2.0, 3)
    assert (both.beyond_maximum, both.simulations) == (2, 2)


def test_erlang_c_is_the_load_for_one_server_and_one_at_full_load() -> None:
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)  # by hand: a²/2 / (1 - u) over the sum
    assert erlang_c(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    assert erlang_c(10, 9.999_999) == pytest.approx(1.0, rel=1e-5)


def test_half_as_long_as_with_exponential_times_is_waited_in_md1() -> None:
    assert md1_wait_seconds(0.5, 2.0) == pytest.approx(0.5 * 2.0 * 0.5 / (1 - 0.5))


def test_the_simulator_does_what_queueing_theory_says_within_two_percent() -> None:
    assert {check.what: check.deviation for check in checks(100_000) if check.deviation > 0.02} == {}
