"""What a stack costs a month without use.

The sum contains everything that is billed for its existence, at the list prices of config.yaml: instances, disks,
public addresses, alarms, and the requests and logs of an idle controller. It does not contain users' data (images,
results) and network traffic, which cost next to nothing without use.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.table import Table

from core.config import HOURS_A_MONTH, Config
from core.cost import at_rest
from core.embedded_metrics import CONTROLLER_METRICS, WEB_METRICS
from scripts.aws.bake.spec import disk_gib

WEB_DISK_GB = 16
"""The disk of a web instance in the stack's launch template. A worker's disk is as large as its image's."""

LOG_LINE_BYTES = 1_160
"""The line that the controller logs each minute, with CloudWatch's 26 bytes for an event.

https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
"""

ALARM = "AWS::CloudWatch::Alarm"
DASHBOARD = "AWS::CloudWatch::Dashboard"
METRICS = len(CONTROLLER_METRICS) + len(WEB_METRICS)
"""Metrics that CloudWatch makes of the lines of the logs; each has one combination of dimensions."""

LOAD_BALANCER = "AWS::ElasticLoadBalancingV2::LoadBalancer"

CostRow = tuple[str, float]
"""A part of the stack, and its US dollars a month."""


@dataclass(frozen=True)
class BilledParts:
    """The parts of a stack that are billed for their existence.

    Attributes:
        zones: subnets of a load balancer, which has a public address in each.
        images_gb: upper bound of the images' snapshots: EBS bills only blocks that were written.
    """

    web_type: str
    web_instances: int = 1
    load_balancers: int = 0
    zones: int = 0
    alarms: int = 0
    dashboards: int = 0
    metrics: int = METRICS
    images_gb: float = 0.0

    @classmethod
    def from_resources(
        cls, kinds: Iterable[str], web_type: str, zones: int, images_gb: float, web_instances: int = 1
    ) -> "BilledParts":
        """Return the parts of a stack with resources of these types."""
        count = Counter(kinds)
        return cls(
            web_type,
            web_instances,
            count[LOAD_BALANCER],
            zones,
            count[ALARM],
            count[DASHBOARD],
            images_gb=images_gb,
        )


def monthly_cost(parts: BilledParts, config: Config) -> list[CostRow]:
    """Return the monthly cost of an idle stack by part, without parts that cost nothing."""
    prices, standby = config.prices, config.fleet.min_workers
    addresses = parts.web_instances + standby + parts.load_balancers * parts.zones
    disks = parts.web_instances * WEB_DISK_GB + standby * disk_gib("worker", config.worker.engine)
    web_tier = "web instance" if parts.web_instances == 1 else f"{parts.web_instances} web instances"
    worker_type = config.fleet.instance_types[0]
    workers = standby * prices.hourly(worker_type, spot=config.fleet.market == "spot")
    rows = [
        (f"{web_tier}, {parts.web_type}", parts.web_instances * prices.hourly(parts.web_type) * HOURS_A_MONTH),
        (f"{standby} workers that stand by, {worker_type}", workers * HOURS_A_MONTH),
        (f"disks, {disks} GB", disks * prices.disk_gb_month),
        (f"public addresses, {addresses}", addresses * prices.public_address_hour * HOURS_A_MONTH),
        ("load balancer", parts.load_balancers * prices.load_balancer_hour * HOURS_A_MONTH),
        (f"alarms, {parts.alarms}", parts.alarms * prices.alarm_month),
        (f"dashboards, {parts.dashboards}", parts.dashboards * prices.dashboard_month),
        (f"metrics of the logs, {parts.metrics}", parts.metrics * prices.metric_month),
        (f"snapshots of images, up to {parts.images_gb:.0f} GB", parts.images_gb * prices.snapshot_gb_month),
        ("requests of a controller at rest", at_rest(config.controller).dollars(prices) * HOURS_A_MONTH),
        ("logs of a controller at rest", HOURS_A_MONTH * 60 * LOG_LINE_BYTES / 1e9 * prices.log_gb),
    ]
    return [(name, dollars) for name, dollars in rows if dollars]


def cost_table(rows: Iterable[CostRow]) -> Table:
    """Return the rows and their sum as a table."""
    listed = list(rows)
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    shown.add_column("a month, without use", "in all, at list prices, free tier not counted")
    shown.add_column("US dollars", f"{sum(dollars for _, dollars in listed):.2f}", justify="right")
    for name, dollars in listed:
        shown.add_row(name, f"{dollars:.2f}")
    return shown
