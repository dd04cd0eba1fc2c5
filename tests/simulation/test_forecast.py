"""The forecast of a batch agrees with the simulator, which plays every image, under every policy.

Stated tolerance: workers within one or a tenth, times within 3 s or a tenth, billed seconds within a sixth.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import pytest

from core.config import Config, FleetSettings, parse_config
from core.fleet.models import Decisions, FleetInstance, FleetInstances
from core.fleet.store import FleetState
from services.sqs import QueueCounts
from simulator.engine import Conditions, SimulationOutcome, simulate
from simulator.policies import BEGIN, IDLE_SECONDS, Ours, ours
from simulator.policy import FleetView, NamedPolicy, ScalingAction
from simulator.traces import Trace, batch, poisson
from simulator.workers import CERTAIN
from tests.conftest import shipped_values
from tests.support.autoscaler import fleet_snapshot
from web_tier.autoscaler.estimators import ArrivalRateEstimator
from web_tier.autoscaler.forecast import Forecast, forecast
from web_tier.autoscaler.policies import POLICIES

IMAGE_SECONDS = 1.5

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "backlog": {"images_per_worker": 20},
    "deadline": {"target_seconds": 120},
    "schedule": {"schedule": [{"from": "00:00", "to": "12:00", "min_workers": 3}]},
    "fixed": {"max_workers": 4},
}
"""Settings of each policy; one that is not named here is played with the shipped ones."""


def config_of(policy: str, **changes: object) -> Config:
    values = shipped_values()
    own = {"image_seconds": IMAGE_SECONDS, "boot_seconds": CERTAIN.boot_seconds, "max_workers": 19}
    values["fleet"] |= {"policy": policy, **own, **SETTINGS.get(policy, {}), **changes}
    values["worker"]["idle_seconds"], values["controller"]["interval_seconds"] = IDLE_SECONDS, 1.0
    return parse_config(values)


@dataclass
class Listening:
    """The product's policy, which keeps the view at a moment and the demand that the controller estimates then."""

    inner: Ours
    moment: float
    view: FleetView | None = None
    rate: float = 0.0
    oldest: float = 0.0
    _now: float = 0.0
    _arrivals: ArrivalRateEstimator = field(init=False)

    def __post_init__(self) -> None:
        self.terms = self.inner.terms
        self._arrivals = ArrivalRateEstimator(clock=lambda: self._now)

    def decide(self, view: FleetView) -> ScalingAction:
        if view.now >= self.moment and self.view is None:
            self.view = deepcopy(view)  # the simulation changes its workers
        if self.view is None:
            self._now = view.now
            demand = self._arrivals.update(QueueCounts(view.visible, view.in_flight, 0), view.answered)
            self.rate = demand.rate
            self.oldest = max((age for age, _ in demand.waiting), default=0.0)
        return self.inner.decide(view)


def state_of(settings: FleetSettings, view: FleetView, before: int, rate: float, oldest: float) -> FleetState:
    """Return what the controller reports at `view`, of which `before` images are not of the batch."""
    instances = tuple(
        FleetInstance(
            instance_id=each.name,
            state="running" if each.running_at <= view.now else "pending",
            instance_type=settings.instance_types[0],
            zone="us-east-1a",
            launched_at=BEGIN + timedelta(seconds=each.launched_at),
            worker="busy" if each.ready_at <= view.now else None,
            draining=each.draining,
        )
        for each in reversed(view.workers)
    )
    snapshot = fleet_snapshot(
        BEGIN + timedelta(seconds=view.now),
        running=sum(each.state == "running" for each in instances),
        pending=sum(each.state == "pending" for each in instances),
        visible=before - view.in_flight,
        in_flight=view.in_flight,
        min_workers=settings.min_workers,
        max_workers=settings.max_workers,
        image_seconds=view.image_seconds,
        boot_seconds=view.boot_seconds,
        policy=settings.policy,
        arrival_rate=rate,
        waiting_seconds=oldest,
    )
    return FleetState(snapshot, FleetInstances(total=len(instances), instances=instances), Decisions(), None)


def at_rest(config: Config) -> FleetState:
    snapshot = fleet_snapshot(BEGIN, max_workers=config.fleet.max_workers, policy=config.fleet.policy)
    return FleetState(snapshot, FleetInstances(), Decisions(), None)


def conditions(config: Config) -> Conditions:
    return Conditions(CERTAIN, image_seconds=IMAGE_SECONDS, max_workers=config.fleet.max_workers)


def check_times(found: Forecast | None, latencies: np.ndarray) -> Forecast:
    assert found is not None
    assert found.first_seconds == pytest.approx(latencies.min(), rel=0.1, abs=3.0)
    assert found.last_seconds == pytest.approx(latencies.max(), rel=0.1, abs=3.0)
    return found


def played(config: Config, trace: Trace) -> SimulationOutcome:
    return simulate(trace, ours(config.fleet, idle_seconds=IDLE_SECONDS), conditions(config))


@pytest.mark.parametrize("images", [1, 7, 100, 1_000, 10_000])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_for_a_fleet_at_rest(policy: str, images: int) -> None:
    config = config_of(policy)
    outcome = played(config, batch(images, 600.0))
    found = check_times(forecast(images, at_rest(config), config), outcome.latencies)
    assert found.launches == pytest.approx(outcome.launches, rel=0.1, abs=1)
    # A worker that stays is billed to the batch for its idle time and the minimum; the simulator ends it at once.
    stay = ours(config.fleet).new().terms.floor * (IDLE_SECONDS + config.prices.minimum_billed_seconds)
    assert outcome.billed_seconds * 5 / 6 <= found.bill.seconds <= (outcome.billed_seconds + stay) * 7 / 6
    hourly = config.prices.hourly(config.fleet.instance_types[0])
    assert found.bill.dollars == pytest.approx(found.bill.seconds * hourly / 3_600)
    assert found.dollars > found.bill.dollars


@pytest.mark.parametrize("moment", [20.0, 70.0, 300.0])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_batch_behind_others_for_a_fleet_that_boots_or_works(policy: str, moment: float) -> None:
    """Sixty images at first, half an image a second from then on, and the batch at `moment`."""
    config, images = config_of(policy), 400
    stream = poisson([0.5] * int(moment), 1.0, seed=7)
    times = np.concatenate([np.zeros(60), stream, np.full(images, moment)])
    listening = Listening(Ours(config.fleet, ours(config.fleet, idle_seconds=IDLE_SECONDS).new().terms), moment)
    rule = NamedPolicy(policy, lambda: listening)
    outcome = simulate(Trace("behind others", times, moment, 600.0), rule, conditions(config))
    view = listening.view
    assert view is not None
    before = view.visible + view.in_flight - images
    state = state_of(config.fleet, view, before, listening.rate, listening.oldest)
    found = check_times(forecast(images, state, config), outcome.latencies[-images:])
    assert found.workers == len(view.workers)
    assert found.workers + found.launches == pytest.approx(outcome.peak, rel=0.1, abs=1)


def test_launches_are_limited_in_the_forecast_as_they_are_in_the_fleet() -> None:
    config = config_of("backlog", launches_per_minute=2, max_workers=6)
    found = forecast(1_000, at_rest(config), config)
    assert found is not None
    assert found.launches == 6
    # Two work from the 42nd second, four from the 102nd, six from the 162nd.
    assert found.first_seconds == pytest.approx(42 + IMAGE_SECONDS, abs=1)
    done = (2 * 60 + 4 * 60) / IMAGE_SECONDS
    assert found.last_seconds == pytest.approx(162 + (1_000 - done) / 6 * IMAGE_SECONDS, rel=0.1)
