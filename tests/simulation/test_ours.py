from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from benchmarks.fleet import fleet_settings
from core.config import FleetSettings
from simulator.engine import Conditions, simulate
from simulator.ours import BEGIN, metrics, ours
from simulator.traces import Trace, batch
from simulator.workers import CERTAIN
from tests.simulation.stories import fleet_view
from web_tier.autoscaler.decide import decide
from web_tier.autoscaler.observe import Observation


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """Listen to what `decide` is shown, and let it decide."""
    seen: list[Observation] = []

    def listening(observation: Observation, fleet: FleetSettings) -> object:
        seen.append(observation)
        return decide(observation, fleet)

    monkeypatch.setattr("simulator.ours.decide", listening)
    return seen


def test_the_controllers_own_decision_is_carried_out() -> None:
    outcome = simulate(batch(100, 90.0), ours(fleet_settings()), Conditions(CERTAIN))
    assert (outcome.launches, outcome.peak) == (10, 10)  # ten images a worker
    assert outcome.billed_seconds == 10 * 60


def test_the_decision_is_shown_what_the_controller_would_observe(shown: list[Observation]) -> None:
    now = fleet_view(200.0, visible=5, in_flight=2, ready=2, booting=1, draining=1)
    ours(fleet_settings()).new().decide(replace(now, image_seconds=1.5, boot_seconds=42.0))
    observation = shown[0]
    assert (observation.requests.visible, observation.requests.in_flight) == (5, 2)
    assert [each.state for each in observation.instances] == ["running", "running", "running", "pending"]
    assert (observation.capacity, observation.draining) == (4, frozenset({"w0"}))
    assert observation.metrics.image_seconds == 1.5


def test_how_long_images_wait_is_told_by_the_simulations_clock(shown: list[Observation]) -> None:
    policy = ours(fleet_settings()).new()
    policy.decide(fleet_view(0.0, visible=7))
    policy.decide(fleet_view(30.0, visible=7))
    assert shown[1].demand.waiting == ((30.0, 7),)


def test_workers_that_the_plan_drains_are_drained() -> None:
    fleet = fleet_settings().model_copy(update={"policy": "deadline"})
    order = ours(fleet).new().decide(fleet_view(200.0, ready=3))
    assert order.launch == 0
    assert order.drain
    assert set(order.drain) <= {"w0", "w1", "w2"}


def test_workers_that_boot_are_unregistered_and_idle_ones_that_have_run_for_a_minute_are_spare() -> None:
    found = metrics(fleet_view(200.0, ready=2, booting=3, draining=1))
    assert list(found.unregistered.values()) == [10.0, 10.0, 10.0]
    assert found.spare == ("w1", "w2")  # not the draining one
    assert metrics(fleet_view(200.0, ready=2, booting=3, draining=1, in_flight=1)).spare == ("w2",)


def test_a_description_is_made_anew_only_when_the_fleet_has_changed(shown: list[Observation]) -> None:
    policy = ours(fleet_settings()).new()
    for changes in (1, 1, 2):
        policy.decide(replace(fleet_view(ready=1), changes=changes))
    assert shown[0].instances is shown[1].instances is not shown[2].instances


def test_workers_are_kept_at_the_configured_minimum() -> None:
    fleet = fleet_settings().model_copy(update={"min_workers": 2})
    rule = ours(fleet, idle_seconds=7.0)
    assert (rule.new().terms.floor, rule.new().terms.idle_seconds) == (2, 7.0)
    outcome = simulate(batch(1, 90.0), rule, Conditions(CERTAIN))
    assert outcome.launches >= 2


def test_a_schedule_goes_by_the_time_of_the_simulation(shown: list[Observation]) -> None:
    values = fleet_settings().model_dump() | {
        "policy": "schedule",
        "schedule": [{"from": "00:10", "to": "00:20", "min_workers": 3}],
    }
    fleet = FleetSettings.model_validate(values)
    rule = ours(fleet)
    assert rule.name == "schedule"
    orders = {minute: rule.new().decide(fleet_view(60.0 * minute)).launch for minute in (5, 9.99, 15, 25)}
    assert orders == {5: 0, 9.99: 3, 15: 3, 25: 0}
    assert shown[0].at == BEGIN + timedelta(minutes=5)


@pytest.mark.parametrize(("policy", "least"), [("backlog", 2), ("deadline", 2), ("fixed", 3)])
def test_a_standby_stays_when_it_is_idle_and_is_not_launched_again_and_again(policy: str, least: int) -> None:
    fleet = fleet_settings().model_copy(update={"policy": policy, "min_workers": 2, "max_workers": 3})
    far = Trace("far", np.array([0.0, 1_000.0]), 1_100.0, 60.0)
    outcome = simulate(far, ours(fleet), Conditions(CERTAIN, max_workers=3))
    assert outcome.launches == least
    assert outcome.latencies[1] == pytest.approx(1.5), "somebody is there"
