"""The policies on a simulated fleet, and the simulated fleet against queueing theory and EC2's bill."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import repeat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.config import FleetSettings, load_config
from scripts.aws.deploy.settings import validated_config
from tests.conftest import ROOT
from tests.simulation.fleet.engine import (
    CERTAIN,
    LINGER_SECONDS,
    Conditions,
    InstanceProfile,
    Simulation,
    SimulationOutcome,
    StalledError,
    simulate_fleet,
)
from tests.simulation.fleet.playback import BEGIN, Playback, PlayedWorker
from tests.simulation.fleet.traces import Floats, Trace, batch, flash_crowd
from tests.support.autoscaler import fleet_settings
from web_tier.autoscaler.decide import Plan, decide
from web_tier.autoscaler.observe import Observation

CALM = Conditions(CERTAIN, image_seconds=1.5, max_workers=19, idle_seconds=math.inf)
SHORT = replace(CALM, idle_seconds=5.0)


def arrivals(*seconds: float, length: float | None = None) -> Trace:
    """Return a trace of images that come at these seconds."""
    return Trace("story", np.array(seconds, dtype=float), seconds[-1] if length is None else length)


def plan(launch: int = 0, drain: tuple[str, ...] = ()) -> Plan:
    return Plan(launch, (), "starting", drain=drain)


@dataclass
class Script:
    """Returns the plans of a script, each at its second, and remembers what it was shown."""

    plans: Mapping[float, Plan]
    seen: list[Observation] = field(default_factory=list)

    def __call__(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        return self.plans.get((observation.at - BEGIN).total_seconds(), plan())

    def at(self, second: float) -> Observation:
        moment = BEGIN + timedelta(seconds=second)
        return next(each for each in self.seen if each.at == moment)


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


def simulate(
    trace: Trace, decision: Callable[[Observation], Plan], conditions: Conditions, seed: int = 0
) -> SimulationOutcome:
    return Simulation(trace, conditions, decision, seed).run()


some_arrivals = st.lists(st.floats(0, 300), min_size=1, max_size=80).map(lambda times: arrivals(*sorted(times)))
some_conditions = st.builds(
    lambda most, service, idle: Conditions(InstanceProfile(), service, most, idle_seconds=idle),
    st.integers(1, 5),
    st.sampled_from([0.1, 1.5, 20.0]),
    st.sampled_from([0.4, 5.0, 30.0]),
)


@given(some_arrivals, st.integers(0, 1_000), some_conditions, st.integers(0, 50))
def test_any_decisions_lose_no_image_and_hold_the_maximum_and_the_bill(
    trace: Trace, whim: int, conditions: Conditions, seed: int
) -> None:
    outcome = simulate(trace, Whim(whim), conditions, seed)
    assert len(outcome.latencies) == len(trace.arrivals)
    assert np.all(outcome.latencies >= conditions.image_seconds - 1e-6)
    assert outcome.peak <= conditions.max_workers
    assert outcome.work_seconds <= outcome.billed_seconds + 1e-6
    again = simulate(trace, Whim(whim), conditions, seed)
    assert again.billed_seconds == outcome.billed_seconds
    assert np.array_equal(again.latencies, outcome.latencies)


def erlang_c(workers: int, load: float) -> float:
    """Return the share of images that find all workers busy, for more workers than `load`.

    ``B(0) = 1, B(k) = a B(k-1) / (k + a B(k-1)); C = B(c) / (1 - a / c (1 - B(c)))`` for a load a and c workers.
    Source: Kleinrock, Queueing Systems I (1975), eq. 3.40 and 3.43 (Erlang's C and B formulas).
    """
    blocked = 1.0
    for count in range(1, workers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1 - load / workers * (1 - blocked))


def waits(workers: int, load: float, seconds: Floats) -> Floats:
    """Return how long images wait that take `seconds` and arrive as a Poisson process, without the first fiftieth."""
    times = np.sort(np.random.default_rng(1).uniform(0.0, len(seconds) / load, len(seconds)))
    fleet = Playback(times.tolist(), seconds.tolist(), CERTAIN, repeat(CERTAIN.boot_seconds), math.inf)
    for number in range(workers):
        fleet.add(PlayedWorker(f"i-{number}", launched_at=-CERTAIN.boot_seconds, ready_at=0.0))
    fleet.advance(math.inf)
    waited: Floats = np.frombuffer(fleet.finished) - seconds - times
    return waited[len(seconds) // 50 :]


def test_eight_workers_with_exponential_times_wait_as_erlang_says() -> None:
    found = waits(8, 6.0, np.random.default_rng(2).exponential(1.0, 300_000))
    assert np.mean(found > 1e-9) == pytest.approx(erlang_c(8, 6.0), rel=0.02)
    assert found.mean() == pytest.approx(erlang_c(8, 6.0) / (8 - 6.0), rel=0.05)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)  # by hand: a²/2 / (1 - u) over the sum


def test_an_idle_worker_ends_itself_at_the_very_second_and_pays_for_it() -> None:
    script = Script({0.0: plan(1)})
    outcome = simulate(arrivals(0.0, 44.0, length=200.0), script, replace(CALM, idle_seconds=40.0))
    assert outcome.latencies.tolist() == pytest.approx([43.5, 1.5])
    assert outcome.billed_seconds == 45.5 - 17 + 40 + 0.5  # in whole seconds
    assert [each.at for each in script.seen if each.instances][-1] == BEGIN + timedelta(seconds=85)


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


def test_launches_beyond_the_maximum_are_refused_and_counted() -> None:
    outcome = simulate(batch(5), Script({0.0: plan(20)}), SHORT)
    assert (outcome.peak, outcome.launches, outcome.beyond_maximum) == (19, 19, 1)


def test_a_policy_sees_counts_boots_and_spare_workers_as_the_controller_does() -> None:
    script = Script({0.0: plan(2), 30.0: plan(1)})
    simulate(batch(24), script, replace(CALM, idle_seconds=100.0))
    assert script.at(30.0).metrics.unregistered == {"new-0": 30.0, "new-1": 30.0}
    assert script.at(30.0).demand.waiting == ((30.0, 24),)
    assert [each.state for each in script.at(16.0).instances] == ["pending", "pending"]
    assert [each.state for each in script.at(17.0).instances] == ["running", "running"]
    assert [script.at(second).recent_launches for second in (0, 1, 31, 61)] == [0, 2, 3, 1]
    assert (script.at(46.0).requests.visible, script.at(46.0).requests.in_flight) == (18, 2)
    assert (script.at(41.0).metrics.boot_seconds, script.at(42.0).metrics.boot_seconds) == (None, 42.0)
    # Eight answers by 49.5 s, ten by 51 s.
    assert (script.at(49.0).metrics.image_seconds, script.at(51.0).metrics.image_seconds) == (None, 1.5)
    assert [script.at(second).metrics.spare for second in (76.0, 77.0)] == [(), ("new-0", "new-1")]


@pytest.mark.parametrize(("ended_at", "billed"), [(17.0, 0), (17.5, 60), (77.0, 60), (77.1, 61), (177.0, 160)])
def test_seconds_are_billed_from_running_on_and_at_least_a_minute_of_them(ended_at: float, billed: int) -> None:
    assert CERTAIN.billed(0.0, ended_at) == billed


def test_a_deadline_with_more_time_takes_fewer_workers() -> None:
    peaks = [
        simulate_fleet(batch(200), own_settings("deadline", target_seconds=target), Conditions(CERTAIN)).peak
        for target in (70.0, 100.0, 200.0)
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] > peaks[-1]


@pytest.mark.parametrize("policy", ["backlog", "deadline"])
def test_images_in_packs_get_as_many_workers_as_lone_ones_and_cost_as_much(policy: str) -> None:
    settings = fleet_settings(policy=policy, images_per_worker=300, image_seconds=0.1, target_seconds=90)
    lone, packs = (
        simulate_fleet(batch(4_000), settings, Conditions(CERTAIN, 0.1, pack_images=size)) for size in (1, 20)
    )
    assert (packs.peak, packs.beyond_maximum) == (lone.peak, 0)
    assert packs.cost == pytest.approx(lone.cost, rel=0.02)
    assert packs.p95 == pytest.approx(lone.p95, rel=0.05)


def test_a_schedule_goes_by_the_time_of_the_simulation() -> None:
    settings = own_settings("schedule", schedule=[{"from": "00:10", "to": "00:20", "min_workers": 3}])
    seen = list[tuple[float, int]]()

    def listening(observation: Observation) -> Plan:
        decided = decide(observation, settings)
        if decided.launch:
            seen.append(((observation.at - BEGIN).total_seconds(), decided.launch))
        return decided

    simulate(arrivals(1_300.0), listening, replace(CALM, idle_seconds=60.0))
    assert seen == [(600.0 - 42.0, 3), (1_300.0, 1)], "a boot before the schedule's ten minutes, and after them"


@pytest.mark.parametrize(("policy", "least"), [("backlog", 2), ("deadline", 2), ("fixed", 3)])
def test_a_standby_stays_when_it_is_idle_and_is_not_launched_again_and_again(policy: str, least: int) -> None:
    settings = own_settings(policy, min_workers=2, max_workers=3)
    outcome = simulate_fleet(arrivals(0.0, 1_000.0, length=1_100.0), settings, Conditions(CERTAIN, max_workers=3))
    assert outcome.launches == least
    assert outcome.latencies[1] == pytest.approx(1.5), "a worker is running"


def test_the_default_policy_is_the_cheaper_one_on_aws_and_the_faster_one_locally() -> None:
    """On AWS each second of an instance is paid for; on this machine workers cost nothing."""
    stack, local = validated_config({}), load_config(ROOT / "config.yaml", {})
    here = InstanceProfile(pending_seconds=0.1, init_seconds=1.9, slow_share=0.0, never_share=0.0)
    assert stack.fleet.boot_seconds == InstanceProfile().boot_seconds
    aws = Conditions(
        image_seconds=stack.fleet.image_seconds,
        max_workers=stack.fleet.max_workers,
        idle_seconds=stack.worker.idle_seconds,
    )
    two_cores = Conditions(here, local.fleet.image_seconds, 2, 0.25, local.worker.idle_seconds)
    crowd = flash_crowd(aws.max_workers / aws.image_seconds, 0)

    def outcomes(trace: Trace, fleet: FleetSettings, conditions: Conditions) -> dict[str, SimulationOutcome]:
        choices = {each: fleet.model_copy(update={"policy": each}) for each in ("backlog", "deadline")}
        return {each: simulate_fleet(trace, chosen, conditions) for each, chosen in choices.items()}

    for trace in (batch(1_000), crowd):
        on_aws = outcomes(trace, stack.fleet, aws)
        assert on_aws["deadline"].cost <= on_aws["backlog"].cost, trace.name
        if trace is crowd:
            assert on_aws["deadline"].p95 <= aws.machine.boot_seconds
    local_fleet = local.fleet.model_copy(update={"max_workers": 2, "boot_seconds": 2.0, "target_seconds": 5.0})
    on_this_machine = outcomes(batch(1_000), local_fleet, two_cores)
    assert on_this_machine["backlog"].p95 <= on_this_machine["deadline"].p95
    assert (stack.fleet.policy, local.fleet.policy) == ("deadline", "backlog")


@pytest.mark.parametrize(
    ("images", "hours", "seed"), [(200, 1.0, 0), (200, 8.0, 1), (1_000, 1.0, 1), (1_000, 8.0, 2), (10_000, 8.0, 0)]
)
def test_a_batch_that_may_be_finished_later_is_done_by_then_and_costs_less(
    images: int, hours: float, seed: int
) -> None:
    settings = own_settings("deadline", target_seconds=30)
    later = replace(batch(images), finish_seconds=3_600 * hours)
    now, then = (simulate_fleet(trace, settings, Conditions(), seed) for trace in (batch(images), later))
    assert then.latencies.max() <= 3_600 * hours
    assert then.billed_seconds < now.billed_seconds
    assert then.cost < 1.1 + 180 / now.work_seconds  # the work itself, and about one boot
    assert then.peak < now.peak


def own_settings(policy: str, **changes: object) -> FleetSettings:
    """Return settings for images of 1.5 s."""
    return fleet_settings(policy=policy, images_per_worker=10, image_seconds=1.5, boot_seconds=42.0, **changes)
