"""Cost of a job in the API and on its page: of the current billing period, of earlier ones, and if one is unknown."""

import pytest
from flask.testing import FlaskClient

from core.config import Config
from core.cost import requests_of
from core.fleet.models import BillingPeriod, FleetSnapshot
from core.fleet.store import FleetStore
from core.jobs.models import Counts, Job
from core.jobs.store import JobStore
from services.table import Table
from tests.support.jobs import NOW, add_images

CURRENT = BillingPeriod(number=2, images=4, billed_seconds=120, cost=0.004)


@pytest.fixture
def fleet(table: Table, store: JobStore) -> FleetStore:
    """Return the store of a fleet in its second billing period."""
    snapshot = FleetSnapshot(
        at=NOW, running=2, pending=0, visible=1, in_flight=0, min_workers=0, max_workers=19, peak_workers=2,
        billed_seconds=180, cost=0.006, images=5, run=CURRENT, reason="two workers, enough",
    )  # fmt: skip
    FleetStore(store.table).put_snapshot(snapshot)
    periods = FleetStore(table)
    periods.put_run(BillingPeriod(number=1, images=1, billed_seconds=60, cost=0.002, is_open=False))
    return periods


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("runs", "seconds", "dollars"),
    [
        (((2, 4),), 120, 0.004),
        (((2, 1),), 30, 0.001),
        (((1, 1), (2, 1)), 90, 0.003),
        (((3, 2),), 0, 0),
    ],
    ids=["alone", "one of four", "over two runs", "in a period that is not in the snapshot yet"],
)
def test_a_job_costs_its_share_of_the_periods_in_which_it_was_answered(
    client: FlaskClient, store: JobStore, job: Job, config: Config,
    runs: tuple[tuple[int, int], ...], seconds: float, dollars: float,
) -> None:  # fmt: skip
    images = sum(answers for _, answers in runs)
    add_images(store, job, *(f"{number}.jpg" for number in range(images)))
    store.store_counts(job.job_id, Counts(images, 0, images, NOW, NOW, runs=runs))
    cost = client.get(f"/api/v1/jobs/{job.job_id}").get_json()["cost"]
    requests = requests_of(images).dollars(config.prices)
    assert (cost["billed_seconds"], cost["instances_dollars"]) == pytest.approx((seconds, dollars))
    assert cost["requests_dollars"] == pytest.approx(requests, abs=1e-6)
    assert cost["dollars"] == pytest.approx(dollars + requests, abs=1e-6)
    assert cost["dollars_per_1000_images"] == pytest.approx((dollars + requests) / images * 1_000, abs=1e-5)
    page = client.get(f"/jobs/{job.job_id}").text
    assert f"for {seconds} instance-seconds" in page


@pytest.mark.usefixtures("fleet")
def test_the_cost_of_a_job_is_null_if_its_period_is_not_stored(
    client: FlaskClient, store: JobStore, job: Job
) -> None:
    fleet = FleetStore(store.table)
    snapshot = fleet.snapshot()
    assert snapshot is not None
    fleet.put_snapshot(snapshot.model_copy(update={"run": BillingPeriod(number=9)}))
    add_images(store, job, "a.jpg")
    store.store_counts(job.job_id, Counts(1, 0, 1, NOW, NOW, runs=((2, 1),)))
    assert client.get(f"/api/v1/jobs/{job.job_id}").get_json()["cost"] is None
    assert "instance-seconds" not in client.get(f"/jobs/{job.job_id}").text
