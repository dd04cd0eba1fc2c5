"""Metrics of CloudWatch in lines of the logs, in the embedded metric format.

CloudWatch Logs extracts them from the lines that the agent sends with PutLogEvents, without a metric filter:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Generation.html

A metric is a field of the line, and has its name. Its one dimension is `process`, which each line has. Each costs
`prices.metric_month`; so what CloudWatch knows from SQS, such as the length of a queue, is not among them.
"""

from collections.abc import Mapping
from typing import Final

from services.clock import epoch_seconds

CONTROLLER_METRICS: Final[Mapping[str, str]] = {
    "workers": "Count",
    "at_maximum": "None",
    "circuit_open": "None",
    "capped": "None",
    "cap_percent": "Percent",
    "dollars": "None",
    "images_done": "Count",
    "images_failed": "Count",
    "waiting_seconds": "Seconds",
    "boot_waiting_seconds": "Seconds",
    "repairs": "Count",
    "refused_launches": "Count",
}
"""Those of the line that the controller writes each minute, with CloudWatch's unit."""

WEB_METRICS: Final[Mapping[str, str]] = {"web_errors": "Count"}
"""Those of the line that the web tier writes about a 5xx response."""


def embedded_metrics(namespace: str | None, units: Mapping[str, str]) -> dict[str, object]:
    """Return the field of a line that makes metrics of other fields.

    Args:
        namespace: of the metrics; None for a line without metrics.
        units: CloudWatch's unit of each field that is a metric, by its name.
    """
    if namespace is None:
        return {}
    directive = {
        "Namespace": namespace,
        "Dimensions": [["process"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
    return {"_aws": {"Timestamp": int(epoch_seconds() * 1000), "CloudWatchMetrics": [directive]}}
