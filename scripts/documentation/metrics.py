"""The reference of the metrics: what the web tier and the controller serve for Prometheus."""

from dataclasses import dataclass

from prometheus_client.core import Metric

from core.config import load_config
from core.cost import Bill
from scripts.documentation.markup import code, prose, table
from scripts.run.system import ROOT
from services.sqs import QueueCounts
from web_tier.autoscaler.metrics import OUTCOMES, ControllerMetrics
from web_tier.autoscaler.observe import FleetMetrics, Observation
from web_tier.http.metrics import WebMetrics

OPEN_LABELS = frozenset({"digest", "loop", "method", "model", "route", "status"})
"""Labels with values that are not known in advance."""


@dataclass(frozen=True)
class ServedMetric:
    """A metric with its name in queries, the processes that serve it, and the known values of each label."""

    name: str
    kind: str
    text: str
    processes: tuple[str, ...]
    labels: dict[str, list[str]]


def served_metrics() -> list[ServedMetric]:
    """Return the metrics of a web tier, and of a controller that leads and has measured its workers."""
    settings = load_config(ROOT / "config.yaml", environment={}).fleet
    web, controller = WebMetrics(), ControllerMetrics(lambda: True)
    measured = FleetMetrics(image_seconds=1.0, boot_seconds=1.0)
    controller.observe_round(Observation(QueueCounts(0, 0, 0), 0, (), metrics=measured), settings, Bill(0, 0))
    # Metrics have no sample before the first value of a label: these are the labels that have no known values.
    web.count_request("GET", "/", 200, 0.0)
    controller.loop_failures.labels("collector")
    for outcome in OUTCOMES:
        controller.model_results.labels("demo", "0123", outcome)
    found: dict[str, ServedMetric] = {}
    for process, metrics in (("web", web.registry.collect()), ("controller", controller.registry.collect())):
        for metric in metrics:
            served = _served(metric, process)
            if known := found.get(served.name):
                served = ServedMetric(
                    served.name, served.kind, served.text, (*known.processes, process), served.labels
                )
            found[served.name] = served
    return list(found.values())


def _served(metric: Metric, process: str) -> ServedMetric:
    if not metric.samples:
        raise ValueError(f"{metric.name} has no sample, so its labels are not known: add one in served_metrics")
    labels: dict[str, list[str]] = {}
    for sample in metric.samples:
        for label, value in sample.labels.items():
            if label != "le":
                values = labels.setdefault(label, [])
                if label not in OPEN_LABELS and value not in values:
                    values.append(value)
    # Queries name the samples of a counter, and the whole of a histogram.
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    return ServedMetric(name, metric.type, metric.documentation, (process,), labels)


def metrics_reference() -> str:
    """Return every metric with its labels and their values."""
    return table(
        ("Metric", "Of", "Meaning"),
        ((code(each.name), "<br>".join(each.processes), _meaning(each)) for each in served_metrics()),
    )


def _meaning(metric: ServedMetric) -> str:
    labels = [
        f"{code(name)} ({', '.join(map(code, values))})" if values else code(name)
        for name, values in metric.labels.items()
    ]
    return f"{prose(metric.text)} {' by '.join(filter(None, [metric.kind.capitalize(), ', '.join(labels)]))}."
