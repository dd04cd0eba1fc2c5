"""The forecast of a batch in words and by the API; tests/simulation compares its figures with a simulation."""

from datetime import timedelta

import pytest

from core.config import Config
from core.fleet.models import (
    CircuitState,
    Decisions,
    FleetCircuit,
    FleetInstance,
    FleetInstances,
    FleetPause,
    FleetSnapshot,
    FleetSpending,
    LaterImages,
    LimitsOverride,
)
from core.fleet.store import FleetState, FleetStore
from core.jobs.store import JobStore
from tests.conftest import ConfigMaker
from tests.support.api import AppMaker
from tests.support.autoscaler import fleet_snapshot
from tests.support.jobs import NOW
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.forecast import Forecast, forecast

MEASURED = {"image_seconds": 0.5, "boot_seconds": 40.0, "policy": "backlog"}


@pytest.fixture
def config(make_config: ConfigMaker) -> Config:
    """Fifty images a worker, at most five workers, which are idle for 10 s at last and cost a cent a minute."""
    fleet = {"policy": "backlog", "images_per_worker": 50, "max_workers": 5, "instance_types": ["c7a.large"]}
    prices = {"instance_hour": {"c7a.large": 0.6}, "spot_hour": {}, "minimum_billed_seconds": 60}
    return make_config(fleet=fleet, prices=prices, worker={"idle_seconds": 10})


def state(*instances: FleetInstance, pause: FleetPause | None = None, **fields: object) -> FleetState:
    """Return the state of a fleet with these instances, which are running."""
    values = {"running": len(instances), "max_workers": 5, **MEASURED, **fields}
    listed = FleetInstances(total=len(instances), instances=instances)
    return FleetState(fleet_snapshot(EPOCH, **values), listed, Decisions(), pause)


def ready(number: int, age: float = 100.0, **fields: object) -> FleetInstance:
    """Return an instance with a worker that has reported."""
    values = {"worker": "ready", "state": "running", **fields}
    launched = EPOCH - timedelta(seconds=age)
    return FleetInstance.model_validate(
        {"instance_id": f"i-{number}", "instance_type": "c7a.large", "zone": "a", "launched_at": launched, **values}
    )


def of(images: int, state: FleetState, config: Config) -> Forecast:
    found = forecast(images, state, config)
    assert found is not None
    return found


def text(images: int, state: FleetState, config: Config) -> str:
    return " ".join(of(images, state, config).sentences())


def test_a_fleet_at_rest_starts_workers(config: Config) -> None:
    assert text(240, state(), config) == (
        "No worker runs now. About 5 will start (the limit). First results in about 40 s, all within 65 s. "
        "These images cost about $0.054."
    )


def test_workers_that_run_begin_at_once_and_cost_what_the_batch_adds(config: Config) -> None:
    found = of(100, state(ready(1), ready(2)), config)
    assert (found.workers, found.launches, found.first_seconds, found.last_seconds) == (2, 0, 0.5, 25.0)
    assert found.bill.seconds == pytest.approx(2 * (25 + 10))  # the minimum has been billed before
    assert " ".join(found.sentences()).startswith("2 workers run now. First results in about 1 s, all within 25 s.")


def test_images_that_may_be_finished_later_wait_behind_a_batch_and_need_no_workers_at_once(config: Config) -> None:
    fleet = config.fleet.model_copy(update={"policy": "deadline"})
    planned, later = (
        config.model_copy(update={"fleet": fleet}),
        (LaterImages(by=EPOCH + timedelta(hours=8), images=400),),
    )
    alone = of(100, state(policy="deadline"), planned)
    behind = of(100, state(visible=400, later_images=later, policy="deadline"), planned)
    assert (behind.launches, behind.last_seconds) == (alone.launches, alone.last_seconds)
    urgent = of(100, state(visible=400, policy="deadline"), planned)
    assert urgent.launches > alone.launches
    both = forecast(
        100, state(visible=400, later_images=later, policy="deadline"), planned, EPOCH + timedelta(hours=8)
    )
    assert both is not None
    assert (both.launches, both.last_seconds) == (1, 290.0)


def test_one_image_has_one_result(config: Config) -> None:
    assert text(1, state(ready(1)), config).startswith("1 worker runs now. The result comes in about 1 s.")
    assert "About 1 will start" in text(1, state(), config)


def test_images_of_others_come_first_and_share_the_cost(config: Config) -> None:
    alone, behind = of(50, state(ready(1)), config), of(50, state(ready(1), visible=40, in_flight=10), config)
    assert alone.first_seconds == 0.5
    assert behind.first_seconds == pytest.approx(25.5)
    assert behind.bill.seconds == pytest.approx((50 + 10) / 2 + (60 + 10 + 10 - 70) / 2, rel=1)


def test_images_in_flight_launch_no_worker_and_come_back_if_none_holds_them(config: Config) -> None:
    config = config.model_copy(update={"fleet": config.fleet.model_copy(update={"images_per_worker": 50})})
    assert of(1, state(ready(1), in_flight=240), config).launches == 1
    # With the visibility timeout of 30 s they wait again before the worker for the batch has booted.
    behind = of(1, state(in_flight=240), config)
    assert (of(1, state(), config).launches, behind.launches) == (1, 5)
    assert behind.first_seconds == pytest.approx(30 + 40 + 240 * 0.5 / 5, rel=0.1)


def test_a_booting_worker_helps_when_its_boot_ends_and_an_overdue_one_does_not(config: Config) -> None:
    booting = ready(1, age=30.0, worker=None)
    assert of(20, state(booting), config).first_seconds == pytest.approx(10.5)
    overdue = of(20, state(ready(1, age=100.0, worker=None)), config)
    # It counts as capacity until it is given up; then another one boots.
    allowance = config.fleet.boot_allowance_seconds
    assert overdue.first_seconds == pytest.approx(allowance - 100 + 40.5, rel=0.1)


def test_launches_of_the_last_minute_count_towards_the_launch_rate(config: Config) -> None:
    limited = config.model_copy(update={"fleet": config.fleet.model_copy(update={"launches_per_minute": 5})})
    at_once, later = (of(1_000, state(recent_launches=recent), limited) for recent in (0, 5))
    assert (at_once.launches, later.launches) == (5, 5)
    assert at_once.first_seconds == pytest.approx(40.5)
    assert later.first_seconds == pytest.approx(60 + 40.5, rel=0.05)


def test_an_instance_that_is_given_up_costs_the_batch_nothing_from_then_on(config: Config) -> None:
    fleet = {"policy": "fixed", "max_workers": 2}
    config = config.model_copy(update={"fleet": config.fleet.model_copy(update=fleet)})
    overdue = state(ready(1), ready(2, age=100.0, worker=None), policy="fixed", max_workers=2)
    found = of(10_000, overdue, config)
    assert found.launches == 1, "it replaces the one that is given up"
    assert found.last_seconds is not None
    assert found.bill.seconds <= 2 * (found.last_seconds + config.worker.idle_seconds + 60)


def test_draining_and_unhealthy_workers_take_nothing(config: Config) -> None:
    for ending in (ready(1, draining=True), ready(1, marked="silent")):
        assert of(20, state(ending), config).first_seconds == pytest.approx(40.5, abs=1)


def test_a_paused_fleet_starts_none_and_says_so(config: Config) -> None:
    pause = FleetPause(since=NOW)
    assert text(9, state(pause=pause), config) == (
        "No worker runs now. The fleet is paused: the images wait until it resumes."
    )
    assert of(9, state(ready(1), pause=pause), config).launches == 0
    assert of(9, state(ready(1), pause=pause), config).last_seconds == pytest.approx(4.5)


def test_at_a_spending_cap_none_starts_and_the_forecast_says_until_when(config: Config) -> None:
    reached = FleetSpending(day=NOW.date(), today=5.0, month=5.0, launch=0.002, dollars_per_day=5.0)
    assert text(9, state(spending=reached), config) == (
        "No worker runs now. A spending cap is reached: the images wait until 00:00 UTC."
    )
    assert of(9, state(ready(1), spending=reached), config).last_seconds == pytest.approx(4.5)


def test_a_cap_that_is_near_limits_the_workers_of_a_batch(config: Config) -> None:
    launch = config.prices.launch_dollars(config.fleet.instance_types)
    near = FleetSpending(day=NOW.date(), today=5.0 - 2.5 * launch, month=5.0, launch=launch, dollars_per_day=5.0)
    assert of(1_000, state(), config).launches > 2
    assert of(1_000, state(spending=near), config).launches == 2


def test_limits_that_operators_have_just_set_hold(config: Config) -> None:
    closed = state()
    limits = LimitsOverride(min_workers=0, max_workers=0, since=NOW)
    closed = FleetState(closed.snapshot, closed.instances, closed.decisions, None, limits)
    assert text(9, closed, config).endswith("The limit is 0 workers: the images wait until it is raised.")


def test_while_workers_end_without_an_answer_no_time_is_promised(config: Config) -> None:
    assert text(9, state(circuit=FleetCircuit(state=CircuitState.OPEN, failed_runs=3)), config) == (
        "No worker runs now. No worker can work at the moment: the images wait."
    )


def test_estimates_of_the_configuration_are_called_estimates(config: Config) -> None:
    fresh = text(9, state(image_seconds=None, boot_seconds=None), config)
    assert fresh.endswith("These are estimates until the first workers have been measured.")


def test_every_sentence_is_short(config: Config) -> None:
    states = [state(), state(ready(1)), state(pause=FleetPause(since=NOW)), state(image_seconds=None)]
    for each in states:
        for sentence in of(100_000, each, config).sentences():
            assert len(sentence.split()) <= 15
            assert sentence.count("about") <= 1


@pytest.mark.parametrize(("seconds", "words"), [(3.5, "4 s"), (41.0, "45 s"), (118.0, "2 min"), (147.0, "3 min")])
def test_all_within_is_never_less_than_the_forecast(config: Config, seconds: float, words: str) -> None:
    images = round(seconds / 0.5)
    assert f"all within {words}." in text(images, state(ready(1), max_workers=1), config)


def test_nothing_is_forecast_before_the_first_report_nor_for_another_policy(config: Config) -> None:
    nothing = FleetState(None, FleetInstances(), Decisions(), None)
    assert forecast(9, nothing, config) is None
    assert forecast(9, state(policy="fixed"), config) is None


def test_the_api_and_the_page_have_the_forecast(make_app: AppMaker, store: JobStore) -> None:
    client, fleet = make_app().test_client(), FleetStore(store.table)
    assert client.get("/api/v1/forecast").status_code == 404
    assert "For example" not in client.get("/").text
    fleet.put_snapshot(FleetSnapshot.model_validate(fleet_snapshot(NOW, **MEASURED)))
    body = client.get("/api/v1/forecast?images=240").get_json()
    assert (body["images"], body["workers"], body["launches"], body["measured"]) == (240, 0, 5, True)
    assert body["last_result_seconds"] >= body["first_result_seconds"] > 40
    assert body["dollars"] > 0
    assert body["text"].startswith("No worker runs now. About 5 will start (at most 19).")
    assert "For example, 100 images: No worker runs now. About 2 will start" in client.get("/").text
    assert client.get("/api/v1/forecast?images=0").status_code == 400
