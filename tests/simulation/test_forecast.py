"""The forecast of a batch is within a factor of 1.5 of a simulation of every image and every decision."""

from datetime import timedelta

import numpy as np
import pytest

from core.config import Config, FleetSettings, parse_config
from core.cost import JOB, SECONDS_AN_HOUR, expected_counts, requests_of
from core.fleet.models import Decisions, FleetInstance, FleetInstances
from core.fleet.store import FleetState
from core.jobs.packs import PackSizes
from tests.conftest import shipped_values
from tests.simulation.fleet.engine import CERTAIN, Conditions, simulate_fleet
from tests.simulation.fleet.playback import BEGIN
from tests.simulation.fleet.traces import Trace
from tests.support.autoscaler import POLICY_SETTINGS, fleet_snapshot
from web_tier.autoscaler.forecast import forecast
from web_tier.autoscaler.policies import POLICIES

IMAGE_SECONDS = 1.5
FACTOR = 1.5
WARM_AT = 100.0
"""When the batch of a warm fleet arrives: its workers have answered another one, and are idle."""


def config_of(policy: str) -> Config:
    values = shipped_values()
    own = {"boot_seconds": CERTAIN.boot_seconds, "max_workers": 19}
    values["fleet"] |= {"policy": policy, **own, **POLICY_SETTINGS.get(policy, {})}
    return parse_config(values)


@pytest.fixture(autouse=True)
def slow_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with the right time of an image, before it is measured."""
    monkeypatch.setattr(FleetSettings, "image_seconds", IMAGE_SECONDS)


@pytest.mark.parametrize("images", [100, 2_000])
@pytest.mark.parametrize("warm", [0, 4])
@pytest.mark.parametrize("policy", POLICIES)
def test_seconds_and_dollars_are_within_a_factor_of_one_and_a_half(policy: str, warm: int, images: int) -> None:
    """With `warm` workers of an earlier batch, which stay idle until the batch comes, or with none."""
    config = config_of(policy)
    fleet = config.fleet.model_copy(update={"min_workers": warm})
    conditions = Conditions(CERTAIN, IMAGE_SECONDS, fleet.max_workers, idle_seconds=10.0)
    arrivals = np.concatenate([np.zeros(warm), np.full(images, WARM_AT if warm else 0.0)])
    outcome = simulate_fleet(Trace("batch", arrivals, arrivals[-1]), fleet, conditions)
    instances = tuple(
        FleetInstance(
            instance_id=f"i-{number}",
            state="running",
            instance_type=fleet.instance_types[0],
            zone="a",
            launched_at=BEGIN - timedelta(seconds=WARM_AT),
            worker="ready",
        )
        for number in range(warm)
    )
    snapshot = fleet_snapshot(
        BEGIN,
        running=warm,
        min_workers=warm,
        max_workers=fleet.max_workers,
        image_seconds=IMAGE_SECONDS,
        boot_seconds=CERTAIN.boot_seconds,
    )
    state = FleetState(snapshot, FleetInstances(total=warm, instances=instances), Decisions(), None)
    found = forecast(images, state, config)
    assert found is not None
    assert found.seconds is not None
    assert found.dollars is not None
    took = outcome.latencies[warm:].max()
    assert took / FACTOR <= found.seconds <= took * FACTOR
    if not warm:  # a warm fleet is also billed for the batch before
        counts = expected_counts(images, PackSizes.of(config, lambda: 0.01))
        requests = (requests_of(counts) + JOB).dollars(config.prices)
        billed = outcome.billed_seconds * config.prices.worker_hour(fleet.instance_types[0]) / SECONDS_AN_HOUR
        assert (billed + requests) / FACTOR <= found.dollars <= (billed + requests) * FACTOR
