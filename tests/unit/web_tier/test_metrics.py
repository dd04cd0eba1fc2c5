"""What web tier and controller count: with few values of labels, and nothing that a user has sent."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from core.cost import Bill
from core.fleet.models import CircuitState, FleetCircuit, FleetPause, FleetSpending, SpendingAllowance
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.messages import CANCELLED, ClassificationResult, Failure, Timings
from tests.support.api import AppMaker, upload
from tests.support.autoscaler import Clock, booting, fleet_settings, heartbeat, observation
from tests.support.jobs import UNKNOWN_ID, done, failed, picture, record
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.liveness import WorkerRegistry
from web_tier.autoscaler.metrics import MAX_STEP_SECONDS, OUTCOMES, WORKER_STATES, ControllerMetrics, worker_states
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.http.backend import Backend
from web_tier.http.metrics import OTHER, UNKNOWN_ROUTE, WebMetrics

BOUNDED_LABELS = {
    *("method", "route", "status", "reason", "outcome", "stage", "cause", "kind", "state", "period", "loop", "le"),
}


@pytest.fixture
def counted(make_app: AppMaker) -> tuple[FlaskClient, WebMetrics]:
    """A client of a web tier, and what the tier counts."""
    app = make_app()
    backend = app.extensions["fleetsight"]
    assert isinstance(backend, Backend)
    return app.test_client(), backend.metrics


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"fleetsight_{name}", labels)


def test_requests_are_counted_by_the_template_of_their_route(counted: tuple[FlaskClient, WebMetrics]) -> None:
    client, metrics = counted
    for _ in range(3):
        client.get(f"/jobs/{UNKNOWN_ID}")
    client.get("/healthz")
    of_jobs = {"method": "GET", "route": "/jobs/<job_id>", "status": "404"}
    assert value(metrics.registry, "http_requests_total", **of_jobs) == 3
    assert value(metrics.registry, "http_request_duration_seconds_count", route="/jobs/<job_id>") == 3
    assert value(metrics.registry, "http_requests_total", **(of_jobs | {"route": "/healthz", "status": "200"})) == 1


def test_nothing_that_a_client_sends_becomes_a_label(counted: tuple[FlaskClient, WebMetrics]) -> None:
    client, metrics = counted
    for number in range(5):
        client.get(f"/wp-admin-{number}.php?evil=1")
        client.open(f"/jobs/evil-{number}", method=f"EVIL{number}")
        client.post(f"/readyz/evil-{number}")
    assert value(metrics.registry, "http_requests_total", method="GET", route=UNKNOWN_ROUTE, status="404") == 5
    assert b"EVIL" not in metrics.text().upper()
    assert f'method="{OTHER}"'.encode() in metrics.text()
    assert b"wp-admin" not in metrics.text()


def test_an_upload_is_counted_with_its_bytes_and_each_rejection_with_its_reason(
    counted: tuple[FlaskClient, WebMetrics], store: JobStore, job: Job
) -> None:
    client, metrics = counted
    images = [picture(shade=shade) for shade in range(3)]
    files = [(f"{number}.jpg", data) for number, data in enumerate(images)]
    assert upload(client, job, *files, ("a.jpg", b"no image"), ("b.jpg", b"")).status_code == 200
    assert value(metrics.registry, "images_accepted_total") == 3
    assert value(metrics.registry, "images_accepted_bytes_total") == sum(map(len, images))
    assert value(metrics.registry, "images_rejected_total", reason="not_an_image") == 1
    assert value(metrics.registry, "images_rejected_total", reason="empty") == 1


def labels_of(metrics: Iterable[Metric]) -> set[str]:
    return {label for metric in metrics for sample in metric.samples for label in sample.labels}


def test_no_metric_has_a_label_with_many_values(counted: tuple[FlaskClient, WebMetrics], job: Job) -> None:
    client, metrics = counted
    client.get("/healthz")
    spending = FleetSpending(day=EPOCH.date(), today=1, month=1, dollars_per_day=1, dollars_per_month=9)
    controller = leading_controller(replace(observation(3, 1, states=("running",)), spending=spending))
    controller.loop_failures.labels("collector")
    controller.count_results([result(job)])
    found = labels_of(metrics.registry.collect()) | labels_of(controller.registry.collect())
    assert found == BOUNDED_LABELS


# The controller


def leading_controller(seen: Observation, registry: WorkerRegistry | None = None) -> ControllerMetrics:
    """Return the metrics of a controller that holds the lease and has seen this round."""
    metrics = ControllerMetrics(lambda: True, Clock())
    metrics.fleet.begin((registry or WorkerRegistry()).statuses)
    metrics.observe_round(seen, fleet_settings(max_workers=7), Bill(3_600, 0.5))
    return metrics


def result(job: Job, **changes: object) -> ClassificationResult:
    return done(record(job)).model_copy(update=changes)


def test_results_are_counted_by_outcome_and_stages_of_those_with_a_label(job: Job) -> None:
    metrics = ControllerMetrics()
    timings = Timings(queued=61_000, fetched=2, decoded=4, inferred=8.5, stored=3)
    cancelled = failed(record(job)).model_copy(update={"error": CANCELLED})
    broken = failed(record(job)).model_copy(update={"timings": timings, "error": Failure(code="x", message="y")})
    metrics.count_results([result(job, timings=timings), result(job, timings=Timings()), broken, cancelled])
    outcomes = {each: value(metrics.registry, "image_results_total", outcome=each) for each in OUTCOMES}
    assert outcomes == {"done": 2, "failed": 1, "cancelled": 1}
    name = "image_stage_duration_seconds"
    for stage, seconds in {"queued": 61, "fetched": 0.002, "inferred": 0.0085}.items():
        assert value(metrics.registry, f"{name}_count", stage=stage) == 1
        assert value(metrics.registry, f"{name}_sum", stage=stage) == pytest.approx(seconds)
    assert value(metrics.registry, f"{name}_bucket", stage="queued", le="60.0") == 0
    assert value(metrics.registry, f"{name}_bucket", stage="queued", le="120.0") == 1


BOOTING = FleetMetrics(unregistered=booting("i-0", "c-0"))


def test_waiting_adds_up_over_rounds_and_not_over_a_pause_of_the_loop() -> None:
    clock = Clock()
    metrics = ControllerMetrics(lambda: True, clock)
    seen = replace(observation(4, states=("running",) * 3, launching=1), metrics=BOOTING)
    for step in (0.0, 1.0, 0.5, 1_000.0):
        clock.now += step
        metrics.observe_round(seen, fleet_settings(), Bill())
    waited = 4 * (1.5 + MAX_STEP_SECONDS) / 2
    assert value(metrics.registry, "image_waiting_seconds_total", cause="boot") == waited
    assert value(metrics.registry, "image_waiting_seconds_total", cause="busy") == waited


def test_each_worker_has_one_state() -> None:
    registry = WorkerRegistry()
    registry.record([heartbeat("i-0", state="ready"), heartbeat("i-2", state="draining")])
    registry.record([heartbeat(f"i-{number}", state="busy") for number in (1, 3, 4)])
    seen = replace(
        observation(1, states=("running",) * 6 + ("stopped",), launching=1),
        draining=frozenset({"i-3"}),
        unhealthy=frozenset({"i-4"}),
        metrics=FleetMetrics(unregistered=booting("i-5", "c-0")),
    )
    states = worker_states(seen, registry.statuses())
    assert states == {"ready": 1, "busy": 1, "draining": 2, "unhealthy": 1, "booting": 2, "stopped": 1}
    assert set(states) == set(WORKER_STATES)


def test_the_state_of_the_fleet_is_that_of_the_last_round() -> None:
    registry = WorkerRegistry()
    registry.record([heartbeat("i-0", state="busy", in_hand=3), heartbeat("gone", state="busy", in_hand=9)])
    pause = FleetPause(since=EPOCH, reason="")
    seen = replace(
        observation(5, 2, 1, states=("running",)), dead_letters=4, demand=Demand(((31.5, 6),)), pause=pause,
        metrics=FleetMetrics(boot_seconds=42.0, circuit=FleetCircuit(state=CircuitState.OPEN, failed_runs=3)),
    )  # fmt: skip
    metrics = leading_controller(seen, registry).registry
    assert {state: value(metrics, "queue_images", state=state) for state in ("visible", "in_flight", "delayed")} == {
        "visible": 5, "in_flight": 2, "delayed": 1,
    }  # fmt: skip
    expected = {
        "queue_oldest_age_seconds": 31.5,
        "dead_letters": 4,
        "fleet_paused": 1,
        "circuit_open": 1,
        "workers_max": 7,
        "worker_images_in_flight": 3,
        "worker_boot_seconds": 42.0,
        "worker_image_seconds": None,
        "cost_dollars_total": 0.5,
        "billed_seconds_total": 3_600,
        "controller_leader": 1,
    }
    assert {name: value(metrics, name) for name in expected} == expected


def test_each_spending_cap_has_its_dollars_their_use_and_whether_it_stops_launches() -> None:
    allowance = SpendingAllowance(day=EPOCH.date(), dollars=0.5, since=EPOCH)
    spending = FleetSpending(
        day=EPOCH.date(), today=1.25, month=7.0, committed=0.25, launch=0.006, dollars_per_day=1.0,
        dollars_per_month=8.0, allowance=allowance,
    )  # fmt: skip
    names = ("spending_cap_dollars", "spending_used_dollars", "spending_cap_reached")

    def shown(seen: FleetSpending | None) -> dict[str, list[float | None]]:
        registry = leading_controller(replace(observation(5), spending=seen)).registry
        return {period: [value(registry, name, period=period) for name in names] for period in ("day", "month")}

    assert shown(spending) == {"day": [1.5, 1.5, 1], "month": [8.5, 7.25, 0]}
    only_month = spending.model_copy(update={"dollars_per_day": None})
    assert shown(only_month) == {"day": [None] * 3, "month": [8.5, 7.25, 0]}
    assert shown(None) == {"day": [None] * 3, "month": [None] * 3}


def test_a_controller_without_the_lease_shows_no_fleet_and_a_new_tenure_no_old_one() -> None:
    held = [True]
    metrics = ControllerMetrics(lambda: held[0], Clock())
    metrics.observe_round(observation(5, states=("running",)), fleet_settings(), Bill())
    assert value(metrics.registry, "queue_images", state="visible") == 5
    held[0] = False
    assert value(metrics.registry, "controller_leader") == 0
    assert value(metrics.registry, "queue_images", state="visible") is None
    held[0] = True
    metrics.fleet.begin(WorkerRegistry().statuses)
    assert value(metrics.registry, "controller_leader") == 1
    assert value(metrics.registry, "queue_images", state="visible") is None
