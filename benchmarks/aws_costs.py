"""What Fleetsight costs on AWS, by the prices of config.yaml: a month at rest, and 1,000 images.

Nothing is measured here. What a worker does in a second is a figure of docs/measurements.md; what is billed beside it
follows from the policy, EC2's billed minimum, and the requests that the tiers make (`core.cost`). The tables of
docs/aws-costs.md are these.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report import Report
from core.config import Config
from core.cost import SECONDS_AN_HOUR, requests_of
from scripts.aws.deploy.idle_cost import BilledParts, monthly_cost
from scripts.aws.deploy.settings import load_template, validated_config
from services.cloudformation import parse_template
from services.sqs import QueueCounts
from web_tier.autoscaler.observe import Demand, FleetMetrics, Observation
from web_tier.autoscaler.policies import POLICIES

IMAGES_A_SECOND = 90.0
"""Of a worker on two cores with ResNet-18 and photos of 100 KB: twice what one core did, in docs/measurements.md."""

IMAGES_GB = 16
"""Two images of 8 GB, at most: snapshots hold only blocks that were written."""

REQUEST_LINE_BYTES = 350
"""Of the web tier's line in the log for a request, and CloudWatch's 26 bytes for an event."""

ZONES = 2
BATCHES = (100, 1_000, 10_000)
"""Images that are uploaded at once, to a fleet that stands at nothing."""

WITHOUT, WITH = {"HasNoLoadBalancer"}, {"HasLoadBalancer", "HasName"}
"""Conditions of the template that hold without and with a load balancer, all else being as it is by default."""


@dataclass(frozen=True, slots=True)
class ThousandImages:
    """What 1,000 images cost, in US dollars.

    Attributes:
        what: how they come.
        on_demand, spot: instances, on either market.
        requests: to S3, SQS and DynamoDB.
    """

    what: str
    on_demand: float
    spot: float
    requests: float


def idle_month(config: Config, conditions: set[str]) -> list[tuple[str, float]]:
    """Return what a stack costs a month at rest, part by part, where these conditions of the template hold."""
    resources: dict[str, Any] = parse_template(load_template().body)["Resources"]
    made = [each for each in resources.values() if each.get("Condition") in {None, *conditions}]
    web_type = str(load_template().parameters["WebInstanceType"].default)
    return monthly_cost(
        BilledParts.from_resources([each["Type"] for each in made], web_type, ZONES, IMAGES_GB), config
    )


def thousand_images(config: Config) -> Iterator[ThousandImages]:
    """Yield what 1,000 images cost: of batches to a fleet at nothing, and of a stream that keeps workers busy."""
    for images in BATCHES:
        seconds = batch_seconds(config, images) / images * 1_000
        yield _thousand(config, f"{images:,} at once, from nothing", seconds, images)
    yield _thousand(config, "a stream that keeps its workers busy", 1_000 / IMAGES_A_SECOND, BATCHES[-1])


def batch_seconds(config: Config, images: int) -> float:
    """Return the instance-seconds that EC2 bills for a batch by the policy of the stack.

    ``n · max(60, boot + idle + N · S / n)`` for n workers and N images of S seconds.
    """
    fleet = config.fleet
    waits = QueueCounts(images, 0, 0)
    demand = Demand(waiting=((0.0, images),))
    metrics = FleetMetrics(image_seconds=1 / IMAGES_A_SECOND)
    seen = Observation(waits, dead_letters=0, instances=(), demand=demand, metrics=metrics)
    workers = min(fleet.max_workers, POLICIES[fleet.policy](seen, fleet).minimum)
    busy = images / IMAGES_A_SECOND / workers
    return workers * max(config.prices.minimum_billed_seconds, fleet.boot_seconds + config.worker.idle_seconds + busy)


def _thousand(config: Config, what: str, seconds: float, images: int) -> ThousandImages:
    kind, prices = config.fleet.instance_types[0], config.prices
    on_demand, spot = (seconds / SECONDS_AN_HOUR * prices.hourly(kind, spot=market) for market in (False, True))
    return ThousandImages(what, on_demand, spot, requests_of(images).dollars(prices) / images * 1_000)


def idle_table(config: Config) -> str:
    """Return what a month at rest costs as a table in Markdown."""
    plain, balanced = dict(idle_month(config, WITHOUT)), dict(idle_month(config, WITH))
    lines = [_row(name, _cents(plain.get(name)), _cents(balanced.get(name))) for name in (plain | balanced)]
    both = _row("**in all**", f"**{_cents(sum(plain.values()))}**", f"**{_cents(sum(balanced.values()))}**")
    return _table(("US dollars a month at rest", "plain", "with a load balancer"), [*lines, both])


def thousand_table(config: Config) -> str:
    """Return what 1,000 images cost as a table in Markdown."""
    lines = [
        _row(
            each.what,
            *(f"{dollars:.4f}" for dollars in (each.on_demand, each.spot, each.requests)),
            *(f"**{market + each.requests:.4f}**" for market in (each.on_demand, each.spot)),
        )
        for each in thousand_images(config)
    ]
    headings = ("US dollars for 1,000 images", "instances on demand", "on Spot", "requests")
    return _table((*headings, "in all, on demand", "in all, on Spot"), lines)


def run(_quick: bool) -> Report:
    """Print both tables, and hand back their figures."""
    config = validated_config({})
    print(f"{idle_table(config)}\n\n{thousand_table(config)}\n")
    figures = {f"at rest, {name}, $/month": dollars for name, dollars in idle_month(config, WITHOUT)}
    figures["logs of a million requests, $"] = 1e6 * REQUEST_LINE_BYTES / 1e9 * config.prices.log_gb
    for each in thousand_images(config):
        figures[f"{each.what}, on demand, $/1,000"] = each.on_demand + each.requests
        figures[f"{each.what}, Spot, $/1,000"] = each.spot + each.requests
    return Report("aws_costs", figures)


def _cents(dollars: float | None) -> str:
    return "" if dollars is None else f"{dollars:.2f}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _table(headings: Sequence[str], rows: Sequence[str]) -> str:
    return "\n".join([_row(*headings), f"|{'---|' * len(headings)}", *rows])
