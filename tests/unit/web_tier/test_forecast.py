"""The forecast of a batch in words and by the API; tests/simulation compares it with a simulated fleet."""

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
from web_tier.autoscaler.forecast import ROUTE_SECONDS, Forecast, forecast

MEASURED = {"image_seconds": 0.5, "boot_seconds": 40.0}


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


def test_a_fleet_at_rest_starts_workers_and_classifies_after_their_boot(config: Config) -> None:
    found = of(240, state(), config)
    assert (found.workers, found.launches, found.seconds) == (0, 5, 40 + 240 * 0.5 / 5 + ROUTE_SECONDS)
    assert found.text == ("No workers run now, about 5 will start. All results within about 65 s, for about $0.052.")


def test_one_image_takes_the_time_of_one_however_many_workers_run(config: Config) -> None:
    assert of(1, state(ready(1), ready(2)), config).seconds == 0.5 + ROUTE_SECONDS


def test_images_that_wait_or_are_in_flight_come_first(config: Config) -> None:
    assert of(50, state(ready(1), visible=10, in_flight=10), config).seconds == pytest.approx(35.0 + ROUTE_SECONDS)


def test_images_that_may_be_finished_later_wait_behind_a_batch(config: Config) -> None:
    deadline = config.model_copy(update={"fleet": config.fleet.model_copy(update={"policy": "deadline"})})
    in_time = EPOCH + timedelta(hours=8)
    alone = of(100, state(), deadline)
    behind = of(100, state(visible=400, later_images=(LaterImages(by=in_time, images=400),)), deadline)
    assert (behind.launches, behind.seconds) == (alone.launches, alone.seconds)
    assert of(100, state(visible=400), deadline).launches > alone.launches
    then = forecast(100, state(), deadline, in_time)
    assert then is not None
    assert (then.launches, then.seconds) == (1, 90.0 + ROUTE_SECONDS)


def test_a_booting_worker_helps_when_its_boot_ends_and_an_overdue_one_does_not(config: Config) -> None:
    assert of(20, state(ready(1, age=30.0, worker=None)), config).seconds == pytest.approx(
        10 + 20 * 0.5 + ROUTE_SECONDS
    )
    assert of(20, state(ready(1, age=100.0, worker=None)), config).seconds == pytest.approx(
        40 + 20 * 0.5 + ROUTE_SECONDS
    )


def test_draining_and_unhealthy_workers_take_nothing(config: Config) -> None:
    for ending in (ready(1, draining=True), ready(1, marked="silent")):
        assert of(20, state(ending), config).seconds == pytest.approx(50.0 + ROUTE_SECONDS)


def test_workers_that_the_list_leaves_out_work(config: Config) -> None:
    many = state(ready(1), running=4)
    assert many.snapshot is not None
    listed = FleetInstances(total=4, instances=many.instances.instances)
    assert of(40, FleetState(many.snapshot, listed, Decisions(), None), config).seconds == pytest.approx(
        5.0 + ROUTE_SECONDS
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"pause": FleetPause(since=NOW)}, f"Paused by ops since {NOW:%H:%M UTC}: 9 images waiting."),
        (
            {"spending": FleetSpending(day=NOW.date(), today=5.0, month=5.0, launch=0.002, dollars_per_day=5.0)},
            "The day's spending cap is reached, no worker starts until 00:00 UTC: 9 images waiting.",
        ),
        (
            {"circuit": FleetCircuit(state=CircuitState.OPEN, failed_runs=3)},
            "Starting 1 worker every 5 s: the last 3 ended without an answer, 9 images waiting.",
        ),
        ({"max_workers": 0}, "No workers, the limit: 9 images left, 0.5 s each."),
    ],
    ids=["paused", "spending cap", "workers fail", "limit 0"],
)
def test_no_time_is_promised_while_no_worker_can_start_and_the_reason_is_said(
    config: Config, fields: dict[str, object], text: str
) -> None:
    found = of(9, state(**fields), config)  # type: ignore[arg-type]
    assert (found.workers, found.launches, found.seconds, found.dollars) == (0, 0, None, None)
    assert found.text == text
    if "max_workers" not in fields:
        assert of(9, state(ready(1), **fields), config).seconds == 4.5 + ROUTE_SECONDS  # type: ignore[arg-type]


def test_a_cap_that_is_near_limits_the_workers_of_a_batch(config: Config) -> None:
    launch = config.prices.launch_dollars(config.fleet.instance_types)
    near = FleetSpending(day=NOW.date(), today=5.0 - 2.5 * launch, month=5.0, launch=launch, dollars_per_day=5.0)
    assert of(1_000, state(), config).launches > 2
    assert of(1_000, state(spending=near), config).launches == 2


def test_limits_that_operators_have_just_set_hold(config: Config) -> None:
    limits = LimitsOverride(min_workers=0, max_workers=2, since=NOW)
    before = state()
    limited = FleetState(before.snapshot, before.instances, before.decisions, None, limits)
    assert of(1_000, limited, config).launches == 2


def test_estimates_of_the_configuration_are_called_estimates(config: Config) -> None:
    fresh = of(9, state(image_seconds=None, boot_seconds=None), config)
    assert fresh.seconds == config.fleet.boot_seconds + 9 * config.fleet.image_seconds + ROUTE_SECONDS
    assert fresh.text.endswith("These are estimates until the first workers have been measured.")


def test_the_api_and_the_page_have_the_forecast(make_app: AppMaker, store: JobStore) -> None:
    client, fleet = make_app().test_client(), FleetStore(store.table)
    assert client.get("/api/v1/forecast").status_code == 404
    assert "For example" not in client.get("/").text
    fleet.put_snapshot(fleet_snapshot(NOW, **MEASURED))
    body = client.get("/api/v1/forecast?images=240").get_json()
    assert (body["images"], body["workers"], body["launches"]) == (240, 0, 5)
    assert body["last_result_seconds"] == 64 + ROUTE_SECONDS
    assert body["dollars"] > 0
    assert body["text"].startswith("No workers run now, about 5 will start.")
    assert "For example, 100 images: No workers run now, about 2 will start" in client.get("/").text
    assert client.get("/api/v1/forecast?images=0").status_code == 400
