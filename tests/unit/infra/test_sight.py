"""Metrics and alarms of what the tiers themselves say in their logs."""

import logging
from typing import Any

import pytest
from flask import Flask

from core.config import parse_config
from core.logs import JsonFormatter
from services.sqs import QueueCounts
from tests.conftest import shipped_values
from tests.support.autoscaler import Clock, fleet_settings, instance
from tests.support.stack_template import RESOURCES, as_json, of_type, value_of
from tests.unit.infra.log_filter import matches, value_in
from web_tier.autoscaler.billing import BillingMeter
from web_tier.autoscaler.observe import Demand, Observation
from web_tier.autoscaler.reporting import METRICS_SECONDS, MetricsLogger
from web_tier.middleware import Middleware

FILTERS = of_type("Logs::MetricFilter")


def metrics_of(group: str, lines: list[str]) -> dict[str, list[float]]:
    """Return the values that the filters of a log group make of `lines`, by the metrics' names."""
    values: dict[str, list[float]] = {}
    for each in FILTERS.values():
        if each["LogGroupName"] == {"Ref": group}:
            (made,) = each["MetricTransformations"]
            found = [line for line in lines if matches(each["FilterPattern"], line)]
            values[made["MetricName"]] = [
                value_in(made["MetricValue"], each["FilterPattern"], line) for line in found
            ]
    return values


def look(workers: int, waiting: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that a controller writes which sees so many workers, of at most 19, and so many images."""
    fleet = tuple(instance(f"i-{number}") for number in range(workers))
    seen = Observation(QueueCounts(waiting, 3, 0), 0, fleet, demand=Demand(((12.34, waiting),)))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        MetricsLogger(Clock()).update(seen, fleet_settings(), BillingMeter(60, lambda _: 0.0))
        logging.getLogger("elsewhere").info("the fleet is told of by other lines too", extra={"workers": 99})
    return [JsonFormatter("controller").format(record) for record in caplog.records]


def answered(status: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that the web tier writes when it answers a request with `status`."""
    app = Flask("tier")
    Middleware(parse_config(shipped_values()).web).install(app)
    app.add_url_rule("/", view_func=lambda: ("", status))
    caplog.clear()
    with caplog.at_level(logging.INFO):
        app.test_client().get("/")
    return [JsonFormatter("web").format(record) for record in caplog.records]


def test_the_controllers_own_line_makes_the_metrics_of_the_fleet(caplog: pytest.LogCaptureFixture) -> None:
    assert metrics_of("ControllerLogs", look(2, 7, caplog)) == {
        "Workers": [2],
        "AtMaximum": [0],
        "Dollars": [0],
    }


def test_at_maximum_is_said_only_while_images_wait(caplog: pytest.LogCaptureFixture) -> None:
    assert metrics_of("ControllerLogs", look(19, 7, caplog))["AtMaximum"] == [1]
    assert metrics_of("ControllerLogs", look(19, 0, caplog))["AtMaximum"] == [0]
    assert metrics_of("ControllerLogs", look(18, 7, caplog))["AtMaximum"] == [0]


@pytest.mark.parametrize(("status", "values"), [(200, []), (404, []), (499, []), (500, [1.0]), (503, [1.0])])
def test_the_web_tiers_own_line_of_a_request_counts_its_faults(
    status: int, values: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert metrics_of("WebLogs", answered(status, caplog)) == {"WebErrors": values}


def test_a_line_of_another_form_is_no_figure() -> None:
    lines = ["GET / 500", '["fleet"]', '{"message": "fleet"}', '{"process": "web", "status": "500"}', "{"]
    found = [metrics_of(group, lines) for group in ("ControllerLogs", "WebLogs")]
    assert not any(values for metrics in found for values in metrics.values())


def named(widgets: list[list[Any]]) -> set[tuple[str, str]]:
    """Return namespace and name of each metric, where `.` repeats what the one before it has in that place."""
    found = set()
    for metrics in widgets:
        before: list[str] = ["", ""]
        for metric in metrics:
            if isinstance(metric[0], str):
                before = [old if new == "." else new for old, new in zip(before, metric, strict=False)]
                found.add((before[0], before[1]))
    return found


def test_the_metrics_are_called_by_the_prefix_and_every_alarm_and_picture_finds_its_own() -> None:
    made = {each["MetricTransformations"][0]["MetricName"] for each in FILTERS.values()}
    assert {value_of(each["MetricTransformations"][0]["MetricNamespace"]) for each in FILTERS.values()} == {
        "fleetsight"
    }
    own = [each for each in of_type("CloudWatch::Alarm").values() if each.get("Namespace") == {"Ref": "Prefix"}]
    assert len(own) == 3
    assert {each["MetricName"] for each in own} <= made
    widgets = as_json(RESOURCES["Dashboard"]["Properties"]["DashboardBody"])["widgets"]
    metrics = [each["properties"]["metrics"] for each in widgets]
    assert {name for space, name in named(metrics) if space == "fleetsight"} == made


def test_an_alarm_goes_off_when_no_controller_has_written_its_line_for_five_minutes() -> None:
    alarm = RESOURCES["NobodyControls"]["Properties"]
    assert alarm["Period"] == METRICS_SECONDS
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 300
    assert (alarm["Statistic"], alarm["ComparisonOperator"], alarm["Threshold"]) == (
        "SampleCount",
        "LessThanThreshold",
        1,
    )
    # Of a controller that is gone there is no datum at all.
    assert alarm["TreatMissingData"] == "breaching"


def test_an_alarm_goes_off_when_images_have_waited_for_15_minutes_for_workers_that_may_not_be_launched() -> None:
    alarm = RESOURCES["FleetAtMaximum"]["Properties"]
    assert alarm["Period"] * alarm["EvaluationPeriods"] == 900
    assert alarm["Period"] >= 2 * METRICS_SECONDS  # no period without a line
    assert (alarm["Statistic"], alarm["Threshold"], alarm["TreatMissingData"]) == ("Minimum", 1, "notBreaching")


def test_faults_of_the_page_are_seen_with_a_load_balancer_and_without() -> None:
    assert RESOURCES["PageFails"]["Condition"] == "HasLoadBalancer"
    assert RESOURCES["WebFails"]["Condition"] == "HasNoLoadBalancer"
