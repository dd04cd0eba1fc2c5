"""Alert rules and dashboard for Prometheus name only metrics, labels and values that there are."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml
from prometheus_client.core import Metric

from core.cost import Bill
from core.fleet.models import FleetSpending
from core.ids import new_id
from core.jobs.models import Job
from scripts.run.prometheus import ALERTS
from tests.conftest import ROOT
from tests.support.autoscaler import fleet_settings, observation
from tests.support.jobs import NOW, done, record
from tests.support.memory_aws.ec2 import EPOCH
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.autoscaler.observe import FleetMetrics
from web_tier.http.metrics import WebMetrics

DASHBOARD = ROOT / "infra" / "prometheus" / "dashboard.json"

NAME = re.compile(r"fleetsight_\w+")
MATCHERS = re.compile(r"(fleetsight_\w+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)\s*=(~?)\s*"([^"]*)"')
PROMETHEUS_OWN = {"up"}

Series = dict[str, dict[str, set[str]]]
"""The values of each label of each metric, by the name of its samples."""


def served() -> dict[str, list[Metric]]:
    """Return the metrics of a web tier and of a controller that leads, with a sample of each label."""
    web, controller = WebMetrics(), ControllerMetrics(lambda: True)
    web.count_request("GET", "/", 500, 0.1)
    web.streams.inc()
    measured = FleetMetrics(image_seconds=0.1, boot_seconds=42.0)
    spending = FleetSpending(day=EPOCH.date(), today=1, month=1, dollars_per_day=1, dollars_per_month=9)
    seen = replace(observation(3, states=("running",)), metrics=measured, spending=spending)
    controller.observe_round(seen, fleet_settings(), Bill(1, 1))
    controller.loop_failures.labels("collector")
    controller.count_results([done(record(Job(new_id(), "signs", NOW)))])
    return {"web": list(web.registry.collect()), "controller": list(controller.registry.collect())}


def series_of(metrics: dict[str, list[Metric]]) -> Series:
    found: Series = {}
    for metric in (each for of_process in metrics.values() for each in of_process):
        for sample in metric.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


SERVED = served()
SERIES = series_of(SERVED)


def alert_rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alert_rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for number, target in enumerate(panel["targets"]):
            yield f"{panel['title']} {number}", target["expr"]


EXPRESSIONS = dict(expressions())


def test_expressions_name_only_metrics_labels_and_values_that_are_served() -> None:
    for title, expression in EXPRESSIONS.items():
        names = set(NAME.findall(expression))
        assert names or PROMETHEUS_OWN & set(re.findall(r"\w+", expression)), title
        assert names <= set(SERIES), title
        for name, matchers in MATCHERS.findall(expression):
            for label, is_pattern, text in MATCHER.findall(matchers):
                for alternative in text.split("|") if is_pattern else [text]:
                    found = [value for value in SERIES[name][label] if re.fullmatch(alternative, value)]
                    assert found, (title, name, label, alternative)
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
        assert grouped <= {label for name in names for label in SERIES[name]}, title


def test_the_dashboard_shows_every_metric() -> None:
    shown = {name for expression in EXPRESSIONS.values() for name in NAME.findall(expression)}
    missing = [
        metric.name
        for of_process in SERVED.values()
        for metric in of_process
        if not any(name.startswith(metric.name) for name in shown)
    ]
    # Money is shown per hour, and seconds of instances are that money in another unit.
    assert missing == ["fleetsight_billed_seconds"]
