"""The forecast of a batch agrees with a simulation of every image and every decision, under every policy.

Both run the same model of a worker. The forecast begins with what the controller has reported last, plays lots of
images, and decides ever more rarely. Stated tolerance: workers within one or a tenth, times within 3 s or a tenth,
billed seconds within a sixth.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import Config, FleetSettings, parse_config
from core.fleet.models import Decisions, FleetInstance, FleetInstances
from core.fleet.store import FleetState
from simulator.engine import BEGIN, CERTAIN, Conditions, ConfiguredDecision, Simulation, simulate_fleet
from simulator.traces import Trace, batch, poisson
from tests.conftest import shipped_values
from tests.support.autoscaler import POLICY_SETTINGS, fleet_snapshot
from web_tier.autoscaler.decide import Plan
from web_tier.autoscaler.forecast import Forecast, forecast
from web_tier.autoscaler.observe import Observation
from web_tier.autoscaler.policies import POLICIES

IDLE_SECONDS = 10.0
IMAGE_SECONDS = 1.5


def config_of(policy: str, **changes: object) -> Config:
    values = shipped_values()
    own = {"image_seconds": IMAGE_SECONDS, "boot_seconds": CERTAIN.boot_seconds, "max_workers": 19}
    values["fleet"] |= {"policy": policy, **own, **POLICY_SETTINGS.get(policy, {}), **changes}
    values["worker"]["idle_seconds"], values["controller"]["interval_seconds"] = IDLE_SECONDS, 1.0
    return parse_config(values)


@dataclass
class Listening:
    """Decides as the product does; keeps what it saw last before a moment, and what it saw first from then on."""

    decision: ConfiguredDecision
    moment: float
    before: Observation | None = None
    seen: Observation | None = None

    def __call__(self, observation: Observation) -> Plan:
        if (observation.at - BEGIN).total_seconds() < self.moment:
            self.before = observation
        elif self.seen is None:
            self.seen = observation
        return self.decision(observation)


def state_of(fleet: FleetSettings, before: Observation, seen: Observation, images: int) -> FleetState:
    """Return what the controller reports of `seen`, if the `images` that came last were not there."""
    instances = tuple(
        FleetInstance(
            instance_id=f"i-{each.instance_id}",  # the forecast calls its own launches new-0, new-1 ... too
            state=each.state,
            instance_type=each.instance_type,
            zone="us-east-1a",
            launched_at=each.launched_at,
            worker=None if each.instance_id in seen.metrics.unregistered else "busy",
            draining=each.draining,
        )
        for each in reversed(seen.instances)
    )
    snapshot = fleet_snapshot(
        seen.at,
        running=seen.count("running"),
        pending=seen.count("pending"),
        visible=seen.requests.visible - images,
        in_flight=seen.requests.in_flight,
        min_workers=fleet.min_workers,
        max_workers=fleet.max_workers,
        image_seconds=seen.metrics.image_seconds,
        boot_seconds=seen.metrics.boot_seconds,
        policy=fleet.policy,
        arrival_rate=before.demand.rate,
        waiting_seconds=max((age for age, _ in before.demand.waiting), default=0.0),
    )
    return FleetState(snapshot, FleetInstances(total=len(instances), instances=instances), Decisions(), None)


def at_rest(config: Config) -> FleetState:
    snapshot = fleet_snapshot(BEGIN, max_workers=config.fleet.max_workers, policy=config.fleet.policy)
    return FleetState(snapshot, FleetInstances(), Decisions(), None)


def conditions(config: Config) -> Conditions:
    return Conditions(CERTAIN, IMAGE_SECONDS, config.fleet.max_workers, idle_seconds=IDLE_SECONDS)


def check_times(found: Forecast | None, latencies: np.ndarray) -> Forecast:
    assert found is not None
    assert found.first_seconds == pytest.approx(latencies.min(), rel=0.1, abs=3.0)
    assert found.last_seconds == pytest.approx(latencies.max(), rel=0.1, abs=3.0)
    return found


@pytest.mark.parametrize("images", [1, 7, 100, 1_000, 10_000])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_for_a_fleet_at_rest(policy: str, images: int) -> None:
    config = config_of(policy)
    outcome = simulate_fleet(batch(images, 600.0), config.fleet, conditions(config))
    found = check_times(forecast(images, at_rest(config), config), outcome.latencies)
    assert found.launches == pytest.approx(outcome.launches, rel=0.1, abs=1)
    # A worker that stays is billed to the batch for its idle time and the minimum; the simulator ends it at once.
    stay = ConfiguredDecision(config.fleet).kept * (IDLE_SECONDS + config.prices.minimum_billed_seconds)
    assert outcome.billed_seconds * 5 / 6 <= found.bill.seconds <= (outcome.billed_seconds + stay) * 7 / 6
    hourly = config.prices.worker_hour(config.fleet.instance_types[0])
    assert found.bill.dollars == pytest.approx(found.bill.seconds * hourly / 3_600)
    assert found.dollars > found.bill.dollars


@pytest.mark.parametrize("moment", [20.0, 70.0, 300.0])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_behind_others_for_a_fleet_that_boots_or_works(policy: str, moment: float) -> None:
    """Sixty images at first, half an image a second from then on, and the batch at `moment`."""
    config, images = config_of(policy), 400
    stream = poisson([0.5] * int(moment), 1.0, seed=7)
    times = np.concatenate([np.zeros(60), stream, np.full(images, moment)])
    listening = Listening(ConfiguredDecision(config.fleet), moment)
    outcome = Simulation(Trace("behind others", times, moment, 600.0), conditions(config), listening).run()
    assert listening.before is not None
    assert listening.seen is not None
    state = state_of(config.fleet, listening.before, listening.seen, images)
    found = check_times(forecast(images, state, config), outcome.latencies[-images:])
    assert found.workers == len(listening.seen.instances)
    assert found.workers + found.launches == pytest.approx(outcome.peak, rel=0.1, abs=1)


@settings(max_examples=60)
@given(st.integers(1, 100_000), st.sampled_from(list(POLICIES)), st.integers(1, 40))
def test_no_forecast_of_a_fleet_at_rest_is_better_than_possible(images: int, policy: str, max_workers: int) -> None:
    config = config_of(policy, max_workers=max_workers)
    found = forecast(images, at_rest(config), config)
    assert found is not None
    assert found.first_seconds is not None
    assert found.last_seconds is not None
    work = images * IMAGE_SECONDS
    assert 1 <= found.launches <= max_workers
    assert found.first_seconds >= CERTAIN.boot_seconds + IMAGE_SECONDS - 1e-6
    assert found.last_seconds >= CERTAIN.boot_seconds + work / max_workers - 1e-6
    assert found.bill.seconds >= max(work, found.launches * config.prices.minimum_billed_seconds) - 1e-6


def test_launches_are_limited_in_the_forecast_as_they_are_in_the_fleet() -> None:
    config = config_of("backlog", launches_per_minute=2, max_workers=6)
    found = forecast(1_000, at_rest(config), config)
    assert found is not None
    assert found.launches == 6
    # Two work from the 42nd second, four from the 102nd, six from the 162nd.
    assert found.first_seconds == pytest.approx(42 + IMAGE_SECONDS, abs=1)
    done = (2 * 60 + 4 * 60) / IMAGE_SECONDS
    assert found.last_seconds == pytest.approx(162 + (1_000 - done) / 6 * IMAGE_SECONDS, rel=0.1)
