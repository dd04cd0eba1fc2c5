"""The calls of the API and the metrics, as pages of the documentation site."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from core.config import load_config
from core.cost import Bill
from scripts.run.system import ROOT
from services.sqs import QueueCounts
from web_tier.app import create_app
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.autoscaler.observe import FleetMetrics, Observation
from web_tier.http.metrics import WebMetrics
from web_tier.http.openapi import api_document


def shipped_document() -> Mapping[str, Any]:
    """Return the OpenAPI document of a web tier with the shipped configuration; no service is called."""
    return api_document(create_app(load_config(ROOT / "config.yaml", environment={})))


def api_reference() -> str:
    """Return every call, by its group, with its parameters."""
    operations = [
        (operation["tags"][0], f"{method.upper()} {path}", operation)
        for path, methods in shipped_document()["paths"].items()
        for method, operation in methods.items()
    ]
    parts = list[str]()
    for tag, calls in groupby(operations, key=lambda each: each[0]):
        parts.append(f"## {tag}")
        for _, call, operation in calls:
            parts += [f"### `{call}`", f"{operation['summary']}. {operation['description']}"]
            parts.append(
                "\n".join(
                    f"- `{each['name']}` in {each['in']}: {each.get('description', '')}"
                    for each in operation["parameters"]
                    if each["in"] != "path"
                )
            )
    return "\n\n".join(parts)


@dataclass(frozen=True)
class ServedMetric:
    """A metric with its name in queries, its kind, and its labels; `process` serves it."""

    process: str
    name: str
    kind: str
    text: str
    labels: tuple[str, ...]


def served_metrics() -> Iterator[ServedMetric]:
    """Yield the metrics of a web tier, and of a controller that leads and has measured its workers."""
    settings = load_config(ROOT / "config.yaml", environment={}).fleet
    web, controller = WebMetrics(), ControllerMetrics(lambda: True)
    measured = FleetMetrics(image_seconds=1.0, boot_seconds=1.0)
    controller.observe_round(Observation(QueueCounts(0, 0, 0), 0, (), metrics=measured), settings, Bill(0, 0))
    # A metric has no sample, and so no labels, before their first values: these have no known ones.
    web.count_request("GET", "/", 200, 0.0)
    controller.loop_failures.labels("collector")
    for process, registry in (("web", web.registry), ("controller", controller.registry)):
        for each in registry.collect():
            # Queries name the samples of a counter, and the whole of a histogram.
            name = f"{each.name}_total" if each.type == "counter" else each.name
            labels = dict.fromkeys(label for sample in each.samples for label in sample.labels if label != "le")
            yield ServedMetric(process, name, each.type, each.documentation, tuple(labels))


def metrics_reference() -> str:
    """Return every metric with its labels."""
    rows = ["| Metric | Of | Kind | Labels | Meaning |", "|---|---|---|---|---|"]
    for each in served_metrics():
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `{each.name}` | {each.process} | {each.kind} | {labels} | {each.text} |")
    return "\n".join(rows)
